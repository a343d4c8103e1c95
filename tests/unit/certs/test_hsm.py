"""certs.hsm and certs.hsm_key, on a real SoftHSM2."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding
from pkcs11 import exceptions as p11

from certs import keys, pending
from certs.address import parse_address
from certs.errors import DirectError, Reason
from certs.hsm import Token
from certs.hsm_key import TokenKey
from certs.identity import Identity
from certs.issue import KeyKind, Validity, end_entity_certificate
from certs.ports import Database
from certs.requests import read_request, request_by
from certs.stored_keys import StoredKeys
from gateway import smime
from tests.helpers.pki import NOW, YEAR, Ca, private_key_of
from tests.helpers.softhsm import MODULE, PIN, SoftHsm, softhsm
from tests.helpers.stranger import mail

JONES = parse_address("drjones@direct.example.org")
ROOT = Ca.create("Root")
SHA1, SHA256 = hashes.SHA1(), hashes.SHA256()


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    with softhsm(tmp_path_factory.mktemp("softhsm")) as made:
        yield made


@pytest.fixture(scope="module")
def token(hsm: SoftHsm) -> Iterator[Token]:
    opened = Token(module=str(MODULE), label=hsm.label, pin=PIN)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def rsa_key(token: Token) -> TokenKey:
    return token.generate(KeyKind.RSA_2048, "rsa")


@pytest.fixture(scope="module")
def ec_key(token: Token) -> TokenKey:
    return token.generate(KeyKind.P256, "ec")


def public_rsa(key: TokenKey) -> rsa.RSAPublicKey:
    public = key.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    return public


def public_ec(key: TokenKey) -> ec.EllipticCurvePublicKey:
    public = key.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    return public


def oaep(digest: hashes.HashAlgorithm) -> padding.OAEP:
    return padding.OAEP(padding.MGF1(digest), digest, None)


@pytest.mark.parametrize("digest", [SHA256, hashes.SHA384(), hashes.SHA512()], ids=lambda d: d.name)
def test_signatures_verify(
    rsa_key: TokenKey, ec_key: TokenKey, digest: hashes.HashAlgorithm
) -> None:
    public = public_rsa(rsa_key)
    public.verify(rsa_key.sign(b"m", digest), b"m", padding.PKCS1v15(), digest)
    pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
    public.verify(rsa_key.sign(b"m", digest, pss=True), b"m", pss, digest)
    public_ec(ec_key).verify(ec_key.sign(b"m", digest), b"m", ec.ECDSA(digest))


@pytest.mark.parametrize(
    "scheme",
    [None, oaep(SHA1), oaep(SHA256), oaep(hashes.SHA512())],
    ids=["pkcs1", "oaep-sha1", "oaep-sha256", "oaep-sha512"],
)
def test_what_is_encrypted_to_it_unwraps(rsa_key: TokenKey, scheme: padding.OAEP | None) -> None:
    encrypted = public_rsa(rsa_key).encrypt(b"k" * 32, scheme or padding.PKCS1v15())
    assert rsa_key.unwrap(encrypted, scheme) == b"k" * 32


def test_token_that_keeps_raw_blocks_to_itself_does_oaep(rsa_key: TokenKey) -> None:
    native = TokenKey(rsa_key._use, rsa_key.public_key(), raw=False)
    encrypted = public_rsa(rsa_key).encrypt(b"k" * 32, oaep(SHA1))
    assert native.unwrap(encrypted, oaep(SHA1)) == b"k" * 32


@pytest.mark.parametrize("scheme", [None, oaep(SHA256)], ids=["pkcs1", "oaep"])
@pytest.mark.parametrize(
    "encrypted", [b"", b"\0" * 256, b"\1" * 256, b"\xff" * 256, b"\1" * 128], ids=len
)
def test_what_does_not_unwrap_is_a_value_error_as_in_memory(
    rsa_key: TokenKey, encrypted: bytes, scheme: padding.OAEP | None
) -> None:
    with pytest.raises(ValueError, match=r"error|modulus"):
        rsa_key.unwrap(encrypted, scheme)


def test_shared_secret_is_that_of_the_other_side(ec_key: TokenKey) -> None:
    ephemeral = ec.generate_private_key(ec.SECP256R1())
    ours = ec_key.derive(ephemeral.public_key())
    assert ours == ephemeral.exchange(ec.ECDH(), public_ec(ec_key))


def test_use_that_does_not_fit_the_key_is_a_value_error(
    rsa_key: TokenKey, ec_key: TokenKey
) -> None:
    for other in (
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        x25519.X25519PrivateKey.generate().public_key(),
    ):
        with pytest.raises(ValueError, match="different"):
            ec_key.derive(other)
    with pytest.raises(ValueError, match="different"):
        rsa_key.derive(ec.generate_private_key(ec.SECP256R1()).public_key())
    with pytest.raises(ValueError, match="RSA"):
        ec_key.unwrap(b"\1" * 256, None)


def test_many_threads_take_turns(rsa_key: TokenKey) -> None:
    with ThreadPoolExecutor(8) as pool:
        signatures = list(pool.map(lambda n: (n, rsa_key.sign(b"%d" % n, SHA256)), range(40)))
    for number, signature in signatures:
        public_rsa(rsa_key).verify(signature, b"%d" % number, padding.PKCS1v15(), SHA256)


def test_secret_is_sealed_and_opened_by_the_token_only(token: Token) -> None:
    sealed = token.seal(b"secret", "kek")
    assert b"secret" not in sealed
    assert token.unseal(sealed, "kek") == b"secret"
    for wrong, label in ((sealed[:-1] + bytes([sealed[-1] ^ 1]), "kek"), (sealed, "no-kek")):
        with pytest.raises(DirectError) as caught:
            token.unseal(wrong, label)
        assert caught.value.reason is Reason.CONFIGURATION_INVALID


def test_label_is_taken_once_and_free_again_after_removal(token: Token) -> None:
    token.generate(KeyKind.P384, "brief")
    with pytest.raises(DirectError, match="already"):
        token.generate(KeyKind.P256, "brief")
    token.remove("brief")
    with pytest.raises(DirectError, match="no such key"):
        token.key("brief")
    with pytest.raises(DirectError, match="ed25519"):
        token.generate(KeyKind.ED25519, "brief")


# python-pkcs11 closes its search in a destructor, in which the lost session is noticed once more.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_session_that_is_gone_is_opened_again(token: Token, rsa_key: TokenKey) -> None:
    token._session.close()
    assert rsa_key.sign(b"m", SHA256)


def test_token_that_is_away_makes_the_message_wait(hsm: SoftHsm) -> None:
    elsewhere = Token(module=str(MODULE), label="elsewhere", pin=PIN)
    with pytest.raises(DirectError) as caught:
        elsewhere.key("rsa")
    assert caught.value.reason.retryable
    elsewhere.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param(p11.GeneralError(), ValueError, id="general-error"),
        pytest.param(p11.EncryptedDataInvalid(), ValueError, id="bad-padding"),
        pytest.param(p11.FunctionFailed(), ValueError, id="function-failed"),
        pytest.param(DirectError(Reason.INTERNAL, "away"), DirectError, id="away"),
    ],
)
def test_only_a_token_that_is_away_is_told_apart_from_a_bad_message(
    rsa_key: TokenKey, fault: Exception, reason: type[Exception]
) -> None:
    def fails(work: Callable[[Any], bytes]) -> bytes:
        raise fault

    broken = TokenKey(fails, rsa_key.public_key())
    with pytest.raises(reason):
        broken.unwrap(b"\1" * 256, None)
    with pytest.raises(DirectError) as caught:
        broken.sign(b"m", SHA256)
    assert caught.value.reason.retryable


@pytest.mark.parametrize("name", ["rsa_key", "ec_key"])
def test_message_is_sealed_and_opened_by_a_key_in_the_token(
    name: str, request: pytest.FixtureRequest
) -> None:
    """The whole of CMS on a token key: what it signs verifies, what is encrypted to it opens."""
    key: TokenKey = request.getfixturevalue(name)
    certificate = end_entity_certificate(
        key.public_key(), JONES, issuer=ROOT.issuer, validity=Validity(NOW - YEAR, NOW + YEAR)
    )
    identity = Identity(certificate, (), key)
    message = mail(str(JONES), str(JONES), NOW)
    sealed, opened = BytesIO(), BytesIO()
    smime.seal(
        BytesIO(message),
        sealed,
        outer=b"MIME-Version: 1.0\r\n",
        signers=[identity],
        recipients=[certificate],
        boundary="b-1",
        now=NOW,
    )
    sealed.seek(0)
    unsealed = smime.unseal(sealed, opened, identities=[identity])
    assert unsealed.signers[0].certificate == certificate
    assert opened.getvalue() == message


@pytest.mark.parametrize("name", ["rsa_key", "ec_key"])
def test_request_for_a_key_in_the_token_is_signed_by_it(
    name: str, request: pytest.FixtureRequest
) -> None:
    key: TokenKey = request.getfixturevalue(name)
    made = request_by(lambda data: key.sign(data, SHA256), key.public_key(), JONES)
    assert made.is_signature_valid
    public, subject = read_request(made.public_bytes(Encoding.PEM))
    assert (public, subject) == (key.public_key(), JONES)


async def test_identity_in_the_token_signs_and_opens_beside_one_in_memory(
    sqlite_database: Database, token: Token, rsa_key: TokenKey
) -> None:
    software = ROOT.issue(address=str(JONES))
    certificate = end_entity_certificate(
        rsa_key.public_key(), JONES, issuer=ROOT.issuer, validity=Validity(NOW - YEAR, NOW + YEAR)
    )
    kek = os.urandom(32)

    def work(c: Any) -> None:
        pending.add_pending_in_token(c, "rsa", rsa_key.public_key(), subject=JONES, now=NOW)
        held = pending.take_pending(c, certificate)
        keys.keep(c, held, certificate, (), subject=JONES, now=NOW)
        bundle = keys.KeyBundle(private_key_of(software), software.certificate, ())
        keys.add(c, bundle, subject=JONES, kek=kek, now=NOW)

    await sqlite_database.write(work)
    stored = StoredKeys(database=sqlite_database, keks=lambda: [kek], token_key=token.key)
    found = await stored.signing(JONES, NOW)
    assert {identity.certificate for identity in found} == {certificate, software.certificate}
    for identity in found:
        assert identity.key.sign(b"m", SHA256)
    sha256 = next(
        own.sha256 for own in await sqlite_database.read(keys.list_identities) if own.token_label
    )
    with pytest.raises(DirectError, match="stays there"):
        await sqlite_database.read(lambda c: keys.export(c, sha256, keks=[kek]))
    without = StoredKeys(database=sqlite_database, keks=lambda: [kek])
    with pytest.raises(DirectError, match="none is configured"):
        await without.signing(JONES, NOW)
