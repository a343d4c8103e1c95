"""Is any certificate of this path revoked, going by the answers that were fetched?

Pure: no I/O, no clock. `certs.directory` fetches the answers, for paths that end in an anchor only.

Standards:
    AS      Applicability Statement for Secure Health Transport v1.3, section 4.2
    RFC5280 section 6.3 (CRL validation)
    RFC6960 (OCSP)
"""

from __future__ import annotations

from datetime import datetime

from cryptography import x509

from certs.crl import Crl
from certs.errors import DirectError, Reason
from certs.evidence import Revocation
from certs.issuers import name_key
from certs.locations import crl_urls, ocsp_urls
from certs.ocsp import Status, status_in
from certs.path import Path
from certs.policy import CertificatePolicy, RevocationMode

__all__ = ["judge", "status_of"]


def judge(
    path: Path, revocation: Revocation, *, now: datetime, policy: CertificatePolicy
) -> Status:
    """Return GOOD where every certificate of `path` is known to be good or says of no list.

    UNKNOWN is returned where an answer should exist and does not, under soft-fail (K-06); the
    caller lets the message pass and tells the administrator.

    Raises:
        DirectError: CERTIFICATE_REVOKED; REVOCATION_UNKNOWN under hard-fail.
    """
    # AS-081: where the leaf itself is an anchor, nobody above it can take it back.
    if path.certificates[0] == path.anchor:
        return Status.GOOD
    unknown: list[x509.Certificate] = []
    for cert, issuer in zip(path.certificates, (*path.certificates[1:], path.anchor), strict=True):
        match status_of(cert, issuer, revocation, now):
            case Status.REVOKED:
                raise DirectError(Reason.CERTIFICATE_REVOKED, f"serial {cert.serial_number:x}")
            case Status.UNKNOWN if crl_urls(cert) or ocsp_urls(cert):
                unknown.append(cert)
            case _:
                pass
    if not unknown:
        return Status.GOOD
    if policy.revocation is RevocationMode.HARD_FAIL:
        raise DirectError(
            Reason.REVOCATION_UNKNOWN, f"no answer for serial {unknown[0].serial_number:x}"
        )
    return Status.UNKNOWN


def status_of(
    cert: x509.Certificate, issuer: x509.Certificate, revocation: Revocation, now: datetime
) -> Status:
    """Return what is known of one certificate; a revocation in any answer outweighs the rest."""
    known = {status_in(answer, cert, issuer, now) for answer in revocation.ocsp_responses}
    known |= {_in_list(crl, cert, issuer, now) for crl in revocation.crls}
    if Status.REVOKED in known:
        return Status.REVOKED
    return Status.GOOD if Status.GOOD in known else Status.UNKNOWN


def _in_list(crl: Crl, cert: x509.Certificate, issuer: x509.Certificate, now: datetime) -> Status:
    # RFC5280 6.3.3 (b) and (f): right name, right scope, right key. AS-088: what an old list
    # calls revoked stays revoked; what it does not list is good only while it is fresh.
    if crl.issuer != name_key(cert.issuer) or crl.this_update > now:
        return Status.UNKNOWN
    if not (crl.covers(cert) and crl.signed_by(issuer)):
        return Status.UNKNOWN
    if crl.revokes(cert.serial_number):
        return Status.REVOKED
    return Status.GOOD if crl.fresh_at(now) else Status.UNKNOWN
