"""Whom this HISP serves: domains, addresses, and the edge users who may send for them.

Talks to the database through the connection it is handed. Hashing a password takes 20 ms on
purpose, so `password_matches` and `hash_password` touch no database: run them in a thread.

Standards:
    AS      Applicability Statement for Secure Health Transport v1.3, sections 1.1 and 1.2
    RFC9106 Argon2id
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from certs.ids import new_id
from certs.policy import Profile
from gateway.locks import lock
from gateway.tables import address as addresses
from gateway.tables import domain as domains
from gateway.tables import edge_user, edge_user_address

__all__ = [
    "Domain",
    "LocalAddress",
    "add_address",
    "add_domain",
    "add_edge_user",
    "address",
    "allow_sending",
    "domain",
    "edge_user_hash",
    "hash_password",
    "is_local",
    "is_local_domain",
    "list_addresses",
    "list_domains",
    "may_send_as",
    "password_matches",
]

# RFC9106 4 and OWASP's password storage sheet: 19 MiB, two passes, one lane; about 20 ms here.
_MEMORY_KIB: Final = 19 * 1024
_PASSES: Final = 2
_HASH_OCTETS: Final = 32
_SALT_OCTETS: Final = 16


@dataclass(frozen=True, slots=True)
class Domain:
    """A health domain name that we serve."""

    name: str
    created_at: datetime
    enabled: bool
    profile: Profile
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """A Direct address that we serve. `settings` say how mail to it is delivered."""

    address: DirectAddress
    created_at: datetime
    enabled: bool
    settings: Mapping[str, Any]


def add_domain(
    connection: sa.Connection,
    name: str,
    now: datetime,
    *,
    profile: Profile = Profile.AS_1_3,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Serve the domain `name`, as `certs.address.parse_domain` returns it.

    Raises:
        DirectError: RESOURCE_CONFLICT; it is served already.
    """
    lock(connection, f"domain {name}")
    if domain(connection, name) is not None:
        raise DirectError(Reason.RESOURCE_CONFLICT, f"domain {name} exists")
    connection.execute(
        domains.insert(),
        {
            "name": name,
            "created_at": now,
            "enabled": True,
            "profile": profile.value,
            "settings": settings or {},
        },
    )


def domain(connection: sa.Connection, name: str) -> Domain | None:
    """Return the domain `name`, also where it is disabled."""
    row = connection.execute(_DOMAIN, {"the_name": name}).first()
    return _domain(row) if row else None


def list_domains(connection: sa.Connection) -> Sequence[Domain]:
    """Return every domain, by name."""
    return [_domain(row) for row in connection.execute(_DOMAINS)]


def is_local_domain(connection: sa.Connection, name: str) -> bool:
    """Say whether we serve the domain `name` now."""
    found = domain(connection, name)
    return found is not None and found.enabled


def add_address(
    connection: sa.Connection,
    address: DirectAddress,
    now: datetime,
    *,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Serve `address`.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; its domain is not served. RESOURCE_CONFLICT; the address
            exists, in whatever case.
    """
    lock(connection, f"domain {address.domain}")
    if domain(connection, address.domain) is None:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no domain {address.domain}")
    if connection.execute(_ADDRESS, {"the_key": address.key}).first():
        raise DirectError(Reason.RESOURCE_CONFLICT, f"address {address} exists")
    connection.execute(
        addresses.insert(),
        {
            "id": new_id(now),
            "address": str(address),
            "address_key": address.key,
            "domain": address.domain,
            "created_at": now,
            "enabled": True,
            "settings": settings or {},
        },
    )


def address(connection: sa.Connection, wanted: DirectAddress) -> LocalAddress | None:
    """Return the address, also where it is disabled."""
    row = connection.execute(_ADDRESS, {"the_key": wanted.key}).first()
    return _local_address(row) if row else None


def list_addresses(
    connection: sa.Connection, *, domain: str | None = None
) -> Sequence[LocalAddress]:
    """Return every address, or those of one domain, in order."""
    query = sa.select(addresses).order_by(addresses.c.domain, addresses.c.address_key)
    if domain is not None:
        query = query.where(addresses.c.domain == domain)
    return [_local_address(row) for row in connection.execute(query)]


def is_local(connection: sa.Connection, address: DirectAddress) -> bool:
    """Say whether we take mail for `address` now."""
    return connection.execute(_SERVED, {"the_key": address.key}).first() is not None


def add_edge_user(
    connection: sa.Connection,
    name: str,
    password_hash: str,
    may_send: Sequence[DirectAddress],
    now: datetime,
) -> None:
    """Let the user `name` in at the edge, to send as `may_send`.

    Raises:
        DirectError: RESOURCE_CONFLICT; there is such a user. RESOURCE_NOT_FOUND; one of the
            addresses is not ours.
    """
    lock(connection, f"edge user {name}")
    if connection.execute(_EDGE_USER, {"the_name": name}).first():
        raise DirectError(Reason.RESOURCE_CONFLICT, f"edge user {name} exists")
    connection.execute(
        edge_user.insert(),
        {"name": name, "password_hash": password_hash, "created_at": now, "enabled": True},
    )
    allow_sending(connection, name, may_send)


def allow_sending(connection: sa.Connection, user: str, may_send: Sequence[DirectAddress]) -> None:
    """Let an edge user send as these addresses too.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; one of the addresses is not ours.
    """
    for one in may_send:
        if not is_local(connection, one):
            raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no address {one}")
    if may_send:
        rows = [{"user": user, "address_key": one.key} for one in dict.fromkeys(may_send)]
        connection.execute(edge_user_address.insert(), rows)


def edge_user_hash(connection: sa.Connection, name: str) -> str | None:
    """Return the password hash of a user who is let in; None where there is none."""
    return connection.execute(_HASH, {"the_name": name}).scalar()


def may_send_as(connection: sa.Connection, user: str, address: DirectAddress) -> bool:
    """Say whether the edge user may send as `address`, which must be one of ours."""
    values = {"the_user": user, "the_key": address.key}
    return connection.execute(_MAY_SEND, values).first() is not None


def hash_password(password: str) -> str:
    """Return the Argon2id hash of `password` in PHC form."""
    return _argon2id(os.urandom(_SALT_OCTETS)).derive_phc_encoded(password.encode())


def password_matches(stored: str | None, password: str) -> bool:
    """Say whether `password` has this hash; None, for no such user, takes as long to deny."""
    if stored is None:
        _argon2id(bytes(_SALT_OCTETS)).derive(password.encode())
        return False
    try:
        Argon2id.verify_phc_encoded(password.encode(), stored)
    except InvalidKey:
        return False
    return True


def _argon2id(salt: bytes) -> Argon2id:
    return Argon2id(
        salt=salt, length=_HASH_OCTETS, iterations=_PASSES, lanes=1, memory_cost=_MEMORY_KIB
    )


def _domain(row: sa.Row[Any]) -> Domain:
    return Domain(row.name, row.created_at, row.enabled, Profile(row.profile), row.settings)


def _local_address(row: sa.Row[Any]) -> LocalAddress:
    return LocalAddress(parse_address(row.address), row.created_at, row.enabled, row.settings)


_DOMAIN: Final = sa.select(domains).where(domains.c.name == sa.bindparam("the_name"))
_DOMAINS: Final = sa.select(domains).order_by(domains.c.name)
_ADDRESS: Final = sa.select(addresses).where(addresses.c.address_key == sa.bindparam("the_key"))
_SERVED: Final = (
    sa.select(addresses.c.id)
    .join(domains, domains.c.name == addresses.c.domain)
    .where(
        addresses.c.address_key == sa.bindparam("the_key"),
        addresses.c.enabled,
        domains.c.enabled,
    )
)
_EDGE_USER: Final = sa.select(edge_user.c.name).where(edge_user.c.name == sa.bindparam("the_name"))
_HASH: Final = sa.select(edge_user.c.password_hash).where(
    edge_user.c.name == sa.bindparam("the_name"), edge_user.c.enabled
)
_MAY_SEND: Final = _SERVED.join(
    edge_user_address, edge_user_address.c.address_key == addresses.c.address_key
).where(edge_user_address.c.user == sa.bindparam("the_user"))
