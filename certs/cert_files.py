"""Certificates in whatever form they are published: DER, PEM, or a certs-only CMS message.

Pure.

Standards:
    RFC5280 section 4.2.2.1 (what caIssuers points at)
    RFC5652 section 5 (certs-only SignedData), RFC7468 (PEM)
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from certs.errors import DirectError, Reason
from certs.unreadable import UNREADABLE

__all__ = ["certificate_from", "certificates_in"]

FILE_OCTETS: Final = 1024 * 1024
CERTIFICATES: Final = 20


def certificate_from(der: bytes) -> x509.Certificate:
    """Return the certificate in `der`; its names and dates can be read.

    The library reads them when they are asked for. What strangers send is asked here, so that
    nobody after has to expect a certificate that breaks in his hands.

    Raises:
        ValueError: it does not parse.
    """
    try:
        cert = x509.load_der_x509_certificate(der)
        for part in ("subject", "issuer", "not_valid_before_utc", "not_valid_after_utc"):
            getattr(cert, part)
    except UNREADABLE as error:
        raise ValueError(f"certificate does not parse: {error}") from None
    return cert


def certificates_in(data: bytes) -> tuple[x509.Certificate, ...]:
    """Return the certificates in `data`, at most 20, in their order.

    Raises:
        DirectError: CERTIFICATE_UNFIT; none of the forms, empty, or over 1 MiB.
    """
    if len(data) > FILE_OCTETS:
        raise DirectError(Reason.CERTIFICATE_UNFIT, "certificate file is over 1 MiB")
    for load in _PEM if data.lstrip().startswith(b"-----BEGIN") else _DER:
        try:
            certificates = [certificate_from(_der(cert)) for cert in load(data)]
        except UNREADABLE:
            continue
        if certificates:
            return tuple(certificates[:CERTIFICATES])
    raise DirectError(Reason.CERTIFICATE_UNFIT, "neither a certificate nor a certs-only message")


def _der(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(Encoding.DER)


def _one(data: bytes) -> list[x509.Certificate]:
    return [certificate_from(data)]


_DER: Final = (_one, pkcs7.load_der_pkcs7_certificates)
_PEM: Final = (x509.load_pem_x509_certificates, pkcs7.load_pem_pkcs7_certificates)
