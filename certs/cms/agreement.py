"""Key agreement for a recipient: ephemeral-static ECDH, then AES key wrap.

Pure.

Standards:
    RFC5753 sections 3.1 (KeyAgreeRecipientInfo), 7.1 (algorithms) and 7.2 (ECC-CMS-SharedInfo)
    RFC8418 sections 2 and 3 (X25519; HKDF)
    RFC3394 (AES key wrap), RFC3565 section 2.3.2 (its identifiers)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF

from certs.cms import der
from certs.cms.algorithms import Digest, identified, refused
from certs.cms.ber import Element, children, malformed, octets
from certs.errors import DirectError, Reason
from certs.identity import Identity

__all__ = ["Agreed", "Agreement", "agree_with", "agreement_name", "agreement_of"]

_EC_KEY: Final = der.oid("1.2.840.10045.2.1")
_X25519: Final = der.oid("1.3.101.110")

_KEY_WRAPS: Final = {
    der.oid("2.16.840.1.101.3.4.1.5"): 16,
    der.oid("2.16.840.1.101.3.4.1.25"): 24,
    der.oid("2.16.840.1.101.3.4.1.45"): 32,
}
_WRAP_OIDS: Final = {octets_: oid for oid, octets_ in _KEY_WRAPS.items()}

# RFC5753 7.1.4 and 7.1.5: standard and cofactor ECDH; on our curves, of cofactor 1, the same.
# SHA-1 serves here as a key derivation function, where collisions are of no use, and is what
# OpenSSL takes by default.
_X963: Final = {
    der.oid("1.3.133.16.840.63.0.2"): Digest.SHA1,
    der.oid("1.3.133.16.840.63.0.3"): Digest.SHA1,
    der.oid("1.3.132.1.11.1"): Digest.SHA256,
    der.oid("1.3.132.1.14.1"): Digest.SHA256,
    der.oid("1.3.132.1.11.2"): Digest.SHA384,
    der.oid("1.3.132.1.14.2"): Digest.SHA384,
    der.oid("1.3.132.1.11.3"): Digest.SHA512,
    der.oid("1.3.132.1.14.3"): Digest.SHA512,
}
# RFC8418 2.2
_HKDF: Final = {
    der.oid("1.2.840.113549.1.9.16.3.19"): Digest.SHA256,
    der.oid("1.2.840.113549.1.9.16.3.20"): Digest.SHA384,
    der.oid("1.2.840.113549.1.9.16.3.21"): Digest.SHA512,
}
_SCHEME_SHA256: Final = der.oid("1.3.132.1.11.1")
_SCHEME_SHA384: Final = der.oid("1.3.132.1.11.2")

_ORIGINATOR_KEY: Final = der.context(1)
_KEY_MATERIAL: Final = der.context(1)
_LONGEST_KEY_MATERIAL: Final = 1024

_Derive = Callable[[bytes, bytes, int], bytes]


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the sender's half of an agreement made. `name` is for people."""

    name: str
    originator: bytes
    scheme: bytes
    digest: Digest
    secret: bytes

    def algorithm_for(self, key_octets: int) -> bytes:
        """Return the keyEncryptionAlgorithm for a content key of `key_octets`."""
        return der.sequence(self.scheme, der.sequence(_WRAP_OIDS[key_octets]))

    def wrap(self, key: bytes) -> bytes:
        """Return the content key, wrapped with a key of the same length."""
        wrap = der.sequence(_WRAP_OIDS[len(key)])
        info = _shared_info(wrap, None, len(key))
        return keywrap.aes_key_wrap(_x963(self.digest)(self.secret, info, len(key)), key)


@dataclass(frozen=True, slots=True)
class Agreement:
    """The recipient's half, as a message has it; nothing is computed before `unwrap`."""

    point: bytes
    derive: _Derive
    wrap: bytes
    wrap_octets: int
    key_material: bytes | None

    def unwrap(self, identity: Identity, encrypted_key: bytes) -> bytes:
        """Return the content key.

        Raises:
            ValueError, keywrap.InvalidUnwrap: it does not unwrap.
        """
        secret = identity.key.derive(self._ephemeral(identity))
        info = _shared_info(self.wrap, self.key_material, self.wrap_octets)
        return keywrap.aes_key_unwrap(self.derive(secret, info, self.wrap_octets), encrypted_key)

    def _ephemeral(self, identity: Identity) -> ec.EllipticCurvePublicKey | x25519.X25519PublicKey:
        # RFC5753 3.1.1: the ephemeral key is on the curve of the recipient's own.
        match identity.certificate.public_key():
            case ec.EllipticCurvePublicKey() as ours:
                return ec.EllipticCurvePublicKey.from_encoded_point(ours.curve, self.point)
            case x25519.X25519PublicKey():
                return x25519.X25519PublicKey.from_public_bytes(self.point)
            case _:
                raise ValueError("our key is not one for key agreement")


def agree_with(public: CertificatePublicKeyTypes) -> Agreed:
    """Return an agreement with the owner of `public`, with a fresh ephemeral key.

    Raises:
        DirectError: CERTIFICATE_UNFIT; the key is not one for key agreement.
    """
    match public:
        case ec.EllipticCurvePublicKey():
            ours = ec.generate_private_key(public.curve)
            point = ours.public_key().public_bytes(
                serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
            )
            secret, algorithm = ours.exchange(ec.ECDH(), public), der.sequence(_EC_KEY)
            # RFC5753 8: a hash as strong as the curve.
            strong = public.curve.key_size > 256
        case x25519.X25519PublicKey():
            own = x25519.X25519PrivateKey.generate()
            point = own.public_key().public_bytes_raw()
            secret, algorithm = own.exchange(public), der.sequence(_X25519)
            strong = False
        case _:
            raise DirectError(Reason.CERTIFICATE_UNFIT, "the certificate's key can receive no key")
    key = der.tlv(_ORIGINATOR_KEY, algorithm, der.tlv(der.BIT_STRING, b"\x00", point))
    originator = der.tlv(der.context(0), key)
    name = agreement_name(public)
    if strong:
        return Agreed(name, originator, _SCHEME_SHA384, Digest.SHA384, secret)
    return Agreed(name, originator, _SCHEME_SHA256, Digest.SHA256, secret)


def agreement_name(public: CertificatePublicKeyTypes) -> str:
    """Return what people call an agreement with the owner of `public`."""
    curve = public.curve.key_size if isinstance(public, ec.EllipticCurvePublicKey) else None
    return "x25519" if curve is None else f"ecdh-p{curve}"


def agreement_of(fields: list[Element]) -> Agreement:
    """Return the agreement in `fields`: originator, ukm where present, keyEncryptionAlgorithm.

    Raises:
        DirectError: MESSAGE_MALFORMED, ALGORITHM_REFUSED.
    """
    key_material = None
    if len(fields) == 3:
        (value,) = children(fields[1].content, limit=1) or [fields[1]]
        key_material = octets(value)
        if fields[1].tag != _KEY_MATERIAL or len(key_material) > _LONGEST_KEY_MATERIAL:
            raise malformed("the key material of a recipient does not parse")
    algorithm = identified(fields[-1])
    if algorithm.oid in _X963:
        derive = _x963(_X963[algorithm.oid])
    elif algorithm.oid in _HKDF:
        derive = _hkdf(_HKDF[algorithm.oid])
    else:
        raise refused("the key-agreement algorithm is not one of ours")
    wrap = algorithm.parameters
    wrap_octets = _KEY_WRAPS.get(identified(wrap).oid) if wrap is not None else None
    if wrap is None or wrap_octets is None:
        raise refused("the key-wrap algorithm is not one of ours")
    return Agreement(_point(fields[0]), derive, wrap.encoded, wrap_octets, key_material)


def _point(field: Element) -> bytes:
    # OriginatorIdentifierOrKey: only originatorKey [1] is ephemeral (RFC5753 3.1.1).
    (key,) = children(field.content, limit=1) or [field]
    if field.tag != der.context(0) or key.tag != _ORIGINATOR_KEY:
        raise refused("the sender's key of a key agreement is not an ephemeral one")
    parts = children(key.content, limit=2)
    if len(parts) != 2 or parts[1].tag != der.BIT_STRING:
        raise malformed("the sender's key of a key agreement does not parse")
    return parts[1].content[1:]


def _shared_info(wrap: bytes, key_material: bytes | None, key_octets: int) -> bytes:
    # RFC5753 7.2: ECC-CMS-SharedInfo ::= SEQUENCE { keyInfo, entityUInfo [0], suppPubInfo [2] }
    parts = [wrap]
    if key_material is not None:
        parts.append(der.tlv(der.context(0), der.octet_string(key_material)))
    bits = der.octet_string((key_octets * 8).to_bytes(4, "big"))
    parts.append(der.tlv(der.context(2), bits))
    return der.sequence(*parts)


def _x963(digest: Digest) -> _Derive:
    return lambda secret, info, length: X963KDF(digest.hash, length, info).derive(secret)


def _hkdf(digest: Digest) -> _Derive:
    return lambda secret, info, length: HKDF(digest.hash, length, None, info).derive(secret)
