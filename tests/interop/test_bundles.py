"""Trust bundles of OpenSSL and Bouncy Castle are read and judged; they read and verify ours."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509

from certs.identity import Identity
from gateway.clock import utc_now
from tests.helpers.pki import Ca, pem, private_key_of
from trust_bundles.bundle import Form, read_bundle
from trust_bundles.bundle_writer import write_p7b, write_p7m
from trust_bundles.signature import verify

JAVA = Path(__file__).parent / "java" / "Bundles.java"
JARS = ":".join(f"/usr/share/java/{jar}.jar" for jar in ("bcprov", "bcpkix", "bcutil"))
NOW = utc_now()  # which OpenSSL and Bouncy Castle take as the signing time
YEAR = timedelta(days=365)


def ca(name: str, parent: Ca | None = None, key: str = "p256") -> Ca:
    return Ca.create(name, parent=parent, key=key, not_before=NOW - YEAR, not_after=NOW + YEAR)


PUBLISHER = ca("Bundle publisher", ca("Publisher's root"))
ANCHORS = (ca("Anchor one").certificate, ca("Anchor two", key="rsa2048").certificate)


@cache
def signer(kind: str) -> Identity:
    return PUBLISHER.issue(
        domain="bundles.example.org",
        key=kind,
        not_before=NOW - YEAR,
        not_after=NOW + YEAR,
        label=f"bundle signer {kind}",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bundles")
    (made / "anchors.pem").write_bytes(b"".join(map(pem, ANCHORS)))
    for kind in ("p256", "rsa2048"):
        one = signer(kind)
        (made / f"{kind}.pem").write_bytes(pem(one.certificate))
        (made / f"{kind}.key").write_bytes(pem(private_key_of(one)))
    (made / "chain.pem").write_bytes(b"".join(map(pem, PUBLISHER.chain)))
    (made / "ca.pem").write_bytes(pem(PUBLISHER.certificate))
    (made / "ours.p7b").write_bytes(write_p7b(ANCHORS, "<bundle/>"))
    return made


def openssl(*arguments: object, stdin: bytes = b"") -> bytes:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], input=stdin, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def java(*arguments: object) -> str:
    done = subprocess.run(
        ["java", "-cp", JARS, str(JAVA), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def anchors_of(data: bytes, form: Form, *, signed_by: str | None = None) -> set[x509.Certificate]:
    """Read a bundle as a refresh does, its signers' CA configured where it is signed."""
    bundle = read_bundle(data, now=NOW)
    assert bundle.form is form
    configured = [PUBLISHER.certificate] if signed_by else []
    signature = verify(bundle.envelope, configured, now=NOW + timedelta(minutes=5))
    if signed_by is not None:
        assert signature is not None
        assert signature.signer == signer(signed_by).certificate
        assert signature.signed_at is not None
        assert abs(signature.signed_at - NOW) < timedelta(minutes=10)
    return set(bundle.anchors)


@pytest.mark.parametrize("encoding", ["DER", "PEM"])
def test_openssl_crl2pkcs7_is_read(folder: Path, encoding: str) -> None:
    arguments = ("-nocrl", "-certfile", folder / "anchors.pem", "-outform", encoding)
    assert anchors_of(openssl("crl2pkcs7", *arguments), Form.P7B) == set(ANCHORS)


@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("-outform", "DER"), id="der"),
        pytest.param(("-outform", "DER", "-stream"), id="ber"),
        pytest.param(("-outform", "DER", "-keyid"), id="key-identifier"),
        pytest.param(("-outform", "PEM"), id="pem"),
        pytest.param(("-outform", "DER", "-certfile"), id="with-chain"),
    ],
)
def test_openssl_cms_sign_is_read_and_verified(
    folder: Path, kind: str, options: tuple[str, ...]
) -> None:
    if options[-1] == "-certfile":
        options = (*options, str(folder / "chain.pem"))
    plain = openssl("crl2pkcs7", "-nocrl", "-certfile", folder / "anchors.pem", "-outform", "DER")
    data = openssl(
        "cms", "-sign", "-binary", "-nodetach", "-signer", folder / f"{kind}.pem", "-inkey",
        folder / f"{kind}.key", *options, stdin=plain,
    )  # fmt: skip
    assert anchors_of(data, Form.P7M, signed_by=kind) == set(ANCHORS)


def test_openssl_reads_ours(folder: Path) -> None:
    printed = openssl("pkcs7", "-inform", "DER", "-in", folder / "ours.p7b", "-print_certs")
    assert set(x509.load_pem_x509_certificates(printed)) == set(ANCHORS)


@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
def test_openssl_verifies_and_opens_ours(folder: Path, kind: str) -> None:
    data = write_p7m(ANCHORS, signer(kind), now=NOW)
    verifying = ("-verify", "-binary", "-inform", "DER", "-purpose", "any", "-partial_chain")
    inner = openssl("cms", *verifying, "-CAfile", folder / "ca.pem", stdin=data)
    printed = openssl("pkcs7", "-inform", "DER", "-print_certs", stdin=inner)
    assert set(x509.load_pem_x509_certificates(printed)) == set(ANCHORS)


@pytest.fixture(scope="module")
def bouncy(folder: Path) -> Path:
    java("make", folder, folder / "anchors.pem", folder / "rsa2048.pem", folder / "rsa2048.key")
    return folder


@pytest.mark.parametrize(
    ("name", "form", "signed_by"),
    [
        ("plain.p7b", Form.P7B, None),
        ("described.p7b", Form.P7B, None),
        ("signed-ber.p7m", Form.P7M, "rsa2048"),
        ("signed-der.p7m", Form.P7M, "rsa2048"),
    ],
)
def test_bouncy_castles_is_read_and_verified(
    bouncy: Path, name: str, form: Form, signed_by: str | None
) -> None:
    data = (bouncy / name).read_bytes()
    assert anchors_of(data, form, signed_by=signed_by) == set(ANCHORS)
    if name == "described.p7b":
        assert read_bundle(data, now=NOW).metadata == "<bundle/>"


def test_bouncy_castle_reads_and_verifies_ours(folder: Path) -> None:
    (folder / "ours.p7m").write_bytes(write_p7m(ANCHORS, signer("p256"), now=NOW))
    serials = {str(cert.serial_number) for cert in ANCHORS}
    for name in ("ours.p7b", "ours.p7m"):
        assert set(java("read", folder / name).split()) == serials
