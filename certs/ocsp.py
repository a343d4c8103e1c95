"""What an OCSP answer says of one certificate, if it may be believed.

Pure: no I/O, no clock.

Standards:
    RFC6960 sections 3.2 (accepting an answer), 4.2.2.2 (who may sign)
    RFC5019 section 4 (answers without nonce, freshness)
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from asn1crypto import keys as asn1_keys  # type: ignore[import-untyped]  # ships no types
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.errors import DirectError, Reason
from certs.issuers import signed_by
from certs.profile import extensions_of, valid_at
from certs.signatures import Parameters, verifies
from certs.unreadable import UNREADABLE

__all__ = ["Status", "fresh_until", "read_answer", "request_for", "status_in"]

CLOCK_SKEW: Final = timedelta(minutes=5)
LONGEST_WITHOUT_NEXT_UPDATE: Final = timedelta(days=1)
RESPONDER_CERTIFICATES: Final = 5


class Status(Enum):
    """What is known of a certificate's revocation."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


def read_answer(data: bytes) -> ocsp.OCSPResponse:
    """Return the answer in `data`, in DER.

    Raises:
        DirectError: REVOCATION_UNKNOWN; it does not parse.
    """
    try:
        return ocsp.load_der_ocsp_response(data)
    except UNREADABLE:
        raise DirectError(Reason.REVOCATION_UNKNOWN, "OCSP answer does not parse") from None


def request_for(cert: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """Return the request that asks about `cert`, without a nonce, so that it can be cached."""
    # RFC5019 2.1.1: every responder knows identifiers made with SHA-1, and few any others.
    digest = hashes.SHA1()  # noqa: S303 - an identifier; nothing rests on its strength
    request = ocsp.OCSPRequestBuilder().add_certificate(cert, issuer, digest).build()
    return request.public_bytes(Encoding.DER)


def status_in(
    answer: ocsp.OCSPResponse, cert: x509.Certificate, issuer: x509.Certificate, now: datetime
) -> Status:
    """Return what `answer` says of `cert`; UNKNOWN where it is for another or not to be believed.

    A revocation counts however old the answer is (AS-088); "good" only while it is fresh.
    """
    # RFC6960 2.3: tryLater and the like carry no answer at all.
    if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        return Status.UNKNOWN
    try:
        mine = [single for single in answer.responses if _is_about(single, cert, issuer)]
        if not mine or not _authentic(answer, issuer, now):
            return Status.UNKNOWN
    except UNREADABLE:
        return Status.UNKNOWN
    if any(single.certificate_status is ocsp.OCSPCertStatus.REVOKED for single in mine):
        return Status.REVOKED
    good = ocsp.OCSPCertStatus.GOOD
    if any(single.certificate_status is good and _fresh(single, now) for single in mine):
        return Status.GOOD
    return Status.UNKNOWN


def fresh_until(answer: ocsp.OCSPResponse) -> datetime | None:
    """Return the earliest nextUpdate in the answer, or None where it says none."""
    try:
        ends = [single.next_update_utc for single in answer.responses]
    except UNREADABLE:
        return None
    return min((end for end in ends if end is not None), default=None)


def _is_about(
    single: ocsp.OCSPSingleResponse, cert: x509.Certificate, issuer: x509.Certificate
) -> bool:
    # RFC6960 3.2 (1), 4.1.1: serial number, and the hashes of the issuer's name and key.
    return (
        single.serial_number == cert.serial_number
        and single.issuer_name_hash == _hash(single.hash_algorithm, cert.issuer.public_bytes())
        and single.issuer_key_hash == _hash(single.hash_algorithm, _key_bits(issuer))
    )


def _fresh(single: ocsp.OCSPSingleResponse, now: datetime) -> bool:
    # RFC6960 3.2 (5) and (6)
    if single.this_update_utc > now + CLOCK_SKEW:
        return False
    if single.next_update_utc is None:
        return now - single.this_update_utc <= LONGEST_WITHOUT_NEXT_UPDATE
    return now <= single.next_update_utc


def _authentic(answer: ocsp.OCSPResponse, issuer: x509.Certificate, now: datetime) -> bool:
    """Say whether the issuer, or one it delegated to, signed the answer (RFC6960 4.2.2.2)."""
    if _names(answer, issuer) and _verifies(answer, issuer):
        return True
    return any(
        _names(answer, delegate)
        and _may_respond(delegate, issuer, now)
        and _verifies(answer, delegate)
        for delegate in answer.certificates[:RESPONDER_CERTIFICATES]
    )


def _names(answer: ocsp.OCSPResponse, responder: x509.Certificate) -> bool:
    if answer.responder_key_hash is not None:
        return answer.responder_key_hash == _sha1_key_hash(responder)
    return answer.responder_name == responder.subject


def _may_respond(delegate: x509.Certificate, issuer: x509.Certificate, now: datetime) -> bool:
    # RFC6960 4.2.2.2: id-kp-OCSPSigning, in a certificate issued directly by the same CA.
    try:
        valid_at(delegate, now)
        purposes = extensions_of(delegate).get_extension_for_class(x509.ExtendedKeyUsage).value
    except (DirectError, x509.ExtensionNotFound):
        return False
    return (
        ExtendedKeyUsageOID.OCSP_SIGNING in purposes
        and delegate.issuer == issuer.subject
        and signed_by(delegate, issuer)
    )


def _verifies(answer: ocsp.OCSPResponse, responder: x509.Certificate) -> bool:
    digest, parameters = answer.signature_hash_algorithm, _parameters(responder, answer)
    return verifies(
        responder,
        signature=answer.signature,
        signed=answer.tbs_response_bytes,
        digest=digest,
        parameters=parameters,
    )


def _parameters(responder: x509.Certificate, answer: ocsp.OCSPResponse) -> Parameters:
    # The library does not tell the parameters of an answer's signature; PSS is not processed.
    digest = answer.signature_hash_algorithm
    if isinstance(responder.public_key(), rsa.RSAPublicKey):
        return padding.PKCS1v15()
    return ec.ECDSA(digest) if digest else None


def _sha1_key_hash(cert: x509.Certificate) -> bytes:
    # RFC6960 4.2.1 (KeyHash): the same octets as RFC5280's first kind of subjectKeyIdentifier.
    return x509.SubjectKeyIdentifier.from_public_key(cert.public_key()).digest


def _key_bits(cert: x509.Certificate) -> bytes:
    # RFC6960 4.1.1: the subjectPublicKey BIT STRING without tag, length and unused bits.
    info = cert.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return bytes(asn1_keys.PublicKeyInfo.load(info)["public_key"])


def _hash(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()
