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
from fhir_bridge.references import with_references
from fhir_bridge.store import Stored, stored_of
from fhir_bridge.tables import fhir_index, fhir_resource
from fhir_bridge.terms import JSON, MAILTO

__all__ = ["with_actors", "with_patient"]

# Each is a query, and who writes decides how many there are.
_IDENTIFIERS_MAX: Final = 50
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
    if stated is None or communication.get("subject", {}).get("reference") != "#patient":
        return communication, kept
    rows = _having(connection, "Patient", "identifier", _identifiers(stated), _home(owner))
    matched = [row for row in rows if same_patient(stated, row.resource())]
    if len(matched) != 1:
        return communication, kept
    literal = {"reference": f"Patient/{matched[0].id}"}
    # What an envelope contains may refer to the patient, too.
    found = with_references(
        {**communication, "subject": literal}, {"#patient": literal["reference"]}
    )
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
    entries = {address: _entry(connection, address, home) for address in addresses}
    return {address: row for address, row in entries.items() if row is not None}


def _entry(connection: sa.Connection, address: str, home: str) -> Stored | None:
    """Return who has this address now, else who names an Endpoint with it."""
    asked = {"the_address": address, "the_url": MAILTO + address, "the_home": home}
    rows = [stored_of(row) for row in connection.execute(_ADDRESSED, asked)]
    present = [row for row in rows if row.type != "Endpoint" and _is_present(row, address)]
    return _one(present or _naming(connection, [r for r in rows if r.type == "Endpoint"], home))


def _is_present(row: Stored, address: str) -> bool:
    return any(
        str(telecom.get("value", "")).lower() == address and telecom.get("use") != "old"
        for telecom in row.resource().get("telecom", ())
    )


def _naming(connection: sa.Connection, endpoints: Sequence[Stored], home: str) -> list[Stored]:
    literals = [(None, f"Endpoint/{endpoint.id}") for endpoint in endpoints]
    return [
        row for kind in _ACTORS[1:] for row in _having(connection, kind, "endpoint", literals, home)
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
    asked = {"the_type": kind, "the_name": name, "the_home": home}
    # One by one: what all of them ask is one text, and a list of any length is none too long.
    found = (_by_token(connection, asked, *token) for token in dict.fromkeys(tokens))
    return sorted({row.id: row for rows in found for row in rows}.values(), key=_id)


def _by_token(
    connection: sa.Connection, asked: Mapping[str, str], system: str | None, value: str
) -> list[Stored]:
    values = {**asked, "the_value": value, **({} if system is None else {"the_system": system})}
    return [stored_of(row) for row in connection.execute(_token(system is not None), values)]


@cache
def _token(with_system: bool) -> sa.Select[Any]:
    system = fhir_index.c.system == sa.bindparam("the_system")
    return _indexed(
        fhir_index.c.type == sa.bindparam("the_type"),
        fhir_index.c.name == sa.bindparam("the_name"),
        fhir_index.c.value == sa.bindparam("the_value"),
        *([system] if with_system else []),
    )


def _indexed(*conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return (
        sa.select(fhir_resource)
        .join(fhir_index, fhir_index.c.resource_id == fhir_resource.c.id)
        .where(
            *conditions,
            fhir_resource.c.type == fhir_index.c.type,
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
    stated = patient.get("identifier", ())[:_IDENTIFIERS_MAX]
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


# Asked of every address of every message: to build it anew would cost ten times its run.
_ADDRESSED: Final = sa.union_all(
    _indexed(
        sa.or_(*(fhir_index.c.type == kind for kind in _ACTORS)),
        fhir_index.c.name == "email",
        fhir_index.c.value == sa.bindparam("the_address"),
        fhir_index.c.system == "email",
    ),
    _indexed(
        fhir_index.c.type == "Endpoint",
        fhir_index.c.name == "address",
        fhir_index.c.value == sa.bindparam("the_url"),
    ),
)
