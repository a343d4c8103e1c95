"""S/MIME: wrap, sign, encrypt; and the way back.

Pure. Reads and writes open binary files in pieces; memory does not grow with the message. Going
out the message is read twice, to hash it and to encrypt it, so that all lengths are known. Coming
in once; what `unseal` writes is nobody's to read before it has returned.

Standards:
    RFC8551 section 3 (S/MIME messages); RFC1847 section 2.1 (multipart/signed)
    AS      AS-021 to AS-024 (wrapping), AS-040 to AS-058
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from typing import BinaryIO, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x25519

from certs.cms import der
from certs.cms.algorithms import Digest
from certs.cms.ber import Octets
from certs.cms.enveloped import Envelope
from certs.cms.signed import Signed, digests_for, sign
from certs.identity import Identity
from certs.policy import CertificatePolicy
from certs.ports import Writable
from gateway.ahead import WORTHWHILE_OCTETS, ahead
from gateway.opening import Opening
from gateway.seal_options import SealOptions
from gateway.transfer import base64_lines, base64_octets
from gateway.unsealed import Algorithms, Reading, Unsealed

__all__ = ["seal", "sealed_octets", "unseal"]

_CHUNK_OCTETS: Final = 192 * 1024
_POLICY: Final = CertificatePolicy()
_OPTIONS: Final = SealOptions()

# AS-021: the whole message is the signed entity.
_WRAPPER: Final = b"Content-Type: message/rfc822\r\n\r\n"
# AS-041, AS-046
_SIGNED: Final = (
    'Content-Type: multipart/signed; protocol="application/pkcs7-signature";\r\n'
    ' micalg={micalg}; boundary="{boundary}"\r\n\r\n--{boundary}\r\n'
)
_SIGNATURE: Final = (
    "\r\n--{boundary}\r\n"
    "Content-Type: application/pkcs7-signature; name=smime.p7s\r\n"
    "Content-Transfer-Encoding: base64\r\n"
    "Content-Disposition: attachment; filename=smime.p7s\r\n\r\n"
)
_END: Final = "--{boundary}--\r\n"
# AS-048; RFC8551 3.4 for AuthEnvelopedData.
_ENVELOPE: Final = (
    "Content-Type: application/pkcs7-mime; smime-type={kind};\r\n name=smime.p7m\r\n"
    "Content-Transfer-Encoding: base64\r\n"
    "Content-Disposition: attachment; filename=smime.p7m\r\n\r\n"
)


def seal(
    content: BinaryIO,
    out: Writable,
    *,
    outer: bytes,
    signers: Sequence[Identity],
    recipients: Sequence[x509.Certificate],
    boundary: str,
    now: datetime,
    options: SealOptions = _OPTIONS,
) -> Algorithms:
    """Write `content`, a whole prepared message, wrapped, signed and encrypted, to `out`.

    `outer` is the header to go outside, without S/MIME's own fields and without the empty line;
    `boundary` does not occur in `content`.

    Raises:
        DirectError: CERTIFICATE_UNFIT; a key cannot sign, or receive a key.
    """
    digests, size = _digest(content, digests_for(signers, options.digest))
    signed = sign(digests, signers, wanted=options.digest, pss=options.pss, now=now)
    frame = _Frame.of(size, signed, digests, recipients, boundary, options)
    out.write(outer + frame.header)
    encrypted = frame.envelope.encrypt(frame.entity(content))
    with ahead(encrypted) if size >= WORTHWHILE_OCTETS else nullcontext(encrypted) as pieces:
        for piece in base64_lines(pieces):
            out.write(piece)
    return Algorithms(
        digest="+".join(digest.value for digest in digests),
        signature="+".join(dict.fromkeys(kind.value for kind in signed.signatures)),
        content_encryption=options.content_encryption.value,
        key_transport=frame.envelope.key_transport,
    )


def sealed_octets(
    size: int,
    *,
    outer: bytes,
    signers: Sequence[Identity],
    recipients: Sequence[x509.Certificate],
    boundary: str,
    now: datetime,
    options: SealOptions = _OPTIONS,
) -> int:
    """Return how long at most `seal` makes a message of `size` octets; no private key is used.

    Only the signature of an EC key may come out shorter, by a few octets.

    Raises:
        DirectError: as `seal`.
    """
    digests = {
        digest: bytes(digest.hash.digest_size) for digest in digests_for(signers, options.digest)
    }
    stand_ins = [replace(signer, key=_LongestSignature(signer)) for signer in signers]
    signed = sign(digests, stand_ins, wanted=options.digest, pss=options.pss, now=now)
    frame = _Frame.of(size, signed, digests, recipients, boundary, options)
    return len(outer) + len(frame.header) + base64_octets(frame.envelope.octets)


def unseal(
    message: BinaryIO,
    out: BinaryIO,
    *,
    identities: Sequence[Identity],
    policy: CertificatePolicy = _POLICY,
) -> Unsealed:
    """Decrypt and verify `message`; write the message inside it to `out`, a private scratch file.

    Whoever signed is known when this returns; whether to believe it is for the caller, who looks
    at `out` no sooner. Both files are seekable and are used from their start.

    Raises:
        DirectError: NOT_SECURED, DECRYPTION_FAILED, SIGNATURE_INVALID, ALGORITHM_REFUSED,
            MESSAGE_MALFORMED.
    """
    reading = Reading()
    while True:
        message.seek(0)
        opening = Opening(out, identities=identities, policy=policy, reading=reading)
        result = opening.run(message)
        if isinstance(result, Unsealed):
            return result
        # The signature is over another digest than announced, or over canonical line ends.
        reading = result
        out.seek(0)
        out.truncate()


def _digest(content: BinaryIO, algorithms: Iterable[Digest]) -> tuple[dict[Digest, bytes], int]:
    hashing = {digest: hashes.Hash(digest.hash) for digest in algorithms}
    size = 0
    for each in hashing.values():
        each.update(_WRAPPER)
    for piece in _pieces(content):
        size += len(piece)
        for each in hashing.values():
            each.update(piece)
    return {digest: each.finalize() for digest, each in hashing.items()}, size


@dataclass(frozen=True, slots=True)
class _Frame:
    """All that goes around the content of one message, and its length known."""

    header: bytes
    envelope: Envelope
    before: bytes
    after: bytes

    @classmethod
    def of(
        cls,
        size: int,
        signed: Signed,
        digests: Iterable[Digest],
        recipients: Sequence[x509.Certificate],
        boundary: str,
        options: SealOptions,
    ) -> _Frame:
        names = [digest.micalg for digest in digests]
        # RFC8551 3.5.3.2: several digests are listed, which a comma in quotes can hold.
        micalg = names[0] if len(names) == 1 else f'"{",".join(names)}"'
        before = _SIGNED.format(micalg=micalg, boundary=boundary).encode("ascii") + _WRAPPER
        after = _SIGNATURE.format(boundary=boundary).encode("ascii")
        after += b"".join(base64_lines([signed.encoded]))
        after += _END.format(boundary=boundary).encode("ascii")
        cipher = options.content_encryption
        envelope = Envelope(
            len(before) + size + len(after),
            recipients=recipients,
            cipher=cipher,
            transport=options.key_transport,
        )
        kind = "authEnveloped-data" if cipher.authenticated else "enveloped-data"
        return cls(_ENVELOPE.format(kind=kind).encode("ascii"), envelope, before, after)

    def entity(self, content: BinaryIO) -> Iterator[Octets]:
        yield self.before
        yield from _pieces(content)
        yield self.after


class _LongestSignature:
    """In the place of a private key, where only lengths are asked."""

    def __init__(self, signer: Identity) -> None:
        match signer.certificate.public_key():
            case rsa.RSAPublicKey() as key:
                self._octets = (key.key_size + 7) // 8
            case ec.EllipticCurvePublicKey() as key:
                # ECDSA-Sig-Value: two integers, each with a sign octet and a header, in a sequence.
                content = 2 * ((key.key_size + 7) // 8 + 3)
                self._octets = len(der.header(der.SEQUENCE, content)) + content
            case _:
                self._octets = 64  # Ed25519

    def sign(self, message: bytes, digest: hashes.HashAlgorithm, *, pss: bool = False) -> bytes:
        return bytes(self._octets)

    def unwrap(self, encrypted_key: bytes, oaep: padding.OAEP | None) -> bytes:
        raise NotImplementedError

    def derive(self, ephemeral: ec.EllipticCurvePublicKey | x25519.X25519PublicKey) -> bytes:
        raise NotImplementedError


def _pieces(content: BinaryIO) -> Iterator[bytes]:
    content.seek(0)
    while piece := content.read(_CHUNK_OCTETS):
        yield piece
