"""gateway.messages and gateway.timeline."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from certs.ids import new_id
from gateway import audit, messages, queue
from gateway.database import SqlDatabase
from gateway.messages import Direction, Kind, Message, MessageState, NewMessage, Source
from gateway.ports import Attempt, Delivery, StoredBody
from gateway.queue import NewJob
from gateway.recipients import Recipient, late_recipients, recipients_of, set_recipient
from gateway.timeline import add_attempts, timeline

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
DRJONES = parse_address("DrJones@direct.hillside.example")
SMITH = parse_address("smith@direct.lakeview.example")
BROWN = parse_address("brown@direct.lakeview.example")


def minutes(count: int) -> datetime:
    return NOW + timedelta(minutes=count)


def body(content: bytes = b"body") -> StoredBody:
    return StoredBody(new_id(NOW).hex, len(content), hashlib.sha256(content).hexdigest(), content)


def outgoing(*recipients: DirectAddress, now: datetime = NOW) -> NewMessage:
    return NewMessage(
        id=new_id(now),
        direction=Direction.OUTGOING,
        source=Source.EDGE,
        actor="ehr",
        envelope_sender=DRJONES,
        recipients=recipients or (SMITH,),
        body=body(),
        author=DRJONES,
        message_id_header="<1@direct.hillside.example>",
        dedupe_key=new_id(now).hex * 2,
    )


async def accept(
    database: SqlDatabase, new: NewMessage, *jobs: NewJob, now: datetime = NOW
) -> tuple[UUID, bool]:
    return await database.write(lambda c: messages.accept(c, new, jobs, now))


async def get(database: SqlDatabase, message_id: UUID) -> Message:
    found = await database.read(lambda c: messages.get(c, message_id))
    assert found is not None
    return found


async def recipients(database: SqlDatabase, message_id: UUID) -> Sequence[Recipient]:
    return await database.read(lambda c: recipients_of(c, message_id))


async def test_an_accepted_message_is_there_whole(database: SqlDatabase) -> None:
    new = outgoing(SMITH, BROWN)
    job = NewJob("outgoing", {"message": str(new.id)}, NOW)
    assert await accept(database, new, job) == (new.id, True)
    found = await get(database, new.id)
    assert found == Message(
        id=new.id,
        direction=Direction.OUTGOING,
        source=Source.EDGE,
        kind=Kind.MESSAGE,
        state=MessageState.RECEIVED,
        envelope_sender=DRJONES,
        author=DRJONES,
        message_id_header=new.message_id_header,
        body_key=new.body.key,
        content_key=None,
        size=4,
        wants_dispatched=False,
        reason=None,
        detail=None,
        evidence=None,
        dedupe_key=new.dedupe_key,
        received_at=NOW,
        finished_at=None,
        parent=None,
    )
    first, second = await recipients(database, new.id)
    assert (first.ordinal, first.address, first.state) == (0, SMITH, "queued")
    assert (second.ordinal, second.address, second.updated_at) == (1, BROWN, NOW)
    [stored] = await database.read(lambda c: queue.list_jobs(c, limit=9))
    assert stored.payload == {"message": str(new.id)}
    [event] = await database.read(lambda c: audit.list_events(c, limit=9))
    assert (event.actor, event.action, event.subject) == ("ehr", "message-accepted", str(new.id))


async def test_the_address_is_kept_as_written(database: SqlDatabase) -> None:
    new = outgoing()
    await accept(database, new)
    assert str((await get(database, new.id)).author) == "DrJones@direct.hillside.example"


async def test_the_same_message_again_is_accepted_once(database: SqlDatabase) -> None:
    new = outgoing()
    await accept(database, new, NewJob("outgoing", {}, NOW))
    again = replace(new, id=new_id(NOW), body=body())
    assert await accept(database, again, NewJob("outgoing", {}, NOW)) == (new.id, False)
    assert len(await database.read(lambda c: messages.list_messages(c, limit=9))) == 1
    assert len(await database.read(lambda c: queue.list_jobs(c, limit=9))) == 1
    assert (await database.read(audit.head)).number == 1


async def test_the_same_message_on_two_connections_at_once_is_accepted_once(
    database_url: str,
) -> None:
    new = outgoing()
    again = replace(new, id=new_id(NOW), body=body())
    async with SqlDatabase.open(database_url) as one, SqlDatabase.open(database_url) as other:
        both = await asyncio.gather(accept(one, new), accept(other, again))
    assert sorted(is_new for _, is_new in both) == [False, True]
    assert both[0][0] == both[1][0]


async def test_messages_without_a_dedupe_key_are_never_the_same(database: SqlDatabase) -> None:
    for _ in range(2):
        _, is_new = await accept(database, replace(outgoing(), dedupe_key=None))
        assert is_new


async def test_a_recipient_named_twice_is_one(database: SqlDatabase) -> None:
    shouted = parse_address("SMITH@direct.lakeview.example")
    new = outgoing(SMITH, shouted)
    await accept(database, new)
    assert len(await recipients(database, new.id)) == 1


async def test_no_such_message(database: SqlDatabase) -> None:
    assert await database.read(lambda c: messages.get(c, new_id(NOW))) is None
    assert await database.read(lambda c: messages.find_sent(c, "<0@x>", [DRJONES])) == []


async def test_a_notification_finds_the_messages_its_author_sent_under_its_id(
    database: SqlDatabase,
) -> None:
    first, second = outgoing(), outgoing(now=minutes(1))
    incoming = replace(
        outgoing(now=minutes(2)), direction=Direction.INCOMING, source=Source.BACKBONE
    )
    notice = replace(outgoing(now=minutes(3)), kind=Kind.MDN)
    other = replace(outgoing(now=minutes(4)), author=SMITH, envelope_sender=SMITH)
    for new in (first, second, incoming, notice, other):
        await accept(database, new)

    async def found(*told: DirectAddress) -> list[UUID]:
        header = "<1@direct.hillside.example>"
        sent = await database.read(lambda c: messages.find_sent(c, header, told))
        return [each.id for each in sent]

    shouted = parse_address(str(DRJONES).upper())
    assert await found(shouted) == [first.id, second.id]
    assert await found(SMITH) == [other.id]


async def test_a_notification_to_somebody_whom_the_author_named_finds_its_message(
    database: SqlDatabase,
) -> None:
    sent = outgoing()
    await accept(database, sent)
    for told, expected in ((f"mdn@{DRJONES.domain}", [sent.id]), ("mdn@elsewhere.example", [])):
        address = parse_address(told)
        found = await database.read(
            lambda c, address=address: messages.find_sent(
                c, "<1@direct.hillside.example>", [address]
            )
        )
        assert [each.id for each in found] == expected


async def test_listing_is_newest_first_filtered_and_continued(database: SqlDatabase) -> None:
    all_of_them = [outgoing(now=minutes(n)) for n in range(4)]
    all_of_them[2] = replace(all_of_them[2], direction=Direction.INCOMING)
    for n, new in enumerate(all_of_them):
        await accept(database, new, now=minutes(n))
    ids = [new.id for new in all_of_them]

    async def listed(**filters: object) -> list[UUID]:
        found = await database.read(
            lambda c: messages.list_messages(c, limit=2, **filters)  # type: ignore[arg-type]  # by name
        )
        return [message.id for message in found]

    assert await listed() == [ids[3], ids[2]]
    assert await listed(after=ids[2]) == [ids[1], ids[0]]
    assert await listed(direction=Direction.INCOMING) == [ids[2]]
    assert await listed(state=MessageState.REFUSED) == []


async def test_an_outcome_adds_what_was_learnt_and_leaves_the_rest(database: SqlDatabase) -> None:
    new = replace(outgoing(), direction=Direction.INCOMING, author=None, message_id_header=None)
    await accept(database, new)
    content = body(b"inner")
    await database.write(
        lambda c: messages.set_outcome(
            c,
            new.id,
            state=MessageState.ACCEPTED,
            now=minutes(1),
            evidence={"sha256": "ab"},
            content=content,
            author=SMITH,
            message_id_header="<2@direct.lakeview.example>",
            wants_dispatched=True,
            kind=Kind.MDN,
        )
    )
    found = await get(database, new.id)
    assert (found.state, found.author, found.kind) == (MessageState.ACCEPTED, SMITH, Kind.MDN)
    assert (found.content_key, found.evidence) == (content.key, {"sha256": "ab"})
    assert (found.wants_dispatched, found.finished_at) == (True, None)
    assert (found.body_key, found.envelope_sender) == (new.body.key, DRJONES)


async def test_a_refusal_is_kept_with_its_reason_and_ends_the_message(
    database: SqlDatabase,
) -> None:
    new = outgoing()
    await accept(database, new)
    await database.write(
        lambda c: messages.set_outcome(
            c,
            new.id,
            state=MessageState.REFUSED,
            now=minutes(1),
            reason=Reason.NOT_TRUSTED,
            detail="no anchor",
        )
    )
    found = await get(database, new.id)
    assert (found.reason, found.detail) == (Reason.NOT_TRUSTED, "no anchor")
    assert found.finished_at == minutes(1)


async def test_a_recipient_moves_and_its_times_are_stamped(database: SqlDatabase) -> None:
    new = replace(outgoing(SMITH, BROWN), due_at=minutes(60))
    await accept(database, new)
    for n, state in enumerate(("relayed", "processed", "dispatched"), start=1):
        moved = await database.write(
            partial(
                set_recipient,
                message_id=new.id,
                address=SMITH,
                state=state,
                now=minutes(n),
                final=state == "dispatched",
            )
        )
        assert moved
    smith, brown = await recipients(database, new.id)
    assert (smith.relayed_at, smith.processed_at, smith.dispatched_at) == (
        minutes(1),
        minutes(2),
        minutes(3),
    )
    assert (smith.state, smith.due_at) == ("dispatched", None)
    assert (brown.state, brown.due_at) == ("queued", minutes(60))


async def test_of_two_that_move_a_recipient_from_one_state_one_succeeds(
    database: SqlDatabase,
) -> None:
    new = outgoing()
    await accept(database, new)
    moved = [
        await database.write(
            partial(
                set_recipient,
                message_id=new.id,
                address=SMITH,
                state=state,
                was="queued",
                now=NOW,
            )
        )
        for state in ("processed", "failed")
    ]
    assert moved == [True, False]
    [smith] = await recipients(database, new.id)
    assert smith.state == "processed"


async def test_a_foreign_recipient_is_not_moved(database: SqlDatabase) -> None:
    new = outgoing(SMITH)
    await accept(database, new)
    assert not await database.write(
        lambda c: set_recipient(c, new.id, BROWN, state="processed", now=NOW)
    )


async def test_recipients_that_are_late_are_found_in_order(database: SqlDatabase) -> None:
    for address, due_at in ((SMITH, minutes(60)), (BROWN, minutes(59)), (DRJONES, None)):
        await accept(database, replace(outgoing(address), due_at=due_at))

    async def late(now: datetime) -> list[DirectAddress]:
        found = await database.read(lambda c: late_recipients(c, now=now, limit=9))
        return [recipient.address for recipient in found]

    assert await late(minutes(58)) == []
    assert await late(minutes(59)) == [BROWN]
    assert await late(minutes(60)) == [BROWN, SMITH]


async def test_a_sealed_body_is_named_by_its_recipient(database: SqlDatabase) -> None:
    new = outgoing()
    await accept(database, new)
    sealed = body(b"sealed")
    with pytest.raises(DirectError):  # its row is not there
        await database.write(
            lambda c: set_recipient(c, new.id, SMITH, state="queued", now=NOW, sealed=sealed)
        )


async def test_the_timeline_tells_all_that_happened_in_order(database: SqlDatabase) -> None:
    new = outgoing(SMITH, BROWN)
    await accept(database, new)
    delivery = Delivery(
        attempts=(
            Attempt(SMITH, None, "2.0.0", "ok"),
            Attempt(BROWN, Reason.BACKBONE_REFUSED, "5.1.1", "no such user"),
        ),
        host="mx.lakeview.example",
        tls="TLSv1.3 TLS_AES_256_GCM_SHA384",
        verified=False,
        tls_policy="dane",
    )
    notice = replace(
        outgoing(DRJONES, now=minutes(2)),
        direction=Direction.INCOMING,
        source=Source.BACKBONE,
        kind=Kind.MDN,
        author=SMITH,
        parent=new.id,
    )
    await database.write(lambda c: add_attempts(c, new.id, delivery, minutes(1)))
    for address, state, reason in (
        (SMITH, "relayed", None),
        (BROWN, "failed", Reason.BACKBONE_REFUSED),
    ):
        await database.write(
            partial(
                set_recipient,
                message_id=new.id,
                address=address,
                state=state,
                reason=reason,
                now=minutes(1),
            )
        )
    await accept(database, notice, now=minutes(2))
    events = await database.read(lambda c: timeline(c, new.id))
    assert [(e.at, e.what, e.who, e.outcome) for e in events] == [
        (NOW, "message-accepted", "ehr", "outgoing"),
        (minutes(1), "delivery-attempted", str(BROWN), "backbone-refused"),
        (minutes(1), "delivery-attempted", str(SMITH), "delivered"),
        (minutes(1), "relayed", str(SMITH), ""),
        (minutes(1), "failed", str(BROWN), "backbone-refused"),
        (minutes(2), "mdn-received", str(SMITH), "received"),
    ]
    assert events[2].detail == (
        "mx.lakeview.example, TLSv1.3 TLS_AES_256_GCM_SHA384 (not verified, policy dane): 2.0.0 ok"
    )


async def test_the_timeline_tells_of_clear_text(database: SqlDatabase) -> None:
    new = outgoing()
    await accept(database, new)
    delivery = Delivery((Attempt(SMITH, None, "2.0.0", "ok"),), "mx.lakeview.example", None, False)
    await database.write(lambda c: add_attempts(c, new.id, delivery, minutes(1)))
    await database.write(lambda c: add_attempts(c, new.id, replace(delivery, attempts=()), NOW))
    _, attempted = await database.read(lambda c: timeline(c, new.id))
    assert attempted.detail == "mx.lakeview.example, no TLS: 2.0.0 ok"


async def test_the_timeline_tells_of_tls_that_failed(database: SqlDatabase) -> None:
    new = outgoing()
    await accept(database, new)
    delivery = Delivery(
        (Attempt(SMITH, None, "2.0.0", "ok"),),
        "mx.lakeview.example",
        None,
        False,
        tls_failure="454 not today" + "!" * 500,
    )
    await database.write(lambda c: add_attempts(c, new.id, delivery, minutes(1)))
    _, attempted = await database.read(lambda c: timeline(c, new.id))
    assert attempted.detail.startswith("mx.lakeview.example, no TLS, which failed: 454 not today!")
    assert len(attempted.detail) < 300
