"""The algorithms of CMS: their identifiers, their names and their `cryptography` objects.

Pure. Three closed sets: what may be named is here, what a policy allows is asked of
`permit_digest` and `permit_content_encryption`, and what is not here is ALGORITHM_REFUSED.

Standards:
    AS      Applicability Statement v1.3 section 2.8 (AS-045, AS-049, AS-051, AS-052)
    RFC5754 SHA-2 in CMS; RFC3565 and RFC5084 AES-CBC and AES-GCM in CMS
    RFC8017 appendix A and RFC4055 sections 1.2 and 4 (RSA and its parameters)
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography.hazmat.primitives import hashes

from certs.cms import der
from certs.cms.ber import Element, children, malformed
from certs.errors import DirectError, Reason
from certs.policy import CertificatePolicy

__all__ = [
    "AUTH_ENVELOPED_DATA",
    "CIPHERS",
    "DATA",
    "ENVELOPED_DATA",
    "MGF1",
    "SIGNED_DATA",
    "Algorithm",
    "ContentEncryption",
    "Digest",
    "KeyTransport",
    "content_encryption_of",
    "digest_of",
    "identified",
    "known_digest",
    "mask_digest",
    "permit_content_encryption",
    "permit_digest",
    "refused",
]

# RFC5652 4, 5.1 and 6.1, RFC5083 2: content types. Of S/MIME content, the type is always id-data.
DATA: Final = der.oid("1.2.840.113549.1.7.1")
SIGNED_DATA: Final = der.oid("1.2.840.113549.1.7.2")
ENVELOPED_DATA: Final = der.oid("1.2.840.113549.1.7.3")
AUTH_ENVELOPED_DATA: Final = der.oid("1.2.840.113549.1.9.16.1.23")
MGF1: Final = der.oid("1.2.840.113549.1.1.8")


class Algorithm(NamedTuple):
    """An AlgorithmIdentifier: its OBJECT IDENTIFIER, encoded, and its parameters."""

    oid: bytes
    parameters: Element | None


class Digest(Enum):
    """A message digest. SHA-1 is read only, and only where a policy says so (AS-045)."""

    SHA1 = "sha1"
    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"

    __hash__ = object.__hash__  # Enum's own is Python, and called dozens of times a message

    @property
    def hash(self) -> hashes.HashAlgorithm:
        """The `cryptography` algorithm."""
        return _HASHES[self]

    @property
    def oid(self) -> bytes:
        """The encoded OBJECT IDENTIFIER."""
        return _DIGEST_OIDS[self]

    @property
    def micalg(self) -> str:
        """The name of the digest in `multipart/signed` (RFC8551 3.5.3.2; K-09)."""
        return f"sha-{self.value[3:]}"


class ContentEncryption(Enum):
    """A content-encryption algorithm; triple DES is read only, where a policy says so."""

    AES128_CBC = "aes128-cbc"
    AES192_CBC = "aes192-cbc"
    AES256_CBC = "aes256-cbc"
    AES128_GCM = "aes128-gcm"
    AES192_GCM = "aes192-gcm"
    AES256_GCM = "aes256-gcm"
    DES_EDE3_CBC = "des-ede3-cbc"

    @property
    def oid(self) -> bytes:
        """The encoded OBJECT IDENTIFIER."""
        return _CIPHER_OIDS[self]

    @property
    def key_octets(self) -> int:
        """Length of the key."""
        return 24 if self is ContentEncryption.DES_EDE3_CBC else int(self.value[3:6]) // 8

    @property
    def block_octets(self) -> int:
        """Length of a block, and of a CBC initialisation vector."""
        return 8 if self is ContentEncryption.DES_EDE3_CBC else 16

    @property
    def authenticated(self) -> bool:
        """Whether CMS carries it as AuthEnvelopedData (RFC5083)."""
        return self.value.endswith("gcm")


class KeyTransport(Enum):
    """How the content key goes to RSA recipients (AS-052); a peer may be configured down."""

    RSA_OAEP_SHA256 = "rsa-oaep-sha256"
    RSA_OAEP_SHA384 = "rsa-oaep-sha384"
    RSA_OAEP_SHA512 = "rsa-oaep-sha512"
    RSA_OAEP_SHA1 = "rsa-oaep-sha1"
    RSA_PKCS1 = "rsa-pkcs1v15"

    @property
    def oaep_digest(self) -> Digest | None:
        """The digest of OAEP and of its mask generation; None for PKCS#1 v1.5."""
        name = self.value.removeprefix("rsa-oaep-")
        return None if self is KeyTransport.RSA_PKCS1 else Digest(name)


@lru_cache(maxsize=256)  # eight in every message, and nearly always the same ones
def identified(element: Element) -> Algorithm:
    """Return the AlgorithmIdentifier in `element`.

    Raises:
        DirectError: MESSAGE_MALFORMED.
    """
    parts = children(element.content, limit=2)
    if element.tag != der.SEQUENCE or not parts or parts[0].tag != der.OID:
        raise malformed("an algorithm identifier does not parse")
    parameters = parts[1] if len(parts) == 2 else None
    # RFC5754 2: absent and NULL parameters mean the same.
    if parameters is not None and parameters.encoded == der.NULL:
        parameters = None
    return Algorithm(parts[0].encoded, parameters)


def digest_of(algorithm: Algorithm) -> Digest | None:
    """Return the digest `algorithm` names; None where we have no such digest."""
    return _DIGESTS.get(algorithm.oid) if algorithm.parameters is None else None


def content_encryption_of(algorithm: Algorithm) -> ContentEncryption:
    """Return the content encryption `algorithm` names.

    Raises:
        DirectError: ALGORITHM_REFUSED; we have none of that name.
    """
    found = CIPHERS.get(algorithm.oid)
    if found is None:
        raise refused("the content-encryption algorithm is not one of ours")
    return found


def mask_digest(element: Element) -> Digest:
    """Return the digest of the MaskGenAlgorithm in `element` (RFC8017 A.2.1).

    Raises:
        DirectError: ALGORITHM_REFUSED; it is not MGF1 with a digest of ours.
    """
    algorithm = identified(element)
    if algorithm.oid != MGF1 or algorithm.parameters is None:
        raise refused("the mask generation function is not MGF1")
    return known_digest(algorithm.parameters)


def known_digest(element: Element) -> Digest:
    """Return the digest that the AlgorithmIdentifier in `element` names.

    Raises:
        DirectError: ALGORITHM_REFUSED.
    """
    digest = digest_of(identified(element))
    if digest is None:
        raise refused("the digest algorithm is not one of ours")
    return digest


def permit_digest(digest: Digest, policy: CertificatePolicy) -> None:
    """Return where `policy` allows signatures over `digest`.

    Raises:
        DirectError: ALGORITHM_REFUSED.
    """
    # AS-045: as-1.3 forbids SHA-1.
    if digest is Digest.SHA1:
        if not policy.allow_sha1:
            raise refused("the signature is over a SHA-1 digest")
    elif digest.value not in policy.digests:
        raise refused(f"the signature is over a {digest.value} digest")


def permit_content_encryption(cipher: ContentEncryption, policy: CertificatePolicy) -> None:
    """Return where `policy` allows content encrypted with `cipher`.

    Raises:
        DirectError: ALGORITHM_REFUSED.
    """
    # AS-049
    if cipher is ContentEncryption.DES_EDE3_CBC:
        if not policy.allow_3des:
            raise refused("the content is encrypted with triple DES")
    elif cipher.value not in policy.ciphers:
        raise refused(f"the content is encrypted with {cipher.value}")


def refused(detail: str) -> DirectError:
    """Return the error for an algorithm we do not have or do not allow."""
    return DirectError(Reason.ALGORITHM_REFUSED, detail)


_HASHES: Final = {
    Digest.SHA1: hashes.SHA1(),  # noqa: S303 - read only, by explicit policy (AS-045)
    Digest.SHA256: hashes.SHA256(),
    Digest.SHA384: hashes.SHA384(),
    Digest.SHA512: hashes.SHA512(),
}
_DIGEST_OIDS: Final = {
    Digest.SHA1: der.oid("1.3.14.3.2.26"),
    Digest.SHA256: der.oid("2.16.840.1.101.3.4.2.1"),
    Digest.SHA384: der.oid("2.16.840.1.101.3.4.2.2"),
    Digest.SHA512: der.oid("2.16.840.1.101.3.4.2.3"),
}
_CIPHER_OIDS: Final = {
    ContentEncryption.AES128_CBC: der.oid("2.16.840.1.101.3.4.1.2"),
    ContentEncryption.AES192_CBC: der.oid("2.16.840.1.101.3.4.1.22"),
    ContentEncryption.AES256_CBC: der.oid("2.16.840.1.101.3.4.1.42"),
    ContentEncryption.AES128_GCM: der.oid("2.16.840.1.101.3.4.1.6"),
    ContentEncryption.AES192_GCM: der.oid("2.16.840.1.101.3.4.1.26"),
    ContentEncryption.AES256_GCM: der.oid("2.16.840.1.101.3.4.1.46"),
    ContentEncryption.DES_EDE3_CBC: der.oid("1.2.840.113549.3.7"),
}
_DIGESTS: Final = {encoded: digest for digest, encoded in _DIGEST_OIDS.items()}
CIPHERS: Final = {encoded: cipher for cipher, encoded in _CIPHER_OIDS.items()}
