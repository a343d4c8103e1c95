"""A certificate revocation list, complete or delta: read once, asked often.

Pure. The serial numbers go into a set when the list is read, because a list may hold hundreds of
thousands and every message asks.

Standards:
    RFC5280 sections 5 (CRL profile) and 6.3 (validation)
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Final

from asn1crypto import crl as asn1_crl  # type: ignore[import-untyped]  # ships no types
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.crl_entries import read_entries, serial_contents
from certs.crl_scope import Reasons, Scope, extension_of
from certs.errors import DirectError, Reason
from certs.issuers import NameKey, name_key
from certs.signatures import verifies
from certs.unreadable import UNREADABLE

__all__ = ["Crl", "read_crl"]

CRL_OCTETS: Final = 64 * 1024 * 1024
_PEM_BEGIN: Final = b"-----BEGIN X509 CRL-----"


def read_crl(data: bytes) -> Crl:
    """Return the CRL in `data`: DER (RFC5280 4.2.1.13), or PEM, which some publish instead.

    Raises:
        DirectError: REVOCATION_UNKNOWN; it does not parse, or is over 64 MiB.
    """
    if len(data) > CRL_OCTETS:
        raise DirectError(Reason.REVOCATION_UNKNOWN, "CRL is over 64 MiB")
    try:
        if data.lstrip().startswith(_PEM_BEGIN):
            data = x509.load_pem_x509_crl(data).public_bytes(Encoding.DER)
        return Crl(data)
    except UNREADABLE as error:
        raise DirectError(Reason.REVOCATION_UNKNOWN, f"CRL does not parse: {error}") from None


class Crl:
    """One list. It speaks for nobody until `signed_by` and `reasons_for` have been asked.

    `digest` is the SHA-256 of its encoding.
    """

    def __init__(self, der: bytes) -> None:
        """Read and index a list in DER.

        Raises:
            ValueError and others of the library: it does not parse.
        """
        self._parsed = x509.load_der_x509_crl(der)
        # The encoding as it came: `cryptography` would write the whole list anew to have it.
        body = asn1_crl.CertificateList.load(der)["tbs_cert_list"]
        self._signed: Final[bytes] = body.dump()
        self._verified: dict[x509.Certificate, bool] = {}
        self.scope: Final = Scope(self._parsed)
        self._entries = read_entries(body["revoked_certificates"].contents or b"", self._parsed)
        self.digest: Final = hashlib.sha256(der).digest()
        self.issuer: Final[NameKey] = name_key(self._parsed.issuer)
        self.this_update: Final[datetime] = self._parsed.last_update_utc
        self.next_update: Final[datetime | None] = self._parsed.next_update_utc

    def revokes(self, serial: int) -> bool:
        """Say whether the certificate of this serial number is revoked."""
        return serial_contents(serial) in self._entries.revoked

    def removes(self, serial: int) -> bool:
        """Say whether this delta list takes back what the list before it said (removeFromCRL)."""
        return serial_contents(serial) in self._entries.removed

    def fresh_at(self, now: datetime) -> bool:
        """Say whether `now` lies from thisUpdate to nextUpdate (AS-086)."""
        return self.this_update <= now and (self.next_update is None or now < self.next_update)

    def signed_by(self, issuer: x509.Certificate) -> bool:
        """Say whether the issuer's key signed this list and may sign lists; verified once."""
        if issuer not in self._verified:
            self._verified[issuer] = self._verify(issuer)
        return self._verified[issuer]

    def reasons_for(self, cert: x509.Certificate) -> Reasons:
        """Return for which reasons this list would name `cert`: all, some, or none."""
        return self.scope.reasons_for(cert) if self._entries.understood else frozenset()

    def _verify(self, issuer: x509.Certificate) -> bool:
        try:
            usage = extension_of(issuer.extensions, x509.KeyUsage)
            digest = self._parsed.signature_hash_algorithm
            parameters = self._parsed.signature_algorithm_parameters
        except UNREADABLE:
            return False
        # RFC5280 6.3.3 (f): where the signer's keyUsage is there, it must say cRLSign.
        return (usage is None or usage.crl_sign) and verifies(
            issuer,
            signature=self._parsed.signature,
            signed=self._signed,
            digest=digest,
            parameters=parameters,
        )
