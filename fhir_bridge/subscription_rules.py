"""The rules of a Subscription: the scopes it needs, its status, how many there may be.

Store functions: plain synchronous SQL on the caller's connection; they never commit.

Standards:
    FHIR    R4 subscription.html
    fhir.md section 4.4
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import sqlalchemy as sa

from certs.errors import Reason
from fhir_bridge.clients import Client
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.search import Query
from fhir_bridge.search_scopes import require_searchable
from fhir_bridge.store import Stored
from fhir_bridge.subscriptions import criteria_of, require_served, settled
from fhir_bridge.tables import fhir_client, fhir_resource
from fhir_bridge.terms import JSON, Terms

__all__ = ["require_open", "require_room", "subscribed"]

# Each change is compared with each of them.
SUBSCRIPTIONS_MAX: Final = 100


def subscribed(
    resource: JSON, old: Stored | None, client: Client, hosts: Collection[str], terms: Terms
) -> None:
    """Give `resource`, which takes the place of `old`, its status.

    Raises:
        FhirError: RESOURCE_UNSUPPORTED; it will not be served. ACCESS_FORBIDDEN; the client may
            not search what it is about.
    """
    require_served(resource, hosts, terms)
    require_open(resource, client)
    given = settled(resource, old.resource() if old else None)
    resource.clear()
    resource.update(given)


def require_open(subscription: Mapping[str, Any], client: Client) -> Query:
    """Return the criteria where the client's scopes open all that the subscription lets know.

    It tells of what a search would find, with content where a payload is asked for.

    Raises:
        FhirError: ACCESS_FORBIDDEN; RESOURCE_UNSUPPORTED and RESOURCE_INVALID, the criteria are
            not understood (any more).
    """
    query = criteria_of(subscription)
    require_searchable(query, client)
    client.require(query.kind.name, "r")
    if subscription["channel"].get("type") == "email":
        client.require("Communication", "c")  # it sends for a mailbox
    return query


def require_room(connection: sa.Connection, client: Client) -> None:
    """Return where the client may have one more Subscription; it is written on `connection`.

    Raises:
        FhirError: RESOURCE_CONFLICT; it has as many as it may have.
    """
    # On PostgreSQL a client's writes take turns here, so that no two count the same room.
    turn = sa.select(fhir_client.c.id).where(fhir_client.c.id == client.id).with_for_update()
    connection.execute(turn)
    count = connection.execute(
        sa.select(sa.func.count()).where(
            fhir_resource.c.type == "Subscription",
            fhir_resource.c.owner == client.own,
            fhir_resource.c.deleted.is_(False),
        )
    ).scalar_one()
    if count >= SUBSCRIPTIONS_MAX:
        text = f"There are {SUBSCRIPTIONS_MAX} subscriptions already: delete those not needed."
        raise FhirError(Reason.RESOURCE_CONFLICT, [Issue("too-costly", text)])
