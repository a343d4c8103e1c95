"""A revocation list as large as the largest, made in a second, to measure with.

Pure. `cryptography` takes a minute to make one of 200,000 entries.

Standards:
    RFC5280 section 5.1 (CertificateList)
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from asn1crypto import crl as asn1_crl  # type: ignore[import-untyped]  # ships no types
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from certs.cms.der import integer, sequence, tlv
from certs.issue import Issuer, SigningKey

__all__ = ["FIRST_SERIAL", "large_crl"]

FIRST_SERIAL: Final = 2**152  # of 20 octets, as most are
BIT_STRING: Final = 0x03


def large_crl(issuer: Issuer, entries: int, *, now: datetime) -> bytes:
    """Return a CRL over the serial numbers from `FIRST_SERIAL` on, in DER; good for a day."""
    small = asn1_crl.CertificateList.load(_small(issuer, now).public_bytes(Encoding.DER))
    body = small["tbs_cert_list"]
    (entry,) = body["revoked_certificates"]
    after_serial = b"".join(entry[number].dump() for number in (1, 2))
    revoked = b"".join(
        sequence(integer(FIRST_SERIAL + number), after_serial) for number in range(entries)
    )
    fields = [body[number].dump() for number in range(5)]
    signed = sequence(*fields, sequence(revoked), body["crl_extensions"].dump())
    signature = b"\0" + _signature(issuer.key, signed)
    return sequence(signed, small["signature_algorithm"].dump(), tlv(BIT_STRING, signature))


def _small(issuer: Issuer, now: datetime) -> x509.CertificateRevocationList:
    entry = x509.RevokedCertificateBuilder(1, now - timedelta(days=1))
    entry = entry.add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now - timedelta(hours=1))
        .next_update(now + timedelta(days=1))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_revoked_certificate(entry.build())
    )
    return builder.sign(issuer.key, hashes.SHA256())


def _signature(key: SigningKey, signed: bytes) -> bytes:
    match key:
        case rsa.RSAPrivateKey():
            return key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePrivateKey():
            return key.sign(signed, ec.ECDSA(hashes.SHA256()))
        case _:
            return key.sign(signed)
