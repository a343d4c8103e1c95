"""gateway.domain_control."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import pytest
import sqlalchemy as sa

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from certs.ids import new_id
from certs.policy import Profile
from gateway import domain_control, domains, messages
from gateway.database import SqlDatabase
from gateway.domain_control import EdgeUser
from gateway.messages import Direction, MessageState, NewMessage, Source
from gateway.ports import StoredBody

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
HILLSIDE = "direct.hillside.example"
DRJONES = parse_address(f"DrJones@{HILLSIDE}")
SMITH = parse_address(f"smith@{HILLSIDE}")
PEER = parse_address("x@direct.lakeview.example")
OTHER = parse_address(f"not-{DRJONES}")  # ends like one of ours


@pytest.fixture
async def served(database: SqlDatabase) -> SqlDatabase:
    """A database with one domain, two addresses and an edge user for both."""

    def serve(connection: sa.Connection) -> None:
        domains.add_domain(connection, HILLSIDE, NOW, settings={"window_minutes": 60})
        for address in (DRJONES, SMITH):
            domains.add_address(connection, address, NOW)
        domains.add_edge_user(connection, "ehr", "hash", [DRJONES, SMITH], NOW)

    await database.write(serve)
    return database


async def reason_of(database: SqlDatabase, work: Callable[[sa.Connection], None]) -> Reason:
    with pytest.raises(DirectError) as caught:
        await database.write(work)
    return caught.value.reason


async def under_way(
    database: SqlDatabase, author: DirectAddress, recipient: DirectAddress
) -> NewMessage:
    body = StoredBody(new_id(NOW).hex, 1, "", b"x")
    new = NewMessage(
        id=new_id(NOW),
        direction=Direction.OUTGOING,
        source=Source.EDGE,
        actor="ehr",
        envelope_sender=author,
        recipients=(recipient,),
        body=body,
        author=author,
    )
    await database.write(lambda c: messages.accept(c, new, [], NOW))
    return new


async def finish(database: SqlDatabase, new: NewMessage) -> None:
    await database.write(
        lambda c: messages.set_outcome(c, new.id, state=MessageState.FINISHED, now=NOW)
    )


async def test_a_domain_changes_in_what_is_given_only(served: SqlDatabase) -> None:
    await served.write(lambda c: domain_control.change_domain(c, HILLSIDE, profile=Profile.AS_1_2))
    await served.write(lambda c: domain_control.change_domain(c, HILLSIDE, enabled=False))
    assert await served.read(lambda c: domains.domain(c, HILLSIDE)) == domains.Domain(
        HILLSIDE, NOW, False, Profile.AS_1_2, {"window_minutes": 60}
    )
    await served.write(lambda c: domain_control.change_domain(c, HILLSIDE, settings={}))
    [domain] = await served.read(domains.list_domains)
    assert domain.settings == {}


async def test_a_disabled_domain_and_address_take_no_mail(served: SqlDatabase) -> None:
    off = partial(domain_control.change_address, address=SMITH, enabled=False)
    await served.write(off)
    assert not await served.read(lambda c: domains.is_local(c, SMITH))
    assert await served.read(lambda c: domains.is_local(c, DRJONES))
    await served.write(lambda c: domain_control.change_domain(c, HILLSIDE, enabled=False))
    assert not await served.read(lambda c: domains.is_local(c, DRJONES))


async def test_an_address_keeps_its_new_settings(served: SqlDatabase) -> None:
    settings = {"forward_to": str(DRJONES)}
    await served.write(lambda c: domain_control.change_address(c, SMITH, settings=settings))
    found = await served.read(domains.list_addresses)
    assert [one.settings for one in found] == [{}, settings]


async def test_an_address_is_removed_with_the_right_to_send_as_it(served: SqlDatabase) -> None:
    await served.write(lambda c: domain_control.remove_address(c, DRJONES))
    assert not await served.read(lambda c: domains.is_local(c, DRJONES))
    [user] = await served.read(domain_control.list_edge_users)
    assert user.may_send == (SMITH.key,)


@pytest.mark.parametrize(
    ("author", "recipient"), [(DRJONES, PEER), (PEER, DRJONES)], ids=["from-it", "to-it"]
)
async def test_an_address_with_a_message_under_way_is_not_removed(
    served: SqlDatabase, author: DirectAddress, recipient: DirectAddress
) -> None:
    new = await under_way(served, author, recipient)
    remove = partial(domain_control.remove_address, address=DRJONES)
    assert await reason_of(served, remove) is Reason.RESOURCE_CONFLICT
    assert await served.read(lambda c: domains.is_local(c, DRJONES))
    await finish(served, new)
    await served.write(remove)


async def test_a_message_of_another_address_is_no_hindrance(served: SqlDatabase) -> None:
    await under_way(served, SMITH, OTHER)
    await served.write(lambda c: domain_control.remove_address(c, DRJONES))


async def test_a_domain_is_removed_after_its_addresses_and_messages(served: SqlDatabase) -> None:
    new = await under_way(served, DRJONES, PEER)
    remove = partial(domain_control.remove_domain, name=HILLSIDE)
    assert await reason_of(served, remove) is Reason.RESOURCE_CONFLICT
    await finish(served, new)
    for address in (DRJONES, SMITH):
        await served.write(partial(domain_control.remove_address, address=address))
    again = await under_way(served, DRJONES, PEER)
    assert await reason_of(served, remove) is Reason.RESOURCE_CONFLICT
    await finish(served, again)
    await served.write(remove)
    assert await served.read(domains.list_domains) == []


async def test_an_edge_user_changes_in_what_is_given_only(served: SqlDatabase) -> None:
    await served.write(lambda c: domain_control.change_edge_user(c, "ehr", password_hash="other"))
    assert await served.read(lambda c: domains.edge_user_hash(c, "ehr")) == "other"
    await served.write(
        lambda c: domain_control.change_edge_user(c, "ehr", enabled=False, may_send=[SMITH])
    )
    assert await served.read(lambda c: domains.edge_user_hash(c, "ehr")) is None
    assert await served.read(domain_control.list_edge_users) == [
        EdgeUser("ehr", NOW, False, (SMITH.key,))
    ]


async def test_an_edge_user_may_be_left_with_no_address(served: SqlDatabase) -> None:
    await served.write(lambda c: domain_control.change_edge_user(c, "ehr", may_send=[]))
    [user] = await served.read(domain_control.list_edge_users)
    assert user.may_send == ()


async def test_an_edge_user_may_not_get_a_foreign_address(served: SqlDatabase) -> None:
    change = partial(domain_control.change_edge_user, name="ehr", may_send=[PEER])
    assert await reason_of(served, change) is Reason.RESOURCE_NOT_FOUND
    [user] = await served.read(domain_control.list_edge_users)
    assert user.may_send == (DRJONES.key, SMITH.key)


async def test_a_removed_edge_user_is_gone(served: SqlDatabase) -> None:
    await served.write(lambda c: domain_control.remove_edge_user(c, "ehr"))
    assert await served.read(domain_control.list_edge_users) == []
    assert not await served.read(lambda c: domains.may_send_as(c, "ehr", SMITH))


@pytest.mark.parametrize(
    "work",
    [
        partial(domain_control.change_domain, name="x.example", enabled=True),
        partial(domain_control.remove_domain, name="x.example"),
        partial(domain_control.change_address, address=PEER, enabled=True),
        partial(domain_control.remove_address, address=PEER),
        partial(domain_control.change_edge_user, name="x"),
        partial(domain_control.remove_edge_user, name="x"),
    ],
    ids=lambda work: work.func.__name__,
)
async def test_what_is_not_there_is_neither_changed_nor_removed(
    served: SqlDatabase, work: Callable[[sa.Connection], None]
) -> None:
    assert await reason_of(served, work) is Reason.RESOURCE_NOT_FOUND
