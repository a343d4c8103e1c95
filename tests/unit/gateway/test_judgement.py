from __future__ import annotations

import io
from dataclasses import replace

import pytest

from certs.address import DirectAddress, parse_address
from certs.binding import Binding
from certs.errors import DirectError, Reason
from certs.evidence import Level
from certs.policy import CertificatePolicy, Profile
from gateway.judgement import (
    Judgement,
    Opened,
    check_envelope,
    check_for_each,
    is_notice,
    judge,
    open_message,
    signer_evidence,
)
from gateway.message import Facts, facts_of
from gateway.ports import Envelope
from tests.helpers.agent import CHEN, DESK, GP, NURSE, RIVERA, identity, mail, our_ca, peer_ca, seal
from tests.helpers.pki import NOW
from trust_bundles.anchors import Anchors
from trust_bundles.decision import Decision
from trust_bundles.verdicts import VerdictCache

POLICY = CertificatePolicy()
PEERS = Anchors([peer_ca().certificate])
NOBODY = Anchors([])


def facts(*, sender: DirectAddress | None = None, report_type: str | None = None) -> Facts:
    message = mail(CHEN, RIVERA, more=[f"Cc: {DESK}"])
    return replace(facts_of(io.BytesIO(message)), sender=sender, report_type=report_type)


def opened(message: bytes, signer: DirectAddress = CHEN) -> tuple[Opened, bytes]:
    scratch = io.BytesIO()
    sealed = io.BytesIO(seal(message, identity(signer), RIVERA))
    found = open_message(sealed, scratch, identities=[identity(RIVERA)], policy=POLICY)
    return found, scratch.getvalue()


def test_open_message_is_the_inner_one_with_its_facts() -> None:
    found, content = opened(mail(CHEN, RIVERA))
    assert content == mail(CHEN, RIVERA)
    assert (found.facts.author, found.unsealed.wrapped) == (CHEN, True)


def test_message_whose_header_is_malformed_is_not_open() -> None:
    with pytest.raises(DirectError) as caught:
        opened(b"Subject: no author\r\n\r\n")
    assert caught.value.reason is Reason.MESSAGE_MALFORMED


@pytest.mark.parametrize("authors", [(CHEN, GP), (GP, CHEN), (GP, GP, CHEN)], ids=len)
def test_of_several_authors_the_one_counts_whom_the_signer_may_speak_for(
    authors: tuple[DirectAddress, ...],
) -> None:
    listed = ", ".join(map(str, authors))
    message = mail(CHEN, RIVERA).replace(
        f"From: {CHEN}".encode(), f"From: {listed}\r\nSender: {CHEN}".encode()
    )
    found, _ = opened(message)
    assert found.facts.author == CHEN
    policies = {RIVERA: POLICY}
    judged = judge(signer_evidence(found), {RIVERA: PEERS}, now=NOW, policies=policies)
    assert judged.accepted == (RIVERA,)


def test_of_several_authors_of_whom_none_has_signed_none_is_trusted() -> None:
    message = mail(CHEN, RIVERA).replace(
        f"From: {CHEN}".encode(), f"From: {CHEN}, {NURSE}\r\nSender: {CHEN}".encode()
    )
    found, _ = opened(message, signer=GP)
    judged = judge(signer_evidence(found), {RIVERA: PEERS}, now=NOW, policies={RIVERA: POLICY})
    assert judged.decisions[RIVERA].reason is Reason.CERTIFICATE_NOT_BOUND


@pytest.mark.parametrize(
    ("message", "envelope"),
    [
        pytest.param(facts(), Envelope(CHEN, (RIVERA, DESK)), id="author"),
        pytest.param(facts(sender=NURSE), Envelope(NURSE, (RIVERA,)), id="sender"),
        pytest.param(
            facts(),
            Envelope(parse_address(str(CHEN).upper()), (parse_address(str(RIVERA).upper()),)),
            id="in-capitals",
        ),
        pytest.param(
            facts(report_type="delivery-status"), Envelope(None, (RIVERA,)), id="null-of-a-report"
        ),
    ],
)
def test_envelope_that_agrees_with_the_header(message: Facts, envelope: Envelope) -> None:
    check_envelope(message, envelope, Profile.AS_1_3)


@pytest.mark.parametrize(
    ("message", "envelope"),
    [
        pytest.param(facts(), Envelope(NURSE, (RIVERA,)), id="other-sender"),
        pytest.param(facts(), Envelope(None, (RIVERA,)), id="null-of-a-message"),
        pytest.param(
            facts(report_type="feedback-report"), Envelope(None, (RIVERA,)), id="null-of-no-notice"
        ),
        pytest.param(facts(), Envelope(CHEN, (RIVERA, NURSE)), id="recipient-not-named"),
        pytest.param(
            facts(report_type="delivery-status"), Envelope(None, (NURSE,)), id="report-to-others"
        ),
    ],
)
def test_envelope_that_does_not_agree_with_the_header(message: Facts, envelope: Envelope) -> None:
    with pytest.raises(DirectError) as caught:
        check_envelope(message, envelope, Profile.AS_1_3)
    assert caught.value.reason is Reason.ENVELOPE_MISMATCH
    check_envelope(message, envelope, Profile.AS_1_2)  # which does not compare


@pytest.mark.parametrize(
    ("report_type", "notice"),
    [
        ("disposition-notification", True),
        ("delivery-status", True),
        ("feedback-report", False),
        (None, False),
    ],
)
def test_notice(report_type: str | None, notice: bool) -> None:
    assert is_notice(facts(report_type=report_type)) is notice


def test_evidence_is_what_the_message_carried_about_its_author() -> None:
    found, _ = opened(mail(CHEN, RIVERA))
    evidence = signer_evidence(found)
    assert evidence.address == CHEN
    assert [(each.certificate, each.level) for each in evidence.found] == [
        (identity(CHEN).certificate, Level.MESSAGE)
    ]


def judged(message: bytes, *, signer: DirectAddress = CHEN, **anchors: Anchors) -> Judgement:
    evidence = signer_evidence(opened(message, signer)[0])
    by_address = {{"rivera": RIVERA, "desk": DESK}[name]: a for name, a in anchors.items()}
    policies = dict.fromkeys(by_address, POLICY)
    return judge(evidence, by_address, now=NOW, policies=policies, cache=VerdictCache())


def test_each_recipient_judges_by_its_own_anchors() -> None:
    judgement = judged(mail(CHEN, RIVERA), rivera=NOBODY, desk=PEERS)
    assert judgement.accepted == (DESK,)
    assert judgement.decisions[RIVERA].reason is Reason.NOT_TRUSTED
    judgement.require_one()
    for verdict in (judgement.deciding, judgement.deciding_for(DESK)):
        assert verdict is not None
        assert (verdict.anchor, verdict.binding) == (peer_ca().certificate, Binding.ADDRESS)
    refused = judgement.deciding_for(RIVERA)
    assert refused is not None
    assert (refused.reason, refused.anchor) == (Reason.NOT_TRUSTED, None)


@pytest.mark.parametrize(
    ("signer", "anchors", "reason"),
    [
        pytest.param(CHEN, Anchors([our_ca().certificate]), Reason.NOT_TRUSTED, id="not-trusted"),
        pytest.param(NURSE, PEERS, Reason.CERTIFICATE_NOT_BOUND, id="signed-by-a-colleague"),
    ],
)
def test_message_that_nobody_trusts(
    signer: DirectAddress, anchors: Anchors, reason: Reason
) -> None:
    judgement = judged(mail(CHEN, RIVERA), signer=signer, rivera=anchors)
    assert judgement.accepted == ()
    with pytest.raises(DirectError) as caught:
        judgement.require_one()
    assert caught.value.reason is reason


def test_reason_that_may_pass_comes_first() -> None:
    never = Decision(CHEN, (), (), Reason.NOT_TRUSTED, "no anchor")
    later = Decision(CHEN, (), (), Reason.REVOCATION_UNKNOWN, "no CRL")
    with pytest.raises(DirectError) as caught:
        Judgement({RIVERA: never, DESK: later}).require_one()
    assert (caught.value.reason, caught.value.detail) == (Reason.REVOCATION_UNKNOWN, "no CRL")


def test_each_recipients_policy_admits_the_message_or_not() -> None:
    found, _ = opened(mail(CHEN, RIVERA, more=[f"Cc: {DESK}"]))
    envelope = Envelope(CHEN, (RIVERA, DESK))
    strict = replace(POLICY, ciphers=frozenset({"aes256-gcm"}))
    policies = {RIVERA: POLICY, DESK: strict}
    refused = check_for_each(found, envelope, policies)
    assert {r: e.reason for r, e in refused.items()} == {DESK: Reason.ALGORITHM_REFUSED}
    anchors = dict.fromkeys(policies, PEERS)
    judged = judge(signer_evidence(found), anchors, now=NOW, policies=policies)
    assert judged.without({}) is judged
    assert judged.without(refused).accepted == (RIVERA,)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (replace(POLICY, digests=frozenset({"sha512"})), Reason.ALGORITHM_REFUSED),
        (replace(POLICY, ciphers=frozenset({"aes128-cbc"})), Reason.ALGORITHM_REFUSED),
    ],
)
def test_message_that_no_policy_admits_is_refused_as_a_whole(
    policy: CertificatePolicy, reason: Reason
) -> None:
    found, _ = opened(mail(CHEN, RIVERA))
    with pytest.raises(DirectError) as caught:
        check_for_each(found, Envelope(CHEN, (RIVERA,)), {RIVERA: policy})
    assert caught.value.reason is reason


def test_compressed_message_is_for_those_who_accept_that() -> None:
    found, _ = opened(mail(CHEN, RIVERA, more=[f"Cc: {DESK}"]))
    small = replace(found, unsealed=replace(found.unsealed, compressed=True))
    policies = {RIVERA: POLICY, DESK: replace(POLICY, inflated_octets=1024)}
    refused = check_for_each(small, Envelope(CHEN, (RIVERA, DESK)), policies)
    assert {r: e.reason for r, e in refused.items()} == {RIVERA: Reason.ALGORITHM_REFUSED}


def test_message_without_a_wrapper_is_for_those_who_accept_that() -> None:
    found, _ = opened(mail(CHEN, RIVERA))
    bare = replace(found, unsealed=replace(found.unsealed, wrapped=False))
    envelope = Envelope(CHEN, (RIVERA,))
    assert check_for_each(bare, envelope, {RIVERA: POLICY}) == {}
    with pytest.raises(DirectError) as caught:
        check_for_each(bare, envelope, {RIVERA: replace(POLICY, accept_unwrapped=False)})
    assert caught.value.reason is Reason.MESSAGE_MALFORMED
