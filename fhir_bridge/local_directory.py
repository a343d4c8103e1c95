"""Whom a received message means in the local directory: its actors, and its patient.

Store functions: plain synchronous SQL on the caller's connection; they never commit. Nothing is
ever added to the directory here; what is not in it stays as the message says it.

Standards:
    FHIR    R4 Reference, Practitioner, PractitionerRole, Organization, HealthcareService, Endpoint
    fhir.md section 3.2 (resolving an address: the directory comes first); section 3.3, row on the
            subject (a matched local Patient, else a contained one)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from fhir_bridge.delivery import address_of
from fhir_bridge.documents import same_patient
from fhir_bridge.store import Stored, stored_of
from fhir_bridge.tables import fhir_index, fhir_resource
from fhir_bridge.terms import JSON, MAILTO

__all__ = ["with_actors", "with_patient"]

_FEW: Final = 4  # so many are asked for one by one
# In this order: a person rather than a role of theirs, a role rather than a place.
_ACTORS: Final = ("Practitioner", "PractitionerRole", "Organization", "HealthcareService")


def with_actors(connection: sa.Connection, communication: JSON, *, owner: str) -> JSON:
    """Return `communication` with a literal reference to each actor that the directory knows.

    An address that several entries of one kind have means none of them.
    """
    listed = [communication.get("sender", {}), *communication.get("recipient", ())]
    addresses = {address for actor in listed if (address := address_of(actor))}
    known = _actors(connection, addresses, _home(owner))
    if not known:
        return communication
    found = dict(communication)
    if "sender" in found:
        found["sender"] = _named(found["sender"], known)
        if found["sender"].get("reference") != "#sender":
            _drop(found, "sender")
    found["recipient"] = [_named(actor, known) for actor in found.get("recipient", ())]
    return found


def with_patient(
    connection: sa.Connection, communication: JSON, documents: Sequence[JSON], *, owner: str
) -> tuple[JSON, list[JSON]]:
    """Return the resources with the local Patient as subject, where exactly one is meant.

    It has an identifier that the message states, and nothing that the message states otherwise.
    """
    kept = list(documents)
    stated = _contained(communication, "patient")
    if stated is None or communication.get("subject") != {"reference": "#patient"}:
        return communication, kept
    rows = _having(connection, "Patient", "identifier", _identifiers(stated), _home(owner))
    matched = [row for row in rows if same_patient(stated, row.resource())]
    if len(matched) != 1:
        return communication, kept
    literal = {"reference": f"Patient/{matched[0].id}"}
    found = {**communication, "subject": literal}
    _drop(found, "patient")
    return found, [_of_patient(document, stated, literal) for document in kept]


def _of_patient(document: JSON, stated: JSON, literal: JSON) -> JSON:
    own = _contained(document, "patient")
    if own is None or not same_patient(own, stated):
        return document
    # What the source itself said of the patient stays: `sourcePatientInfo` of a package.
    found = {**document, "subject": literal}
    if "sourcePatientInfo" not in document.get("context", {}):
        _drop(found, "patient")
    return found


def _actors(connection: sa.Connection, addresses: Collection[str], home: str) -> dict[str, Stored]:
    """Return the entry of each address, by the address in lower case."""
    if not addresses:
        return {}
    entries: dict[str, list[Stored]] = {}
    pairs = [("email", address) for address in addresses]
    for kind in _ACTORS:
        for row in _having(connection, kind, "email", pairs, home):
            for telecom in row.resource().get("telecom", ()):
                value = str(telecom.get("value", "")).lower()
                if value in addresses and telecom.get("use") != "old":
                    entries.setdefault(value, []).append(row)
    for address in addresses - entries.keys():
        entries[address] = _by_endpoint(connection, address, home)
    chosen = {address: _one(rows) for address, rows in entries.items()}
    return {address: row for address, row in chosen.items() if row is not None}


def _by_endpoint(connection: sa.Connection, address: str, home: str) -> list[Stored]:
    """Return who names an Endpoint with this address."""
    endpoints = _having(connection, "Endpoint", "address", [(None, MAILTO + address)], home)
    literals = [(None, f"Endpoint/{endpoint.id}") for endpoint in endpoints]
    return [
        row
        for kind in _ACTORS[1:]
        if literals
        for row in _having(connection, kind, "endpoint", literals, home)
    ]


def _one(rows: Sequence[Stored]) -> Stored | None:
    """Return the entry of the first kind that has any, where that is one."""
    for kind in _ACTORS:
        of_kind = {row.id: row for row in rows if row.type == kind}
        if of_kind:
            return next(iter(of_kind.values())) if len(of_kind) == 1 else None
    return None


def _having(
    connection: sa.Connection,
    kind: str,
    name: str,
    tokens: Iterable[tuple[str | None, str]],
    home: str,
) -> list[Stored]:
    values = list(dict.fromkeys(tokens))
    if not values:
        return []
    if len(values) <= _FEW:
        asked = {"the_type": kind, "the_name": name, "the_home": home}
        found = (_by_token(connection, asked, *token) for token in values)
        return sorted({row.id: row for rows in found for row in rows}.values(), key=_id)
    ids = sa.select(fhir_index.c.resource_id).where(
        fhir_index.c.type == kind,
        fhir_index.c.name == name,
        fhir_index.c.value.is_not(None),
        sa.or_(
            *(
                sa.and_(
                    fhir_index.c.value == value,
                    sa.true() if system is None else fhir_index.c.system == system,
                )
                for system, value in values
            )
        ),
    )
    statement = sa.select(fhir_resource).where(
        fhir_resource.c.id.in_(ids),
        fhir_resource.c.type == kind,
        fhir_resource.c.owner == home,
        fhir_resource.c.deleted.is_(False),
    )
    return [stored_of(row) for row in connection.execute(statement.order_by(fhir_resource.c.id))]


def _by_token(
    connection: sa.Connection, asked: Mapping[str, str], system: str | None, value: str
) -> list[Stored]:
    values = {**asked, "the_value": value, **({} if system is None else {"the_system": system})}
    return [stored_of(row) for row in connection.execute(_token(system is not None), values)]


@cache
def _token(with_system: bool) -> sa.Select[Any]:
    """Return what most messages ask; to build it anew would cost ten times its run."""
    system = fhir_index.c.system == sa.bindparam("the_system")
    return (
        sa.select(fhir_resource)
        .join(fhir_index, fhir_index.c.resource_id == fhir_resource.c.id)
        .where(
            fhir_index.c.type == sa.bindparam("the_type"),
            fhir_index.c.name == sa.bindparam("the_name"),
            fhir_index.c.value == sa.bindparam("the_value"),
            *([system] if with_system else []),
            fhir_resource.c.type == sa.bindparam("the_type"),
            fhir_resource.c.owner == sa.bindparam("the_home"),
            fhir_resource.c.deleted.is_(False),
        )
    )


def _id(row: Stored) -> UUID:
    return row.id


def _named(actor: JSON, known: Mapping[str, Stored]) -> JSON:
    entry = known.get(address_of(actor) or "")
    if entry is None:
        return actor
    return {**actor, "reference": f"{entry.type}/{entry.id}", "type": entry.type}


def _identifiers(patient: Mapping[str, Any]) -> list[tuple[str | None, str]]:
    stated = patient.get("identifier", ())
    return [(i["system"], i["value"]) for i in stated if "system" in i and "value" in i]


def _contained(resource: Mapping[str, Any], name: str) -> JSON | None:
    return next((r for r in resource.get("contained", ()) if r.get("id") == name), None)


def _drop(resource: JSON, name: str) -> None:
    kept = [each for each in resource.get("contained", ()) if each.get("id") != name]
    if kept:
        resource["contained"] = kept
    else:
        resource.pop("contained", None)


def _home(owner: str) -> str:
    return f"@{owner.rpartition('@')[2]}"
