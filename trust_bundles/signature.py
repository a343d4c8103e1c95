"""Whose signature is on this trust bundle, and does it count?

Pure. The configured signers are certificates of signers or of CAs; nothing in the bundle can add
to them. Revocation is judged by the caller over `Signature.path`, once the answers are fetched.

Standards:
    TBIG  Direct Trust Bundle Implementation Guide v1.0, section 3 (TB-005, T-09)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from certs.cms.anatomy import signer_in
from certs.cms.signed import Signer
from certs.errors import DirectError, Reason
from certs.issuers import IssuerIndex, signed_by
from certs.path import Path, find_path
from certs.policy import CertificatePolicy
from certs.profile import extensions_of
from trust_bundles.bundle import Envelope
from trust_bundles.status import BundleError, Status

__all__ = ["Signature", "issued_by", "verify"]

# A clock may be a little ahead. More, and every true bundle after it would seem rolled back.
AHEAD: Final = timedelta(minutes=10)
_POLICY: Final = CertificatePolicy()


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature that verified. `path` leads to who can revoke the signer; None: nobody known.

    `trusted` False: no signer is configured, so it is anybody's.
    """

    signer: x509.Certificate
    signed_at: datetime | None
    path: Path | None
    trusted: bool


def verify(
    envelope: Envelope | None, configured: Sequence[x509.Certificate], *, now: datetime
) -> Signature | None:
    """Return the signature that counts; None for an unsigned bundle where none is demanded.

    Raises:
        BundleError: UNMATCHED_SIGNATURE; wrong, by nobody configured, or absent where one is.
            INVALID_SIGNING_CERT; the signer's, or its CA's, is out of date or not for signing.
    """
    if envelope is None:
        if configured:
            raise BundleError(Status.UNMATCHED_SIGNATURE, "the bundle is not signed")
        return None
    failure = BundleError(Status.UNMATCHED_SIGNATURE, "no signature that can be read")
    for signer in envelope.signers:
        try:
            return _one(signer, envelope, configured, now)
        except BundleError as error:
            # What was wrong with the right signer tells more than that another is a stranger.
            if failure.status is Status.UNMATCHED_SIGNATURE:
                failure = error
    raise failure


def issued_by(cert: x509.Certificate, known: Iterable[x509.Certificate]) -> Path | None:
    """Return the path from `cert` to its issuer, whom its signature proves, if one is among them.

    It shows who can revoke `cert`, and nothing of whether the issuer is to be trusted.
    """
    issuers = (other for other in IssuerIndex(known).issuers_of(cert) if other != cert)
    issuer = next((other for other in issuers if signed_by(cert, other)), None)
    return None if issuer is None else Path((cert,), issuer)


def _one(
    signer: Signer | DirectError,
    envelope: Envelope,
    configured: Sequence[x509.Certificate],
    now: datetime,
) -> Signature:
    if isinstance(signer, DirectError):
        raise _unmatched(signer.detail)
    if signer.digest is None:
        raise _unmatched("the digest algorithm is not one of ours")
    digests = {signer.digest: hashlib.new(signer.digest.value, envelope.content).digest()}
    known = tuple(dict.fromkeys((*configured, *envelope.certificates)))
    try:
        verified = signer.verify(digests, known, _POLICY)
    except DirectError as error:
        raise _unmatched(error.detail) from None
    signed_at = signer_in(signer).signing_time
    if signed_at is not None and signed_at.tzinfo is None:
        raise _unmatched("the signing time is not in UTC")
    if signed_at is not None and signed_at > now + AHEAD:
        raise _unmatched(f"signed in the future, on {signed_at:%Y-%m-%d %H:%M}Z")
    cert = verified.certificate
    if not configured:
        return Signature(cert, signed_at, None, trusted=False)
    path = _path(cert, envelope.certificates, configured, now)
    # Where the signer itself is configured, whoever signed its certificate can still take it back.
    above = path if path.certificates[0] != path.anchor else issued_by(cert, known)
    return Signature(cert, signed_at, above, trusted=True)


def _path(
    cert: x509.Certificate,
    carried: Sequence[x509.Certificate],
    configured: Sequence[x509.Certificate],
    now: datetime,
) -> Path:
    try:
        path = find_path(cert, carried, configured, now=now, policy=_POLICY)
    except DirectError as error:
        if error.reason is Reason.NOT_TRUSTED:
            raise _unmatched(f"signed by another: {cert.subject.rfc4514_string()}") from None
        raise BundleError(Status.INVALID_SIGNING_CERT, error.detail) from None
    usages = [e.value for e in extensions_of(cert) if isinstance(e.value, x509.KeyUsage)]
    if any(not (usage.digital_signature or usage.content_commitment) for usage in usages):
        raise BundleError(Status.INVALID_SIGNING_CERT, "its keyUsage does not allow signing")
    return path


def _unmatched(detail: str) -> BundleError:
    return BundleError(Status.UNMATCHED_SIGNATURE, detail)
