"""Which certificates of a set may have issued this one?

Pure. A filter for path building: names are compared loosely, key identifiers only order the
candidates (they are copied by anybody, T-01), and a signature that does not verify ends a branch.

Standards:
    RFC5280 sections 4.2.1.1 (key identifiers), 4.2.1.3 and 4.2.1.9 (who may issue), 7.1 (names)
    RFC4158 section 3.5 (ordering candidates)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, overload

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.errors import DirectError
from certs.profile import MAXIMUM_RSA_BITS, extensions_of
from certs.signatures import verifies
from certs.unreadable import UNREADABLE

__all__ = ["IssuerIndex", "name_key", "readable", "same_authority", "sha256_of", "signed_by"]

_SHA256: Final = hashes.SHA256()


class IssuerIndex(Sequence[x509.Certificate]):
    """An immutable set of certificates, in the order given, found by subject name.

    Certificates that may issue nothing are kept (an end-entity certificate may be an anchor) but
    are no issuers.
    """

    def __init__(self, certificates: Iterable[x509.Certificate]) -> None:
        self._members = dict.fromkeys(certificates)
        self._certificates = tuple(self._members)
        self._by_subject: dict[NameKey, list[x509.Certificate]] = {}
        for cert in filter(readable, self._certificates):
            self._by_subject.setdefault(name_key(cert.subject), []).append(cert)
        self.digest = _digest_of(map(sha256_of, self._certificates))

    def issuers_of(self, cert: x509.Certificate) -> list[x509.Certificate]:
        """Return the CA certificates with the issuer's name, likely ones first."""
        candidates = [other for other in self.named_as_issuer_of(cert) if _may_issue(other)]
        if len(candidates) < 2:
            return candidates
        wanted = _authority_key_id(cert)
        return sorted(candidates, key=lambda candidate: _subject_key_id(candidate) != wanted)

    def named_as_issuer_of(self, cert: x509.Certificate) -> list[x509.Certificate]:
        """Return the certificates with the issuer's name, CA or not."""
        try:
            return self._by_subject.get(name_key(cert.issuer), [])
        except UNREADABLE:  # a name that does not parse is nobody's
            return []

    def __contains__(self, cert: object) -> bool:
        return cert in self._members

    def __iter__(self) -> Iterator[x509.Certificate]:
        return iter(self._certificates)

    def __len__(self) -> int:
        return len(self._certificates)

    @overload
    def __getitem__(self, index: int) -> x509.Certificate: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[x509.Certificate]: ...
    def __getitem__(self, index: int | slice) -> x509.Certificate | Sequence[x509.Certificate]:
        return self._certificates[index]


NameKey = tuple[frozenset[tuple[str, str]], ...]


def sha256_of(cert: x509.Certificate) -> bytes:
    """Return the SHA-256 digest of the DER encoding: what we know a certificate by."""
    return cert.fingerprint(_SHA256)


def name_key(name: x509.Name) -> NameKey:
    """Return what two equal names have in common: no case, no surplus spaces.

    RFC5280 7.1 compares prepared strings (RFC4518). This comparison is never narrower; path
    validation compares exactly.
    """
    return tuple(
        frozenset(
            (part.oid.dotted_string, " ".join(str(part.value).casefold().split())) for part in rdn
        )
        for rdn in name.rdns
    )


def same_authority(one: x509.Certificate, other: x509.Certificate) -> bool:
    """Say whether both certificates are for the same name and key (RFC4158 5.2)."""
    return one.subject == other.subject and _key_bytes(one) == _key_bytes(other)


def signed_by(cert: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Say whether the issuer's key verifies the certificate's signature, whatever the names."""
    try:
        digest = cert.signature_hash_algorithm
        parameters = cert.signature_algorithm_parameters
    except UNREADABLE:
        return False
    return verifies(
        issuer,
        signature=cert.signature,
        signed=cert.tbs_certificate_bytes,
        digest=digest,
        parameters=parameters,
    )


def readable(cert: x509.Certificate) -> bool:
    """Say whether names, key and extensions parse, and the key is not too big to work with."""
    try:
        key = cert.public_key()
        extensions_of(cert)
        name_key(cert.subject)
        name_key(cert.issuer)
    except (DirectError, *UNREADABLE):
        return False
    return not (isinstance(key, rsa.RSAPublicKey) and key.key_size > MAXIMUM_RSA_BITS)


def _may_issue(cert: x509.Certificate) -> bool:
    # RFC5280 4.1.2.6: a CA has a name. Nameless ones would all be each other's issuers.
    if not cert.subject.rdns:
        return False
    if cert.version is not x509.Version.v3:
        return True
    # RFC5280 4.2.1.9 and 4.2.1.3: in version 3, only a certificate that says so is a CA's.
    values = [extension.value for extension in extensions_of(cert)]
    says_ca = any(isinstance(value, x509.BasicConstraints) and value.ca for value in values)
    usages = [value for value in values if isinstance(value, x509.KeyUsage)]
    return says_ca and all(usage.key_cert_sign for usage in usages)


def _authority_key_id(cert: x509.Certificate) -> bytes | None:
    try:
        extensions = extensions_of(cert)
        return extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except (DirectError, x509.ExtensionNotFound):
        return None


def _subject_key_id(cert: x509.Certificate) -> bytes | None:
    try:
        extensions = extensions_of(cert)
        return extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except (DirectError, x509.ExtensionNotFound):
        return None


def _key_bytes(cert: x509.Certificate) -> bytes:
    return cert.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _digest_of(digests: Iterable[bytes]) -> bytes:
    whole = hashes.Hash(_SHA256)
    for digest in sorted(digests):
        whole.update(digest)
    return whole.finalize()
