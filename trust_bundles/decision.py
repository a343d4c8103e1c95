"""May this address be written to, or believed? The one trust decision.

Pure: evidence, anchors, policy and `now` go in, a decision comes out. The order of the judgements
is fixed: bound, valid in time, fit, path, revocation. A verdict names the first that failed.

Standards:
    AS  Applicability Statement for Secure Health Transport v1.3, chapters 1.4, 2.8 and 4
    CD  Certificate Discovery for Direct v4.1, section 2
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509

from certs.address import DirectAddress
from certs.binding import Binding, binding_of
from certs.errors import DirectError, Reason
from certs.evidence import Evidence, Found, Level
from certs.ocsp import Status
from certs.path import Path, find_path
from certs.policy import CertificatePolicy
from certs.profile import fit_to_encrypt, fit_to_sign, valid_at
from certs.revocation import judge
from trust_bundles.anchors import Anchors
from trust_bundles.policy import Purpose
from trust_bundles.verdicts import Judged, VerdictCache, key_of

__all__ = ["Decision", "Verdict", "decide", "is_judged"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one certificate. `reason` None: usable and trusted.

    `path` goes from the certificate to the one below `anchor`. `revocation` is UNKNOWN where an
    answer should exist, none does, and the domain's policy lets that pass.
    """

    certificate: x509.Certificate
    level: Level
    binding: Binding | None = None
    reason: Reason | None = None
    detail: str | None = None
    anchor: x509.Certificate | None = None
    path: tuple[x509.Certificate, ...] = ()
    revocation: Status | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """`certificates` are all that are usable and trusted (AS-055); `reason` None where any is."""

    address: DirectAddress
    certificates: tuple[x509.Certificate, ...]
    verdicts: tuple[Verdict, ...]
    reason: Reason | None
    detail: str | None


DEFAULT_POLICY: Final = CertificatePolicy()


def decide(
    address: DirectAddress,
    evidence: Evidence,
    anchors: Sequence[x509.Certificate],
    *,
    purpose: Purpose,
    now: datetime,
    policy: CertificatePolicy = DEFAULT_POLICY,
    cache: VerdictCache | None = None,
) -> Decision:
    """Judge every certificate found for `address` against the anchors of whoever trusts it.

    One bad certificate never spoils the others of its set (CD-004), and none of them sends the
    question on to the next level of discovery (CD-003): that was decided when they were found.
    Where nothing is usable, `reason` is that of the certificate that came furthest. Nothing is
    raised: one address's failure is a value.
    """
    trusted = anchors if isinstance(anchors, Anchors) else Anchors(anchors)
    task = _Task(address, evidence, trusted, purpose, now, policy, cache)
    verdicts = tuple(task.verdict(found) for found in evidence.found)
    usable = tuple(verdict.certificate for verdict in verdicts if verdict.reason is None)
    if usable:
        return Decision(address, usable, verdicts, None, None)
    if not verdicts:
        reason = evidence.failure or Reason.CERTIFICATE_NOT_FOUND
        return Decision(address, (), (), reason, f"no certificate found for {address}")
    best = max(verdicts, key=lambda verdict: _PROGRESS[verdict.reason or Reason.INTERNAL])
    return Decision(address, (), verdicts, best.reason, best.detail)


def is_judged(
    evidence: Evidence,
    anchors: Anchors,
    *,
    purpose: Purpose,
    now: datetime,
    policy: CertificatePolicy,
    cache: VerdictCache,
) -> bool:
    """Say whether `decide` has but to look its verdicts up, which takes microseconds."""
    keys = (key_of(f.certificate, evidence, anchors, purpose, policy) for f in evidence.found)
    return all(cache.get(key, now) is not None for key in keys)


@dataclass(frozen=True, slots=True)
class _Task:
    """What all verdicts of one decision share."""

    address: DirectAddress
    evidence: Evidence
    anchors: Anchors
    purpose: Purpose
    now: datetime
    policy: CertificatePolicy
    cache: VerdictCache | None

    def verdict(self, found: Found) -> Verdict:
        cert, level = found.certificate, found.level
        binding = None
        try:
            binding = binding_of(cert, self.address, self.policy.profile)
            _published_where_it_belongs(binding, level)
            valid_at(cert, self.now)
            judged = self._judged(cert)
        except DirectError as error:
            return Verdict(cert, level, binding, error.reason, error.detail)
        if judged.path is None:
            return Verdict(cert, level, binding, judged.reason, judged.detail)
        certificates, anchor = judged.path.certificates, judged.path.anchor
        return Verdict(
            cert, level, binding, judged.reason, judged.detail, anchor, certificates, judged.status
        )

    def _judged(self, cert: x509.Certificate) -> Judged:
        if self.cache is None:
            return self._judge(cert)
        key = key_of(cert, self.evidence, self.anchors, self.purpose, self.policy)
        known = self.cache.get(key, self.now)
        if known is None:
            known = self._judge(cert)
            self.cache.put(key, known, self.now)
        return known

    def _judge(self, cert: x509.Certificate) -> Judged:
        path: Path | None = None
        revocation = self.evidence.revocation
        try:
            _FIT[self.purpose](cert, self.policy)
            path = find_path(
                cert, self.evidence.intermediates, self.anchors, now=self.now, policy=self.policy
            )
            status = judge(
                path,
                revocation,
                now=self.now,
                policy=self.policy,
                intermediates=self.evidence.intermediates,
            )
        except DirectError as error:
            return Judged(path, None, error.reason, error.detail, revocation)
        return Judged(path, status, None, None, revocation)


def _published_where_it_belongs(binding: Binding, level: Level) -> None:
    # CD-005: an address's own certificate is address-bound, a domain's is domain-bound.
    if binding is not _LEVEL_BINDING.get(level, binding):
        raise DirectError(
            Reason.CERTIFICATE_NOT_BOUND, f"{binding.value} certificate found at {level.value}"
        )


_LEVEL_BINDING: Final[Mapping[Level, Binding]] = {
    Level.DNS_ADDRESS: Binding.ADDRESS,
    Level.DNS_DOMAIN: Binding.DOMAIN,
    Level.LDAP_ADDRESS: Binding.ADDRESS,
    Level.LDAP_DOMAIN: Binding.DOMAIN,
}
_FIT: Final = {Purpose.ENCRYPT: fit_to_encrypt, Purpose.SIGN: fit_to_sign}

# How far a certificate came, by the reason it stopped: the order of the judgements.
_PROGRESS: Final[Mapping[Reason, int]] = {
    reason: number
    for number, reason in enumerate(
        (
            Reason.INTERNAL,
            Reason.CERTIFICATE_NOT_BOUND,
            Reason.CERTIFICATE_EXPIRED,
            Reason.CERTIFICATE_UNFIT,
            Reason.NOT_TRUSTED,
            Reason.CERTIFICATE_REVOKED,
            Reason.REVOCATION_UNKNOWN,
        )
    )
}
