"""Every cell of docs/interop.md, run against the real peer."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from certs.cms.algorithms import ContentEncryption, Digest, KeyTransport
from certs.cms.names import issuer_and_serial
from certs.cms.signed import sign
from certs.identity import Identity
from gateway.seal_options import SealOptions
from tests.helpers import cms_builder as cms
from tests.helpers.pki import NOW, Ca
from tests.helpers.sealed import BOUNDARY, MESSAGE, seal, unseal
from tests.interop.matrix import DOCUMENT, ENCRYPTIONS, FOREIGN, SIGNINGS, cell, document
from tests.interop.peers import PEERS, Encryption, Peer, Signing, Workshop

ENTITY = b"Content-Type: message/rfc822\r\n\r\n" + MESSAGE
TRANSPORTS = {
    "oaep-sha256": KeyTransport.RSA_OAEP_SHA256,
    "oaep-sha1": KeyTransport.RSA_OAEP_SHA1,
    "pkcs1v15": KeyTransport.RSA_PKCS1,
}
# Some peers look at the clock: what they judge is valid for long.
LONG = datetime(2099, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def identities() -> dict[str, Identity]:
    ca = Ca.create("Interop root", not_after=LONG, key="rsa2048")
    return {
        kind: ca.issue(address=f"peer@{kind}.example", key=kind, not_after=LONG)
        for kind in ("rsa2048", "p256", "p384", "ed25519", "x25519")
    }


@pytest.fixture(scope="module", params=PEERS, ids=lambda peer: peer.name.split()[0].lower())
def peer(
    request: pytest.FixtureRequest,
    identities: dict[str, Identity],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Peer]:
    root = Ca.create("Interop root", not_after=LONG, key="rsa2048").certificate
    folder: Path = tmp_path_factory.mktemp("peer")
    made: Peer = request.param(Workshop(folder, root.public_bytes(Encoding.PEM), identities))
    yield made
    made.close()


@contextmanager
def as_the_document_says(peer: Peer, operation: str, how: Signing | Encryption) -> Iterator[None]:
    """The peer does it, or fails where the document says that it cannot."""
    reason = cell(type(peer), operation, how)
    with nullcontext() if reason is None else pytest.raises(AssertionError):
        yield


@pytest.mark.parametrize("how", SIGNINGS, ids=lambda how: how.name)
def test_the_peer_reads_our_signature(
    peer: Peer, how: Signing, identities: dict[str, Identity]
) -> None:
    digest = Digest(how.digest)
    digests = {digest: cms.digest_of(ENTITY, digest.hash)}
    signed = sign(digests, [identities[how.kind]], wanted=digest, pss=how.pss, now=NOW)
    with as_the_document_says(peer, "verify", how):
        peer.verify(signed.encoded, ENTITY, how)


@pytest.mark.parametrize("how", SIGNINGS, ids=lambda how: how.name)
def test_we_read_the_peers_signature(
    peer: Peer, how: Signing, identities: dict[str, Identity]
) -> None:
    ours = identities["rsa2048"]
    kinds = {"rsa2048": "rsa-pss" if how.pss else "rsa", "ed25519": "ed25519"}
    with as_the_document_says(peer, "sign", how):
        signature = peer.sign(ENTITY, how)
        opened = unseal(cms.sealed(cms.multipart_signed(ENTITY, signature), ours), [ours])
        assert opened.content == MESSAGE
        assert opened.unsealed.signers[0].certificate == identities[how.kind].certificate
        assert opened.unsealed.algorithms.digest == how.digest
        assert opened.unsealed.algorithms.signature == kinds.get(how.kind, "ecdsa")


@pytest.mark.parametrize("how", ENCRYPTIONS, ids=lambda how: how.name)
def test_the_peer_reads_our_envelope(
    peer: Peer, how: Encryption, identities: dict[str, Identity]
) -> None:
    options = SealOptions(
        content_encryption=ContentEncryption(how.cipher),
        key_transport=TRANSPORTS.get(how.transport, KeyTransport.RSA_PKCS1),
    )
    sealed = seal(recipients=[identities[how.kind].certificate], options=options)
    line = b"--" + BOUNDARY.encode() + b"\r\n"
    with as_the_document_says(peer, "decrypt", how):
        inside = peer.decrypt(base64.b64decode(sealed.partition(b"\r\n\r\n")[2]), how)
        assert line + ENTITY + b"\r\n" + line in inside


@pytest.mark.parametrize("how", ENCRYPTIONS + FOREIGN, ids=lambda how: how.name)
def test_we_read_the_peers_envelope(
    peer: Peer, how: Encryption, identities: dict[str, Identity]
) -> None:
    ours = identities[how.kind]
    transport, _, form = how.transport.partition(" ")
    agreements = {"p256": "ecdh-p256", "p384": "ecdh-p384", "x25519": "x25519"}
    key_transport = agreements.get(how.kind, f"rsa-{transport}")
    with as_the_document_says(peer, "encrypt", how):
        envelope = peer.encrypt(cms.detached(ENTITY, identities["p256"]), how)
        opened = unseal(cms.message(envelope), [ours])
        assert opened.content == MESSAGE
        assert opened.unsealed.algorithms.content_encryption == how.cipher
        assert opened.unsealed.algorithms.key_transport == key_transport
        if form == "BER":
            assert envelope[1] == 0x80  # of indefinite length
        if form == "SKI":
            assert issuer_and_serial(ours.certificate) not in envelope


def test_the_document_is_the_one_generated() -> None:
    assert DOCUMENT.read_text() == document()
