"""Why is this certificate trusted, or why not? Every path tried, and what would change the answer.

Pure. It asks the same functions that decide, so what it tells is what was decided.

Standards:
    AS      Applicability Statement for Secure Health Transport v1.3, section 4.2
    RFC5280 section 6.1
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from cryptography import x509

from certs.errors import DirectError, Reason
from certs.evidence import Evidence, Revocation
from certs.issuers import IssuerIndex, name_key, signed_by
from certs.locations import crl_urls, ocsp_urls
from certs.path import DEPTH, attempts
from certs.policy import CIPHERS, DIGESTS, KEYS, CertificatePolicy, Profile, RevocationMode
from trust_bundles.anchors import Anchors
from trust_bundles.decision import Decision, Verdict

__all__ = ["RevocationShown", "Try", "clauses_against", "revocation_shown", "tries_for"]

# Each clause of a policy at its loosest: what would be, were it not there.
_LOOSEST: Final = CertificatePolicy(
    profile=Profile.AS_1_2,
    minimum_rsa_bits=1024,
    keys=KEYS,
    digests=DIGESTS,
    ciphers=CIPHERS,
    allow_sha1=True,
    required_policies=frozenset(),
    require_key_separation=False,
    revocation=RevocationMode.SOFT_FAIL,
)
_CLAUSES: Final = (
    "profile",
    "minimum_rsa_bits",
    "keys",
    "digests",
    "allow_sha1",
    "required_policies",
    "require_key_separation",
    "revocation",
)


@dataclass(frozen=True, slots=True)
class Try:
    """One chain from a certificate upwards. `anchor` None: it ends below every anchor.

    `failure` None: the path holds.
    """

    certificates: tuple[x509.Certificate, ...]
    anchor: x509.Certificate | None
    failure: str | None


@dataclass(frozen=True, slots=True)
class RevocationShown:
    """What is known of a certificate's revocation, from where, and how old that is."""

    status: str  # "good", "revoked", "unknown", "not-checked", "not-published"
    source: str | None
    age_s: int | None
    unreachable: tuple[str, ...]


def tries_for(
    verdict: Verdict,
    evidence: Evidence,
    anchors: Anchors,
    *,
    now: datetime,
    policy: CertificatePolicy,
) -> tuple[Try, ...]:
    """Return the paths that were tried for a certificate; where there are none, how far one came.

    A certificate that failed before paths were looked for has its chain shown all the same.
    """
    leaf = verdict.certificate
    if leaf in anchors:
        return (Try((leaf,), leaf, None),)
    intermediates = evidence.intermediates
    try:
        tried = [
            Try(
                attempt.path.certificates,
                attempt.path.anchor,
                attempt.failure.detail if attempt.failure else None,
            )
            for attempt in attempts(leaf, intermediates, anchors, now=now, policy=policy)
        ]
    except DirectError as error:
        return (Try((leaf,), None, error.detail),)
    return tuple(tried) or (_dead_end(leaf, IssuerIndex(intermediates), anchors),)


def clauses_against(
    verdict: Verdict,
    policy: CertificatePolicy,
    decide_with: Callable[[CertificatePolicy], Decision],
) -> tuple[str, ...]:
    """Return the clauses of `policy` without any one of which the certificate would be trusted."""
    if verdict.reason is None:
        return ()
    against = []
    for clause in _CLAUSES:
        looser = replace(policy, **{clause: getattr(_LOOSEST, clause)})
        if looser != policy and _trusts(decide_with(looser), verdict.certificate):
            against.append(clause)
    return tuple(against)


def revocation_shown(verdict: Verdict, revocation: Revocation, now: datetime) -> RevocationShown:
    """Return what the revocation answers say of a judged certificate."""
    cert = verdict.certificate
    unreachable = revocation.unreachable
    crls = [crl for crl in revocation.crls if crl.issuer == name_key(cert.issuer)]
    if verdict.reason is Reason.CERTIFICATE_REVOKED:
        status = "revoked"
    elif verdict.revocation is None:
        unknown = verdict.reason is Reason.REVOCATION_UNKNOWN
        return RevocationShown("unknown" if unknown else "not-checked", None, None, unreachable)
    else:
        status = verdict.revocation.value
    if crls:
        newest = max(crl.this_update for crl in crls)
        source = next(iter(crl_urls(cert)), None)
        return RevocationShown(status, source, _age_s(newest, now), unreachable)
    if revocation.ocsp_responses and ocsp_urls(cert):
        answered = max(
            answer.this_update_utc
            for answer in revocation.ocsp_responses
            if answer.this_update_utc is not None
        )
        return RevocationShown(status, ocsp_urls(cert)[0], _age_s(answered, now), unreachable)
    if not (crl_urls(cert) or ocsp_urls(cert)):
        return RevocationShown("not-published", None, None, unreachable)
    return RevocationShown(status, None, None, unreachable)


def _dead_end(leaf: x509.Certificate, intermediates: IssuerIndex, anchors: Anchors) -> Try:
    chain: tuple[x509.Certificate, ...] = (leaf,)
    while len(chain) <= DEPTH:
        below = chain[-1]
        above = [cert for cert in intermediates.issuers_of(below) if cert not in chain]
        issuer = next((cert for cert in above if signed_by(below, cert)), None)
        if issuer is None:
            break
        chain = (*chain, issuer)
    last = chain[-1]
    wanted = last.issuer.rfc4514_string()
    if last.issuer == last.subject:
        why = "ends in a root that is no anchor"
    elif anchors.issuers_of(last):
        why = f"an anchor has the issuer's name, {wanted}, but did not sign it"
    else:
        why = f"its issuer, {wanted}, is no anchor and was not found"
    return Try(chain, None, why)


def _trusts(decision: Decision, cert: x509.Certificate) -> bool:
    return cert in decision.certificates


def _age_s(at: datetime, now: datetime) -> int:
    return max(0, int((now - at).total_seconds()))
