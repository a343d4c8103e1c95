"""Certificates in whatever form they are published: DER, PEM, or a certs-only CMS message.

Pure.

Standards:
    RFC5280 section 4.2.2.1 (what caIssuers points at)
    RFC5652 section 5 (certs-only SignedData), RFC7468 (PEM)
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import pkcs7

from certs.errors import DirectError, Reason

__all__ = ["certificates_in"]

FILE_OCTETS: Final = 1024 * 1024
CERTIFICATES: Final = 20


def certificates_in(data: bytes) -> tuple[x509.Certificate, ...]:
    """Return the certificates in `data`, at most 20, in their order.

    Raises:
        DirectError: CERTIFICATE_UNFIT; none of the forms, empty, or over 1 MiB.
    """
    if len(data) > FILE_OCTETS:
        raise DirectError(Reason.CERTIFICATE_UNFIT, "certificate file is over 1 MiB")
    for load in _PEM if data.lstrip().startswith(b"-----BEGIN") else _DER:
        try:
            certificates = load(data)
        except (ValueError, UnsupportedAlgorithm):
            continue
        if certificates:
            return tuple(certificates[:CERTIFICATES])
    raise DirectError(Reason.CERTIFICATE_UNFIT, "neither a certificate nor a certs-only message")


def _one(data: bytes) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(data)]


_DER: Final = (_one, pkcs7.load_der_pkcs7_certificates)
_PEM: Final = (x509.load_pem_x509_certificates, pkcs7.load_pem_pkcs7_certificates)
