from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from certs.evidence import Level
from certs.issue import Locations
from certs.issuers import sha256_of
from certs.policy import CertificatePolicy, Profile, RevocationMode
from gateway import domains, queue_control
from gateway.database import SqlDatabase
from gateway.header import parse_header
from gateway.mdn import Disposition
from gateway.messages import Direction, Kind, MessageState
from gateway.results import Done, Retry
from tests.helpers.agent import (
    BACKBONE,
    CHEN,
    DAY,
    DESK,
    GP,
    NURSE,
    RIVERA,
    WANTS_DISPATCHED,
    WINDOW,
    Agent,
    identity,
    mail,
    open_agent,
    peer_ca,
    seal,
)
from tests.helpers.pki import NOW, Ca, pem
from tests.helpers.trust import install_bundle
from trust_bundles import store
from trust_bundles.bundles import attach
from trust_bundles.policies import remove_policy, set_policy
from trust_bundles.policy import Direction as Way

STRANGER = Ca.create("Stranger CA")
LAB = parse_address("lab@clinic.hillside.example")
ABOUT = "<7@lakeview.example>"


def incoming(*recipients: DirectAddress, more: str = "X-None: 1", body: str = "Hello.") -> bytes:
    return mail(CHEN, *(recipients or (RIVERA,)), message_id=ABOUT, more=[more], body=body)


async def answers(agent: Agent) -> list[bytes]:
    """The MDNs that we made, dispatched before processed."""
    made = await agent.listed(Direction.OUTGOING, Kind.MDN)
    bodies = [await agent.body(message.body_key) for message in made]
    return sorted(bodies, key=lambda body: b";processed" in body)


def verified_by_openssl(folder: Path, signature: bytes, entity: bytes) -> bytes:
    (folder / "p7s").write_bytes(signature)
    (folder / "entity").write_bytes(entity)
    (folder / "root").write_bytes(pem(peer_ca().certificate))
    command = (
        "openssl cms -verify -inform DER -in p7s -content entity -binary -out verified"
        f" -CAfile root -purpose any -attime {NOW.timestamp():.0f}"
    )
    done = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / "verified").read_bytes()


# Outgoing


async def test_submission_is_sealed_for_its_recipient_and_queued(agent: Agent) -> None:
    message = await agent.submit(mail(RIVERA, CHEN), CHEN)
    assert [kind for kind, _ in await agent.run()] == ["outgoing", "deliver"]
    [sent] = agent.peers.sent
    assert (sent.domain, sent.sender, sent.recipients) == (CHEN.domain, RIVERA, (CHEN,))
    assert sent.size == len(sent.content)
    assert b"Please see the patient." in sent.opened(CHEN)
    assert await agent.states(message) == {CHEN: "relayed"}
    assert (await agent.message(message)).state is MessageState.PROCESSING


async def test_outer_header_tells_nothing_of_the_content(agent: Agent) -> None:
    await agent.submit(mail(RIVERA, CHEN), CHEN)
    await agent.run()
    outer = agent.peers.sent[0].content.partition(b"\r\n\r\n")[0]
    assert b"Referral" not in outer
    assert b"Jane" not in outer
    names = [field.name for field in parse_header(outer + b"\r\n")]
    assert names[0] == "received"


async def test_each_domain_gets_a_copy_that_the_others_cannot_open(agent: Agent) -> None:
    await agent.submit(mail(RIVERA, CHEN, NURSE, GP), CHEN, NURSE, GP)
    await agent.run()
    copies = {sent.domain: sent for sent in agent.peers.sent}
    assert {domain: set(sent.recipients) for domain, sent in copies.items()} == {
        CHEN.domain: {CHEN, NURSE},
        GP.domain: {GP},
    }
    assert copies[CHEN.domain].opened(NURSE) == copies[GP.domain].opened(GP)
    with pytest.raises(DirectError) as caught:
        copies[GP.domain].opened(CHEN)
    assert caught.value.reason is Reason.DECRYPTION_FAILED


async def test_one_certificate_for_two_recipients_is_encrypted_to_once(agent: Agent) -> None:
    domain_bound = peer_ca().issue(domain=CHEN.domain)
    agent.discovery.published = {CHEN: [domain_bound], NURSE: [domain_bound]}
    agent.discovery.level = Level.DNS_DOMAIN
    message = await agent.submit(mail(RIVERA, CHEN, NURSE), CHEN, NURSE)
    await agent.run("outgoing")
    evidence = (await agent.message(message)).evidence
    assert evidence is not None
    assert set(evidence["recipients"]) == {CHEN.key, NURSE.key}
    [job] = await agent.jobs()
    alone = await agent.submit(mail(RIVERA, CHEN, NURSE, message_id="<2@x.example>"), CHEN)
    await agent.run("outgoing")
    [other] = [each for each in await agent.jobs() if each.payload["message"] == str(alone)]
    assert abs(job.payload["size"] - other.payload["size"]) < 100  # no second RecipientInfo


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(
            lambda a: a.discovery.published.pop(CHEN), Reason.CERTIFICATE_NOT_FOUND, id="none"
        ),
        pytest.param(
            lambda a: a.discovery.published.update({CHEN: [STRANGER.issue(address=str(CHEN))]}),
            Reason.NOT_TRUSTED,
            id="not-trusted",
        ),
        pytest.param(
            lambda a: a.discovery.published.update({CHEN: [peer_ca().expired(address=str(CHEN))]}),
            Reason.CERTIFICATE_EXPIRED,
            id="expired",
        ),
    ],
)
async def test_bad_recipient_fails_at_once_and_the_others_still_go_out(
    agent: Agent, change: Callable[[Agent], object], reason: Reason
) -> None:
    change(agent)
    message = await agent.submit(mail(RIVERA, CHEN, NURSE, GP), CHEN, NURSE, GP)
    await agent.run("outgoing", "deliver")
    assert await agent.states(message) == {CHEN: "failed", NURSE: "relayed", GP: "relayed"}
    assert (await agent.rows(message))[CHEN].reason is reason
    assert {r for sent in agent.peers.sent for r in sent.recipients} == {NURSE, GP}
    [report] = await agent.jobs()
    assert report.kind == "report"
    assert [each["recipient"] for each in report.payload["outcomes"]] == [str(CHEN)]


async def test_nothing_is_sent_where_no_recipient_remains(agent: Agent) -> None:
    agent.discovery.published.clear()
    message = await agent.submit(mail(RIVERA, CHEN, GP), CHEN, GP)
    await agent.run("outgoing")
    assert [job.kind for job in await agent.jobs()] == ["report"]
    assert (await agent.message(message)).state is MessageState.FINISHED


async def test_sender_without_a_key_sends_nothing(agent: Agent) -> None:
    del agent.keys.held[RIVERA]
    message = await agent.submit(mail(RIVERA, CHEN, GP), CHEN, GP)
    await agent.run("outgoing", "deliver")
    assert agent.peers.sent == []
    rows = await agent.rows(message)
    assert {row.reason for row in rows.values()} == {Reason.SENDER_NOT_ALLOWED}
    assert {row.state for row in rows.values()} == {"failed"}


async def test_unanswered_look_up_is_tried_again_and_seals_only_what_is_new(agent: Agent) -> None:
    agent.discovery.failing.add(GP)
    message = await agent.submit(mail(RIVERA, CHEN, GP), CHEN, GP)
    [(_, result)] = await agent.run("outgoing")
    assert isinstance(result, Retry)
    assert result.reason is Reason.DIRECTORY_UNAVAILABLE
    rows = await agent.rows(message)
    assert (rows[GP].state, rows[GP].reason) == ("queued", Reason.DIRECTORY_UNAVAILABLE)
    assert rows[GP].due_at == NOW + WINDOW
    await agent.run("deliver")
    assert [sent.domain for sent in agent.peers.sent] == [CHEN.domain]
    agent.discovery.failing.clear()
    agent.clock.now += timedelta(minutes=10)
    await agent.run()
    assert [sent.domain for sent in agent.peers.sent] == [CHEN.domain, GP.domain]
    assert await agent.states(message) == {CHEN: "relayed", GP: "relayed"}
    assert (await agent.rows(message))[GP].reason is None
    assert agent.discovery.asked.count(CHEN) == 1


async def test_evidence_of_every_copy_is_kept_over_retries(agent: Agent) -> None:
    agent.discovery.failing.add(GP)
    message = await agent.submit(mail(RIVERA, CHEN, GP), CHEN, GP)
    await agent.run()
    agent.discovery.failing.clear()
    agent.clock.now += timedelta(minutes=10)
    await agent.run()
    evidence = (await agent.message(message)).evidence
    assert evidence is not None
    assert set(evidence["recipients"]) == {CHEN.key, GP.key}


async def test_look_up_that_never_answers_fails_when_patience_ends(agent: Agent) -> None:
    agent.discovery.failing.add(CHEN)
    message = await agent.submit(mail(RIVERA, CHEN), CHEN)
    await agent.run("outgoing")
    agent.clock.now += DAY
    assert [type(result) for _, result in await agent.run("outgoing")] == [Done]
    row = (await agent.rows(message))[CHEN]
    assert (row.state, row.reason) == ("failed", Reason.DELIVERY_EXPIRED)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: odd", id="encoding"),
        pytest.param(b"Subject: \xc3\xa4", id="header-not-ascii"),
    ],
)
async def test_content_that_cannot_be_made_canonical_fails_at_once(
    agent: Agent, content: bytes
) -> None:
    bad = b"From: %s\r\nTo: %s\r\n" % (str(RIVERA).encode(), str(CHEN).encode())
    message = await agent.put(bad + content + b"\r\n\r\n\xff\r\n", CHEN)
    assert [type(result) for _, result in await agent.run("outgoing")] == [Done]
    row = (await agent.rows(message))[CHEN]
    assert (row.state, row.reason) == ("failed", Reason.MESSAGE_MALFORMED)


async def test_storage_that_fails_now_is_tried_again(agent: Agent) -> None:
    message = await agent.submit(mail(RIVERA, CHEN, body="x" * 300_000), CHEN)
    key = (await agent.message(message)).body_key
    spooled = next(path for path in agent.spool.iterdir() if path.name == key)
    away = spooled.rename(spooled.with_suffix(".away"))
    [(_, result)] = await agent.run("outgoing")
    assert isinstance(result, Retry)
    assert result.reason is Reason.INTERNAL
    away.rename(spooled)
    agent.clock.now += timedelta(minutes=10)
    await agent.run("outgoing", "deliver")
    assert await agent.states(message) == {CHEN: "relayed"}


async def test_administrator_gives_up_a_message_that_waits(agent: Agent) -> None:
    agent.discovery.failing.add(CHEN)
    message = await agent.submit(mail(RIVERA, CHEN), CHEN)
    await agent.run("outgoing")
    [job] = await agent.jobs()
    await agent.database.write(lambda c: queue_control.give_up(c, job.id, agent.clock()))
    agent.discovery.failing.clear()
    await agent.run("outgoing")
    row = (await agent.rows(message))[CHEN]
    assert (row.state, row.reason) == ("failed", Reason.DELIVERY_EXPIRED)
    assert [job.kind for job in await agent.jobs()] == ["report"]


async def test_recipient_that_timed_out_meanwhile_is_not_sealed_for(agent: Agent) -> None:
    agent.discovery.failing.add(CHEN)
    message = await agent.submit(mail(RIVERA, CHEN), CHEN)
    await agent.run("outgoing")
    agent.clock.now += WINDOW
    assert await agent.transmission.time_out() == 1
    agent.discovery.failing.clear()
    await agent.run("outgoing")
    assert await agent.states(message) == {CHEN: "failed"}
    assert [job.kind for job in await agent.jobs()] == ["report"]


# Incoming


async def test_trusted_message_is_in_the_inbox_and_answered_by_processed_only(
    agent: Agent,
) -> None:
    message = await agent.receive(incoming(), RIVERA)
    await agent.run("incoming")
    found = await agent.message(message)
    assert (found.state, found.author, found.message_id_header) == (
        MessageState.FINISHED,
        CHEN,
        ABOUT,
    )
    assert await agent.body(found.content_key) == incoming()
    assert await agent.inbox(message)
    assert await agent.states(message) == {RIVERA: "dispatched"}
    [processed] = await answers(agent)
    assert b"Disposition: automatic-action/MDN-sent-automatically;processed\r\n" in processed
    assert b"Final-Recipient: rfc822;%s\r\n" % str(RIVERA).encode() in processed
    assert b"Original-Message-ID: %s\r\n" % ABOUT.encode() in processed
    assert b"X-DIRECT-FINAL-DESTINATION-DELIVERY" not in processed


async def test_recipient_is_told_by_which_bundle_the_signer_is_trusted(agent: Agent) -> None:
    """fhir.md 3.3: the extension `direct-trust`."""
    await install_bundle(agent.database, "atab", [peer_ca().certificate])
    await agent.database.write(lambda c: attach(c, "atab", RIVERA.domain, [Way.INCOMING], NOW))
    message = await agent.receive(incoming(), RIVERA)
    await agent.run("incoming")
    [body] = (await agent.inbox(message)).values()
    communication = json.loads(body)
    [trust] = [e for e in communication["extension"] if e["url"].endswith("/direct-trust")]
    told = {part["url"]: part.get("valueString") for part in trust["extension"]}
    assert told["anchor"] == sha256_of(peer_ca().certificate).hex()
    assert told["bundle"] == "atab"


async def test_provenance_has_the_signature_that_was_verified(agent: Agent, tmp_path: Path) -> None:
    """fhir.md 3.3: by its data and the message as it is served, anybody can verify it again."""
    message = await agent.receive(incoming(), RIVERA)
    await agent.run("incoming")
    [provenance] = await agent.resources("Provenance", RIVERA)
    [signature] = provenance["signature"]
    assert provenance["occurredDateTime"] == signature["when"] == "2026-01-02T12:00:00Z"
    assert signature["who"]["identifier"]["value"] == f"mailto:{CHEN}"
    content = await agent.body((await agent.message(message)).content_key)
    entity = b"Content-Type: message/rfc822\r\n\r\n" + content
    assert verified_by_openssl(tmp_path, base64.b64decode(signature["data"]), entity) == entity


async def test_processed_notice_goes_out_as_a_direct_message(agent: Agent) -> None:
    await agent.receive(incoming(), RIVERA)
    await agent.run()
    [sent] = agent.peers.sent
    # K-03: AS v1.3 demands MAIL FROM = From of every message on the backbone.
    assert (sent.sender, sent.recipients) == (RIVERA, (CHEN,))
    assert b"report-type=disposition-notification" in sent.opened(CHEN)


async def test_dispatched_notice_follows_where_it_was_asked_for(agent: Agent) -> None:
    await agent.receive(incoming(more=WANTS_DISPATCHED), RIVERA)
    await agent.run("incoming")
    dispatched, processed = await answers(agent)
    assert b";processed\r\n" in processed
    assert b"X-DIRECT-FINAL-DESTINATION-DELIVERY" not in processed
    assert b";dispatched\r\n" in dispatched
    assert b"X-DIRECT-FINAL-DESTINATION-DELIVERY:" in dispatched
    ids = {message.message_id_header for message in await agent.listed(Direction.OUTGOING)}
    assert len(ids) == 2


async def test_every_recipient_answers_for_itself(agent: Agent) -> None:
    await agent.receive(incoming(RIVERA, DESK), RIVERA, DESK)
    await agent.run("incoming")
    spoken = {message.author for message in await agent.listed(Direction.OUTGOING)}
    assert spoken == {RIVERA, DESK}


@pytest.mark.parametrize("source", ["mdn", "dsn"])
async def test_notification_is_answered_by_nothing(agent: Agent, source: str) -> None:
    await agent.submit(mail(RIVERA, CHEN), CHEN)
    await agent.run()
    if source == "mdn":
        received = await agent.mdn(Disposition.PROCESSED, "<1@hillside.example>")
    else:
        received = await agent.dsn("<1@hillside.example>", CHEN, speaker=CHEN)
    assert await answers(agent) == []
    found = await agent.message(received)
    assert (found.kind.value, found.state) == (source, MessageState.FINISHED)
    assert not await agent.inbox(received)


async def test_message_with_the_null_sender_is_refused(agent: Agent) -> None:
    message = await agent.receive(incoming(), RIVERA, sender=None)
    await agent.run("incoming")
    assert (await agent.message(message)).reason is Reason.ENVELOPE_MISMATCH


async def test_message_with_the_null_sender_is_never_answered(
    sqlite_database: SqlDatabase, tmp_path: Path
) -> None:
    # AS-091; the older profile does not compare the envelope with the header.
    policy = CertificatePolicy(profile=Profile.AS_1_2)
    async with open_agent(sqlite_database, tmp_path, policy=policy) as agent:
        message = await agent.receive(incoming(), RIVERA, sender=None)
        await agent.run("incoming")
        assert await agent.states(message) == {RIVERA: "dispatched"}
        assert await answers(agent) == []


async def test_report_of_another_type_is_a_message(agent: Agent) -> None:
    report = incoming(more="Content-Type: multipart/report; report-type=feedback; boundary=b")
    message = await agent.receive(report, RIVERA)
    await agent.run("incoming")
    assert await agent.states(message) == {RIVERA: "dispatched"}
    assert len(await answers(agent)) == 1


async def test_report_of_another_type_needs_a_sender(agent: Agent) -> None:
    report = incoming(more="Content-Type: multipart/report; report-type=feedback; boundary=b")
    message = await agent.receive(report, RIVERA, sender=None)
    await agent.run("incoming")
    assert (await agent.message(message)).reason is Reason.ENVELOPE_MISMATCH


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(
            lambda: seal(incoming(), STRANGER.issue(address=str(CHEN)), RIVERA),
            Reason.NOT_TRUSTED,
            id="not-trusted",
        ),
        pytest.param(
            lambda: seal(incoming(), peer_ca().expired(address=str(CHEN)), RIVERA),
            Reason.CERTIFICATE_EXPIRED,
            id="expired",
        ),
        pytest.param(
            lambda: seal(incoming(), identity(NURSE), RIVERA),
            Reason.CERTIFICATE_NOT_BOUND,
            id="signed-by-another",
        ),
        pytest.param(lambda: incoming(), Reason.NOT_SECURED, id="in-clear"),
        pytest.param(
            lambda: seal(incoming(), identity(CHEN), CHEN),
            Reason.DECRYPTION_FAILED,
            id="for-somebody-else",
        ),
        pytest.param(
            lambda: seal(incoming(DESK), identity(CHEN), RIVERA),
            Reason.ENVELOPE_MISMATCH,
            id="recipient-not-named",
        ),
        pytest.param(
            lambda: seal(mail(NURSE, RIVERA), identity(NURSE), RIVERA),
            Reason.ENVELOPE_MISMATCH,
            id="sender-not-author",
        ),
        pytest.param(
            lambda: seal(b"From: a\r\n\r\n", identity(CHEN), RIVERA),
            Reason.MESSAGE_MALFORMED,
            id="malformed-inside",
        ),
    ],
)
async def test_unsafe_message_is_evidence_and_is_answered_by_nothing(
    agent: Agent, content: Callable[[], bytes], reason: Reason
) -> None:
    message = await agent.accept(BACKBONE, content(), CHEN, RIVERA)
    assert [kind for kind, _ in await agent.run()] == ["incoming"]
    found = await agent.message(message)
    assert (found.state, found.reason, found.content_key) == (MessageState.REFUSED, reason, None)
    assert await agent.body(found.body_key) == content() or reason is not Reason.NOT_SECURED
    assert await agent.states(message) == {RIVERA: "refused"}
    assert not await agent.inbox(message)


async def test_evidence_names_the_signer_that_was_refused(agent: Agent) -> None:
    signer = STRANGER.issue(address=str(CHEN))
    message = await agent.receive(incoming(), RIVERA, signer=signer)
    await agent.run()
    found = await agent.message(message)
    assert found.author == CHEN
    assert found.evidence is not None
    assert found.evidence["signer"]["subject"] == signer.certificate.subject.rfc4514_string()
    assert found.evidence["anchor"] is None


async def test_only_the_recipients_that_trust_get_the_message(agent: Agent) -> None:
    await agent.database.write(
        lambda c: store.add_anchor(
            c,
            certificate=STRANGER.certificate,
            domain_or_address=str(DESK),
            directions=frozenset(Way),
            now=NOW,
        )
    )
    signer = STRANGER.issue(address=str(CHEN))
    message = await agent.receive(incoming(RIVERA, DESK), RIVERA, DESK, signer=signer)
    await agent.run("incoming")
    assert await agent.states(message) == {RIVERA: "refused", DESK: "dispatched"}
    assert (await agent.rows(message))[RIVERA].reason is Reason.NOT_TRUSTED
    assert [m.author for m in await agent.listed(Direction.OUTGOING)] == [DESK]


async def test_reader_is_told_of_the_anchor_that_it_trusts_itself(agent: Agent) -> None:
    cross = Ca.create("Cross", parent=STRANGER)
    await agent.database.write(
        lambda c: store.add_anchor(
            c,
            certificate=cross.certificate,
            domain_or_address=str(DESK),
            directions=frozenset(Way),
            now=NOW,
        )
    )
    await agent.database.write(
        lambda c: store.add_anchor(
            c,
            certificate=STRANGER.certificate,
            domain_or_address=str(RIVERA),
            directions=frozenset(Way),
            now=NOW,
        )
    )
    message = await agent.receive(
        incoming(RIVERA, DESK), RIVERA, DESK, signer=cross.issue(address=str(CHEN))
    )
    await agent.run("incoming")
    texts = await agent.inbox(message)
    theirs = {
        RIVERA.key: sha256_of(STRANGER.certificate).hex(),
        DESK.key: sha256_of(cross.certificate).hex(),
    }
    for owner, anchor in theirs.items():
        assert anchor in texts[owner]


async def test_unlearnt_revocation_is_waited_for_and_refused_in_the_end(
    sqlite_database: SqlDatabase, tmp_path: Path
) -> None:
    policy = CertificatePolicy(revocation=RevocationMode.HARD_FAIL)
    signer = peer_ca().issue(
        address=str(CHEN), locations=Locations(crls=("http://crl.lakeview.example/1",))
    )
    async with open_agent(sqlite_database, tmp_path, policy=policy) as agent:
        message = await agent.receive(incoming(), RIVERA, signer=signer)
        [(_, result)] = await agent.run("incoming")
        assert isinstance(result, Retry)
        assert result.reason is Reason.REVOCATION_UNKNOWN
        assert (await agent.message(message)).state is MessageState.RECEIVED
        agent.clock.now += DAY
        await agent.run("incoming")
        found = await agent.message(message)
        assert (found.state, found.reason) == (MessageState.REFUSED, Reason.REVOCATION_UNKNOWN)


async def half_judged(agent: Agent) -> UUID:
    """Rivera's domain wants to know of revocation and cannot; the lab's trusts all the same."""
    hard_fail = 'revocation = "hard-fail"'
    agent.keys.held[LAB] = identity(LAB)

    def set_up(connection: sa.Connection) -> None:
        set_policy(connection, RIVERA.domain, hard_fail, actor="test", now=NOW)
        domains.add_domain(connection, LAB.domain, NOW)
        domains.add_address(connection, LAB, NOW)
        store.add_anchor(
            connection,
            certificate=peer_ca().certificate,
            domain_or_address=LAB.domain,
            directions=frozenset(Way),
            now=NOW,
        )

    await agent.database.write(set_up)
    signer = peer_ca().issue(
        address=str(CHEN), locations=Locations(crls=("http://crl.lakeview.example/1",))
    )
    message = await agent.receive(incoming(RIVERA, LAB), RIVERA, LAB, signer=signer)
    [(_, result)] = await agent.run("incoming")
    assert isinstance(result, Retry)
    assert result.reason is Reason.REVOCATION_UNKNOWN
    return message


async def test_recipient_who_cannot_decide_yet_holds_up_no_other(agent: Agent) -> None:
    message = await half_judged(agent)
    assert await agent.states(message) == {RIVERA: "queued", LAB: "dispatched"}
    assert set(await agent.inbox(message)) == {LAB.key}
    assert [m.author for m in await agent.listed(Direction.OUTGOING)] == [LAB]
    before = await agent.message(message)

    await agent.database.write(lambda c: remove_policy(c, RIVERA.domain))
    agent.clock.now += timedelta(minutes=10)
    await agent.run("incoming")
    assert await agent.states(message) == {RIVERA: "dispatched", LAB: "dispatched"}
    assert set(await agent.inbox(message)) == {RIVERA.key, LAB.key}
    assert [m.author for m in await agent.listed(Direction.OUTGOING)] == [LAB, RIVERA]
    after = await agent.message(message)
    assert (after.state, after.content_key) == (MessageState.FINISHED, before.content_key)


async def test_recipient_who_never_can_decide_is_refused_and_the_others_keep_theirs(
    agent: Agent,
) -> None:
    message = await half_judged(agent)
    agent.clock.now += DAY
    await agent.run("incoming")
    assert await agent.states(message) == {RIVERA: "refused", LAB: "dispatched"}
    assert (await agent.rows(message))[RIVERA].reason is Reason.REVOCATION_UNKNOWN
    found = await agent.message(message)
    assert (found.state, found.reason) == (MessageState.FINISHED, None)
    assert [m.author for m in await agent.listed(Direction.OUTGOING)] == [LAB]


async def test_administrator_gives_up_a_message_that_cannot_be_judged(
    sqlite_database: SqlDatabase, tmp_path: Path
) -> None:
    policy = CertificatePolicy(revocation=RevocationMode.HARD_FAIL)
    signer = peer_ca().issue(
        address=str(CHEN), locations=Locations(crls=("http://crl.lakeview.example/1",))
    )
    async with open_agent(sqlite_database, tmp_path, policy=policy) as agent:
        message = await agent.receive(incoming(), RIVERA, signer=signer)
        await agent.run("incoming")
        [job] = await agent.jobs()
        await agent.database.write(lambda c: queue_control.give_up(c, job.id, agent.clock()))
        await agent.run("incoming")
        assert (await agent.message(message)).state is MessageState.REFUSED


async def test_report_that_is_none_is_refused(agent: Agent) -> None:
    kind = "Content-Type: multipart/report; report-type=disposition-notification; boundary=b"
    message = await agent.receive(incoming(more=kind), RIVERA)
    await agent.run("incoming")
    assert (await agent.message(message)).reason is Reason.MESSAGE_MALFORMED


async def test_message_that_is_sealed_and_sent_twice_is_shown_once(agent: Agent) -> None:
    first = await agent.receive(incoming(), RIVERA)
    second = await agent.receive(incoming(), RIVERA)
    await agent.run("incoming")
    assert first != second
    shown = [bool(await agent.inbox(each)) for each in (first, second)]
    assert sorted(shown) == [False, True]
    for each in (first, second):
        assert await agent.states(each) == {RIVERA: "dispatched"}
    # The peer has not heard of the first, or it would not have sent the second.
    assert len(await answers(agent)) == 2


async def test_same_octets_twice_are_one_message(agent: Agent) -> None:
    sealed = seal(incoming(), identity(CHEN), RIVERA)
    first = await agent.accept(BACKBONE, sealed, CHEN, RIVERA)
    assert await agent.accept(BACKBONE, sealed, CHEN, RIVERA) == first
    await agent.run("incoming")
    assert len(await answers(agent)) == 1


async def test_large_message_passes_whole(agent: Agent) -> None:
    content = incoming(body="\r\n".join(["0123456789" * 7] * 20_000))
    message = await agent.receive(content, RIVERA)
    await agent.run("incoming")
    assert await agent.body((await agent.message(message)).content_key) == content


async def test_message_id_too_long_to_answer_is_refused_and_the_job_ends(
    database: SqlDatabase, tmp_path: Path
) -> None:
    async with open_agent(database, tmp_path) as agent:
        long = mail(CHEN, RIVERA, message_id=f"<{'1' * 3000}@lakeview.example>")
        message = await agent.receive(long, RIVERA)
        await agent.run("incoming")
        found = await agent.message(message)
        assert (found.state, found.reason) == (MessageState.REFUSED, Reason.MESSAGE_MALFORMED)


async def test_notification_with_an_endless_message_id_of_its_own_still_counts(
    database: SqlDatabase, tmp_path: Path
) -> None:
    async with open_agent(database, tmp_path) as agent:
        message = await agent.submit(mail(RIVERA, CHEN), CHEN)
        await agent.run()
        report = mail(
            CHEN,
            RIVERA,
            message_id=f"<{'1' * 3000}@lakeview.example>",
            more=[
                "Content-Type: multipart/report; report-type=disposition-notification; boundary=b"
            ],
            body="--b\r\nContent-Type: message/disposition-notification\r\n\r\n"
            f"Final-Recipient: rfc822;{CHEN}\r\nOriginal-Message-ID: <1@hillside.example>\r\n"
            "Disposition: a/b;processed\r\n\r\n--b--",
        )
        await agent.receive(report, RIVERA)
        await agent.run("incoming")
        assert await agent.states(message) == {CHEN: "processed"}


async def test_longest_addresses_fail_like_others(database: SqlDatabase, tmp_path: Path) -> None:
    far = parse_address(f"{'a' * 64}@{'.'.join(['b' * 60] * 4)}.example")
    async with open_agent(database, tmp_path) as agent:
        message = await agent.submit(mail(RIVERA, far), far)
        await agent.run("outgoing")
        assert await agent.states(message) == {far: "failed"}
