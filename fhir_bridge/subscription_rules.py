"""The rules of writing a Subscription: will it be served, how many there may be, its status.

Store functions: plain synchronous SQL on the caller's connection; they never commit.

Standards:
    FHIR    R4 subscription.html
    fhir.md section 4.4
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import sqlalchemy as sa

from certs.errors import Reason
from fhir_bridge.clients import Client
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.search_scopes import require_searchable
from fhir_bridge.store import Stored
from fhir_bridge.subscriptions import criteria_of, require_served, settled
from fhir_bridge.tables import fhir_resource
from fhir_bridge.terms import JSON, Terms

__all__ = ["subscribed"]

# Each change is compared with each of them.
SUBSCRIPTIONS_MAX: Final = 100


def subscribed(
    resource: JSON,
    old: Stored | None,
    client: Client,
    hosts: Collection[str],
    terms: Terms,
    connection: sa.Connection,
) -> None:
    """Give `resource`, which takes the place of `old`, its status.

    Raises:
        FhirError: RESOURCE_UNSUPPORTED; it will not be served. ACCESS_FORBIDDEN; the client may
            not search what it is about. RESOURCE_CONFLICT; the client has
            as many as it may have.
    """
    require_served(resource, hosts, terms)
    # It tells of what a search would find, with content where a payload is asked for.
    query = criteria_of(resource)
    require_searchable(query, client)
    client.require(query.kind.name, "r")
    if old is None:
        _require_room(connection, client)
    given = settled(resource, old.resource() if old else None)
    resource.clear()
    resource.update(given)


def _require_room(connection: sa.Connection, client: Client) -> None:
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
