"""Is any certificate of this path revoked, going by the answers that were fetched?

Pure: no I/O, no clock. `certs.directory` fetches the answers, for paths that end in an anchor only.

Standards:
    AS      Applicability Statement for Secure Health Transport v1.3, section 4.2
    RFC5280 section 6.3 (CRL validation)
    RFC6960 (OCSP)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509

from certs.crl import Crl
from certs.errors import DirectError, Reason
from certs.evidence import Revocation
from certs.issuers import IssuerIndex, name_key
from certs.locations import crl_urls, ocsp_urls
from certs.ocsp import Status, status_in
from certs.path import Path, find_path
from certs.policy import CertificatePolicy, RevocationMode

__all__ = ["judge"]


def judge(
    path: Path,
    revocation: Revocation,
    *,
    now: datetime,
    policy: CertificatePolicy,
    intermediates: Sequence[x509.Certificate] = (),
) -> Status:
    """Return GOOD where every certificate of `path` is known to be good or says of no list.

    UNKNOWN is returned where an answer should exist and does not, under soft-fail (K-06); the
    caller lets the message pass and tells the administrator. `intermediates` may hold the
    certificate of a key that signs only CRLs.

    Raises:
        DirectError: CERTIFICATE_REVOKED; REVOCATION_UNKNOWN under hard-fail.
    """
    # AS-081: where the leaf itself is an anchor, nobody above it can take it back.
    if path.certificates[0] == path.anchor:
        return Status.GOOD
    answers = _Answers(revocation, path, IssuerIndex(intermediates), now, policy)
    unknown: list[x509.Certificate] = []
    for cert, issuer in _pairs(path):
        match answers.status_of(cert, issuer):
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


@dataclass(frozen=True, slots=True)
class _Answers:
    """All answers there are, and what may speak for them."""

    revocation: Revocation
    path: Path
    intermediates: IssuerIndex
    now: datetime
    policy: CertificatePolicy

    def status_of(self, cert: x509.Certificate, issuer: x509.Certificate) -> Status:
        """Return what is known of one certificate; a revocation outweighs everything else."""
        known = {
            status_in(answer, cert, issuer, self.now) for answer in self.revocation.ocsp_responses
        }
        known |= {self._in_list(crl, cert, issuer) for crl in self.revocation.crls}
        if Status.REVOKED in known:
            return Status.REVOKED
        return Status.GOOD if Status.GOOD in known else Status.UNKNOWN

    def _in_list(self, crl: Crl, cert: x509.Certificate, issuer: x509.Certificate) -> Status:
        # RFC5280 6.3.3 (b) and (f): the right name, scope and key.
        if crl.issuer != name_key(cert.issuer) or crl.this_update > self.now:
            return Status.UNKNOWN
        if not crl.covers(cert) or not self._may_sign(crl, cert, issuer):
            return Status.UNKNOWN
        # AS-088: what an old list calls revoked stays so; what it lacks is good only while fresh.
        if crl.revokes(cert.serial_number):
            return Status.REVOKED
        return Status.GOOD if crl.fresh_at(self.now) else Status.UNKNOWN

    def _may_sign(self, crl: Crl, cert: x509.Certificate, issuer: x509.Certificate) -> bool:
        return crl.signed_by(issuer) or any(
            crl.signed_by(other) and self._same_ca(other)
            for other in self.intermediates.named_as_issuer_of(cert)
        )

    def _same_ca(self, signer: x509.Certificate) -> bool:
        # RFC5280 6.3.3 (f): another key of the same name speaks for the CA where its certificate
        # has a path of its own to the same anchor and is not revoked.
        try:
            above = find_path(
                signer, self.intermediates, [self.path.anchor], now=self.now, policy=self.policy
            )
        except DirectError:
            return False
        direct = replace(self, intermediates=IssuerIndex(()))
        return all(direct.status_of(*pair) is not Status.REVOKED for pair in _pairs(above))


def _pairs(path: Path) -> Iterator[tuple[x509.Certificate, x509.Certificate]]:
    return zip(path.certificates, (*path.certificates[1:], path.anchor), strict=True)
