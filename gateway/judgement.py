"""Is this received message what a Direct message must be, and for whom?

Pure. `open_message` undoes encryption and signature into a private scratch file; `check_envelope`
and `judge` say whether it may be released. The incoming pipeline and `inspect` both come here, so
that what is inspected is what would have happened.

Standards:
    AS      Applicability Statement v1.3, sections 2, 3 and 4 (AS-022, AS-029, AS-057, AS-070 to
            AS-077 in our catalogue)
    RFC5321 section 4.5.5 (the null reverse-path)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import BinaryIO, Final

from certs.address import DirectAddress
from certs.binding import binding_of
from certs.cms.algorithms import (
    ContentEncryption,
    Digest,
    permit_content_encryption,
    permit_digest,
    refused,
)
from certs.errors import DirectError, Reason
from certs.evidence import Evidence, Found, Level
from certs.identity import Identity
from certs.policy import CertificatePolicy, Profile
from gateway import smime
from gateway.header import parse_header
from gateway.message import Facts, facts_from, header_of
from gateway.ports import Envelope
from gateway.unsealed import Unsealed
from trust_bundles.anchors import Anchors
from trust_bundles.decision import Decision, Verdict, decide
from trust_bundles.policy import Purpose
from trust_bundles.verdicts import VerdictCache

__all__ = [
    "Judgement",
    "Opened",
    "check_envelope",
    "check_for_each",
    "is_notice",
    "judge",
    "open_message",
    "signer_evidence",
]

# A multipart/report of another type tells nothing about a message: it is one.
_NOTICES: Final = frozenset({"disposition-notification", "delivery-status"})


@dataclass(frozen=True, slots=True)
class Opened:
    """A message out of its envelope, its signature verified, its signer not yet judged."""

    unsealed: Unsealed
    facts: Facts


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was decided for each recipient, and by which bundle it trusts, where it is by one."""

    decisions: Mapping[DirectAddress, Decision]
    bundles: Mapping[DirectAddress, str] = field(default_factory=dict)

    @property
    def accepted(self) -> tuple[DirectAddress, ...]:
        """The recipients that trust the signer."""
        return tuple(a for a, decision in self.decisions.items() if decision.reason is None)

    @property
    def deciding(self) -> Verdict | None:
        """The verdict that decided: the first that holds, else the first there is."""
        return _deciding(self.decisions.values())

    def deciding_for(self, recipient: DirectAddress) -> Verdict | None:
        """The verdict that decided for one recipient, by its own anchors."""
        return _deciding([self.decisions[recipient]])

    def without(self, refusals: Mapping[DirectAddress, DirectError]) -> Judgement:
        """Return this judgement with these recipients' decisions turned down beforehand."""
        turned_down = {
            address: Decision(address, (), (), error.reason, error.detail)
            for address, error in refusals.items()
        }
        if not turned_down:
            return self
        return replace(self, decisions={**self.decisions, **turned_down})

    @property
    def unsettled(self) -> Mapping[DirectAddress, Decision]:
        """The decisions that may be others later, by recipient."""
        return {a: d for a, d in self.decisions.items() if d.reason and d.reason.retryable}

    @property
    def settled(self) -> Judgement:
        """This judgement without those decisions."""
        unsettled = self.unsettled
        settled = {a: d for a, d in self.decisions.items() if a not in unsettled}
        return replace(self, decisions=settled)

    def require_one(self) -> None:
        """Return where at least one recipient trusts the signer.

        Raises:
            DirectError: the reason of the first recipient's decision, but one that may pass comes
                before one that does not.
        """
        if not self.accepted:
            decisions = self.decisions.values()
            passing = (d for d in decisions if d.reason is not None and d.reason.retryable)
            decision = next(passing, next(iter(decisions)))
            raise DirectError(decision.reason or Reason.NOT_TRUSTED, decision.detail or "")


def open_message(
    message: BinaryIO,
    scratch: BinaryIO,
    *,
    identities: Sequence[Identity],
    policy: CertificatePolicy,
) -> Opened:
    """Return `message` decrypted and verified, its inner message written to `scratch`.

    Raises:
        DirectError: NOT_SECURED, DECRYPTION_FAILED, SIGNATURE_INVALID, ALGORITHM_REFUSED,
            MESSAGE_MALFORMED, MESSAGE_TOO_BIG.
    """
    unsealed = smime.unseal(message, scratch, identities=identities, policy=policy)
    scratch.seek(0)
    fields = parse_header(header_of(scratch))
    return Opened(unsealed, facts_from(fields, _vouching(unsealed, policy)))


def _vouching(unsealed: Unsealed, policy: CertificatePolicy) -> Callable[[DirectAddress], bool]:
    """Return what says whether a signer's certificate is bound to an address; trust comes later."""

    def vouched(address: DirectAddress) -> bool:
        for signer in unsealed.signers:
            with suppress(DirectError):
                binding_of(signer.certificate, address, policy.profile)
                return True
        return False

    return vouched


def check_envelope(facts: Facts, envelope: Envelope, profile: Profile) -> None:
    """Return where the SMTP envelope agrees with the authenticated inner header (AS-029).

    Raises:
        DirectError: ENVELOPE_MISMATCH.
    """
    if profile is Profile.AS_1_2:
        return
    if envelope.sender is None:
        # K-03: RFC 8098 and RFC 3464 demand the null reverse-path for reports.
        if not is_notice(facts):
            raise _mismatch("null reverse-path on a message that is not a report")
    elif envelope.sender not in (facts.author, facts.sender):
        raise _mismatch("MAIL FROM is neither From nor Sender")
    named = {*facts.to, *facts.cc}
    if any(recipient not in named for recipient in envelope.recipients):
        raise _mismatch("RCPT TO is in neither To nor Cc")


def check_for_each(
    opened: Opened, envelope: Envelope, policies: Mapping[DirectAddress, CertificatePolicy]
) -> dict[DirectAddress, DirectError]:
    """Return the recipients whose policies do not admit the message, and why.

    It was opened once for all of them, by what any of them allows.

    Raises:
        DirectError: the first recipient's reason, where no policy admits it.
    """
    refusals: dict[DirectAddress, DirectError] = {}
    for recipient, policy in policies.items():
        try:
            check_envelope(opened.facts, envelope, policy.profile)
            _check_unsealed(opened.unsealed, policy)
        except DirectError as error:
            refusals[recipient] = error
    if refusals and len(refusals) == len(policies):
        raise next(iter(refusals.values()))
    return refusals


def _check_unsealed(unsealed: Unsealed, policy: CertificatePolicy) -> None:
    if not (unsealed.wrapped or policy.accept_unwrapped):
        raise DirectError(Reason.MESSAGE_MALFORMED, "the message is not wrapped")
    if unsealed.compressed and not policy.inflated_octets:
        raise refused("the message is compressed")
    permit_content_encryption(ContentEncryption(unsealed.algorithms.content_encryption), policy)
    for signer in unsealed.signers:
        permit_digest(Digest(signer.digest), policy)


def is_notice(facts: Facts) -> bool:
    """Say whether the message is an MDN or a DSN: nothing is ever sent about one (AS-091)."""
    return facts.report_type in _NOTICES


def signer_evidence(opened: Opened) -> Evidence:
    """Return the signers' certificates, as evidence about the author's address (AS-072)."""
    return Evidence(
        address=opened.facts.author,
        found=tuple(Found(s.certificate, Level.MESSAGE) for s in opened.unsealed.signers),
        intermediates=opened.unsealed.certificates,
        revocation=opened.unsealed.stapled,
    )


def judge(
    evidence: Evidence,
    anchors: Mapping[DirectAddress, Anchors],
    *,
    now: datetime,
    policies: Mapping[DirectAddress, CertificatePolicy],
    cache: VerdictCache | None = None,
) -> Judgement:
    """Decide for each recipient, by its own anchors, whether the signer speaks for the author.

    `policies` are those of the recipients' domains.
    One valid, bound and trusted signer is enough; others are ignored (AS-057, AS-074).
    """
    return Judgement(
        {
            recipient: decide(
                evidence.address,
                evidence,
                trusted,
                purpose=Purpose.SIGN,
                now=now,
                policy=policies[recipient],
                cache=cache,
            )
            for recipient, trusted in anchors.items()
        }
    )


def _deciding(decisions: Iterable[Decision]) -> Verdict | None:
    verdicts = [verdict for decision in decisions for verdict in decision.verdicts]
    holding = (verdict for verdict in verdicts if verdict.reason is None)
    return next(holding, next(iter(verdicts), None))


def _mismatch(detail: str) -> DirectError:
    return DirectError(Reason.ENVELOPE_MISMATCH, detail)
