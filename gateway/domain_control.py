"""Change and remove what this HISP serves: domains, addresses and edge users.

Talks to the database through the connection it is handed. What is disabled is kept and takes no
part: no mail comes in for it and none goes out. Removing refuses while a message is under way,
because its notices would find nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import sqlalchemy as sa

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from certs.policy import Profile
from gateway import domains
from gateway.locks import lock
from gateway.tables import address as addresses
from gateway.tables import domain as domain_table
from gateway.tables import edge_user, edge_user_address, message, recipient

__all__ = [
    "EdgeUser",
    "change_address",
    "change_domain",
    "change_edge_user",
    "list_edge_users",
    "remove_address",
    "remove_domain",
    "remove_edge_user",
]

Column: TypeAlias = sa.ColumnElement[str]


@dataclass(frozen=True, slots=True)
class EdgeUser:
    """A user's system at the mail edge, and the addresses (in lower case) it may send as."""

    name: str
    created_at: datetime
    enabled: bool
    may_send: tuple[str, ...]


def change_domain(
    connection: sa.Connection,
    name: str,
    *,
    enabled: bool | None = None,
    profile: Profile | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Change what is given of a domain; `settings` replaces all of them.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; it is not served.
    """
    values = {"enabled": enabled, "profile": profile and profile.value, "settings": settings}
    found = domain_table.c.name == name
    _change(connection, domain_table, found, values, f"no domain {name}")


def remove_domain(connection: sa.Connection, name: str) -> None:
    """Serve a domain no more.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; it is not served. RESOURCE_CONFLICT; it has addresses, or
            a message from it or to it is under way.
    """
    lock(connection, f"domain {name}")
    count = len(domains.list_addresses(connection, domain=name))
    if count:
        raise DirectError(Reason.RESOURCE_CONFLICT, f"{name} has {count} addresses")
    _refuse_in_flight(connection, lambda c: c.endswith(f"@{name}", autoescape=True), name)
    _remove(connection, domain_table, domain_table.c.name == name, f"no domain {name}")


def change_address(
    connection: sa.Connection,
    address: DirectAddress,
    *,
    enabled: bool | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Change what is given of an address; `settings` replaces all of them.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; it is not served.
    """
    values = {"enabled": enabled, "settings": settings}
    found = addresses.c.address_key == address.key
    _change(connection, addresses, found, values, f"no address {address}")


def remove_address(connection: sa.Connection, address: DirectAddress) -> None:
    """Serve an address no more; no edge user may send as it any longer.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; it is not served. RESOURCE_CONFLICT; a message from it or
            to it is under way.
    """
    lock(connection, f"domain {address.domain}")
    _refuse_in_flight(connection, lambda c: c == address.key, str(address))
    connection.execute(
        edge_user_address.delete().where(edge_user_address.c.address_key == address.key)
    )
    found = addresses.c.address_key == address.key
    _remove(connection, addresses, found, f"no address {address}")


def list_edge_users(connection: sa.Connection) -> Sequence[EdgeUser]:
    """Return every edge user, by name."""
    may_send: dict[str, list[str]] = {}
    for row in connection.execute(sa.select(edge_user_address).order_by("address_key")):
        may_send.setdefault(row.user, []).append(row.address_key)
    return [
        EdgeUser(row.name, row.created_at, row.enabled, tuple(may_send.get(row.name, ())))
        for row in connection.execute(sa.select(edge_user).order_by(edge_user.c.name))
    ]


def change_edge_user(
    connection: sa.Connection,
    name: str,
    *,
    enabled: bool | None = None,
    password_hash: str | None = None,
    may_send: Sequence[DirectAddress] | None = None,
) -> None:
    """Change what is given of an edge user; `may_send` replaces all of its addresses.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; no such user, or one of the addresses is not ours.
    """
    lock(connection, f"edge user {name}")
    values = {"enabled": enabled, "password_hash": password_hash}
    _change(connection, edge_user, edge_user.c.name == name, values, f"no edge user {name}")
    if may_send is not None:
        connection.execute(edge_user_address.delete().where(edge_user_address.c.user == name))
        domains.allow_sending(connection, name, may_send)


def remove_edge_user(connection: sa.Connection, name: str) -> None:
    """Let an edge user in no more.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; no such user.
    """
    _remove(connection, edge_user, edge_user.c.name == name, f"no edge user {name}")


def _refuse_in_flight(
    connection: sa.Connection, of_it: Callable[[Column], sa.ColumnElement[bool]], name: str
) -> None:
    """Raise RESOURCE_CONFLICT where a message is under way from or to what is `of_it`."""
    to_it = sa.exists().where(
        recipient.c.message_id == message.c.id, of_it(recipient.c.address_key)
    )
    from_it = (of_it(sa.func.lower(c)) for c in (message.c.author, message.c.envelope_sender))
    query = sa.select(sa.func.count()).where(
        message.c.finished_at.is_(None), sa.or_(to_it, *from_it)
    )
    count = connection.execute(query).scalar_one()
    if count:
        raise DirectError(Reason.RESOURCE_CONFLICT, f"{count} messages of {name} are under way")


def _change(
    connection: sa.Connection,
    table: sa.Table,
    found: sa.ColumnElement[bool],
    values: Mapping[str, object],
    missing: str,
) -> None:
    """Set what is not None of `values` on the row that is `found`; there must be one."""
    given = {name: value for name, value in values.items() if value is not None}
    if connection.execute(sa.select(sa.func.count()).where(found)).scalar_one() == 0:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, missing)
    if given:
        connection.execute(table.update().where(found).values(**given))


def _remove(
    connection: sa.Connection, table: sa.Table, found: sa.ColumnElement[bool], missing: str
) -> None:
    if connection.execute(table.delete().where(found)).rowcount != 1:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, missing)
