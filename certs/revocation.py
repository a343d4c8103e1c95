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
from certs.crl_scope import ALL_REASONS
from certs.errors import DirectError, Reason
from certs.evidence import Revocation
from certs.issuers import IssuerIndex, name_key
from certs.locations import crl_urls, ocsp_urls
from certs.ocsp import Status, status_in
from certs.path import Path, find_path
from certs.policy import CertificatePolicy, RevocationMode

__all__ = ["authentic", "judge", "statuses_of"]


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
    known = statuses_of(path, revocation, now=now, policy=policy, intermediates=intermediates)
    unknown: list[x509.Certificate] = []
    for cert, status in zip(path.certificates, known, strict=True):
        if status is Status.REVOKED:
            raise DirectError(Reason.CERTIFICATE_REVOKED, f"serial {cert.serial_number:x}")
        # AS-087: a certificate that names no list and no responder needs no answer.
        if status is Status.UNKNOWN and (crl_urls(cert) or ocsp_urls(cert)):
            unknown.append(cert)
    if not unknown:
        return Status.GOOD
    if policy.revocation is RevocationMode.HARD_FAIL:
        raise DirectError(
            Reason.REVOCATION_UNKNOWN, f"no answer for serial {unknown[0].serial_number:x}"
        )
    return Status.UNKNOWN


def authentic(stapled: Revocation, paths: Sequence[Path], now: datetime) -> Revocation:
    """Return the answers that a CA of one of `paths` signed, about a certificate of that path."""
    pairs = [pair for path in paths for pair in _pairs(path)]
    return Revocation(
        crls=tuple(
            crl
            for crl in stapled.crls
            if any(crl.issuer == name_key(c.issuer) and crl.signed_by(i) for c, i in pairs)
        ),
        ocsp_responses=tuple(
            answer
            for answer in stapled.ocsp_responses
            if any(status_in(answer, *pair, now) is not Status.UNKNOWN for pair in pairs)
        ),
    )


def statuses_of(
    path: Path,
    revocation: Revocation,
    *,
    now: datetime,
    policy: CertificatePolicy,
    intermediates: Sequence[x509.Certificate] = (),
) -> tuple[Status, ...]:
    """Return what is known of each certificate of `path`, in its order."""
    answers = _Answers(revocation, path, IssuerIndex(intermediates), now, policy)
    return tuple(answers.status_of(cert, issuer) for cert, issuer in _pairs(path))


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
        known.add(self._in_lists(cert, issuer))
        if Status.REVOKED in known:
            return Status.REVOKED
        return Status.GOOD if Status.GOOD in known else Status.UNKNOWN

    def _in_lists(self, cert: x509.Certificate, issuer: x509.Certificate) -> Status:
        lists = [crl for crl in self.revocation.crls if self._speaks(crl, cert, issuer)]
        deltas = [crl for crl in lists if crl.scope.base is not None and crl.fresh_at(self.now)]
        answered: set[x509.ReasonFlags] = set()
        for crl in lists:
            if crl.scope.base is not None:
                continue
            # AS-088: what an old list calls revoked stays so; what it lacks is good while fresh.
            if _revokes(crl, [d for d in deltas if _continues(d, crl)], cert.serial_number):
                return Status.REVOKED
            if crl.fresh_at(self.now):
                answered |= crl.reasons_for(cert)
        # RFC5280 6.3.3: lists of some reasons each are an answer when they cover all together.
        return Status.GOOD if answered >= ALL_REASONS else Status.UNKNOWN

    def _speaks(self, crl: Crl, cert: x509.Certificate, issuer: x509.Certificate) -> bool:
        # RFC5280 6.3.3 (b) and (f): the right name, time, scope and key.
        return (
            crl.issuer == name_key(cert.issuer)
            and crl.this_update <= self.now
            and bool(crl.reasons_for(cert))
            and self._may_sign(crl, cert, issuer)
        )

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


def _continues(delta: Crl, complete: Crl) -> bool:
    # RFC5280 6.3.3 (c): same scope, made for this list or an earlier one, and not older than it.
    ours, theirs = complete.scope, delta.scope
    if ours.number is None or theirs.number is None or theirs.base is None:
        return False
    return ours.point == theirs.point and theirs.base <= ours.number <= theirs.number


def _revokes(complete: Crl, deltas: Sequence[Crl], serial: int) -> bool:
    if any(delta.revokes(serial) for delta in deltas):
        return True
    return complete.revokes(serial) and not any(delta.removes(serial) for delta in deltas)
