"""What a client asks to export: of which types, since when, of which patients.

Pure. What is not understood is refused, so that nobody takes a narrower export for a whole one;
or passed over, where the client says that it would rather have that.

Standards:
    BULK    Bulk Data Access 2.0.0, export: the kick-off's headers and query parameters
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from certs.errors import Reason
from fhir_bridge.clients import Client
from fhir_bridge.criteria import shown
from fhir_bridge.definitions import COMPARTMENT, TYPES
from fhir_bridge.indexing import interval
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.system_search import searched_types
from fhir_bridge.terms import JSON

__all__ = ["PATIENT", "Wanted", "pairs_of", "read_wanted"]

PATIENT: Final = "Patient"
_FORMATS: Final = frozenset({"application/fhir+ndjson", "application/ndjson", "ndjson"})
_PASSED_OVER: Final = frozenset({"_format", "_pretty"})  # the HTTP layer reads these


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be exported. `since`: only what changed after that time.

    `within`: None is everything; "Patient" what concerns a patient; "Group/<id>" what concerns
    the patients of that Group.
    """

    kinds: tuple[str, ...]
    since: datetime | None
    within: str | None


def read_wanted(
    pairs: Sequence[tuple[str, str]], client: Client, *, within: str | None, lenient: bool
) -> Wanted:
    """Return what the parameters `pairs` ask for.

    Raises:
        FhirError: RESOURCE_INVALID, with all that is not understood; ACCESS_FORBIDDEN, a type
            that the client's scopes do not open for reading and searching.
    """
    reader = _Reader(within)
    for name, value in pairs:
        reader.take(name, value)
    if reader.wrong or (reader.unknown and not lenient):
        raise FhirError(Reason.RESOURCE_INVALID, [*reader.wrong, *reader.unknown])
    if reader.named:
        for kind in reader.kinds:
            client.require(kind, "rs")
        return Wanted(tuple(reader.kinds), reader.since, within)
    # What is the client's own may hold its secrets (Subscription): it goes where it is named.
    offered = (kind for kind in reader.offered if not TYPES[kind].of_client)
    opened = tuple(kind for kind in offered if client.scopes.allow(kind, "rs"))
    if not opened:
        raise FhirError(Reason.ACCESS_FORBIDDEN, [Issue("forbidden", "No type is open here.")])
    return Wanted(opened, reader.since, within)


def pairs_of(parameters: JSON) -> list[tuple[str, str]]:
    """Return the parameters of a posted `Parameters` as those of a URL."""
    return list(_pairs(parameters.get("parameter")))


def _pairs(listed: Any) -> Iterator[tuple[str, str]]:
    for parameter in listed if isinstance(listed, list) else ():
        if isinstance(parameter, dict):
            values = [v for k, v in parameter.items() if k.startswith("value")]
            # Whatever else it holds is no parameter of an export, and is refused by its name.
            text = values[0] if values and isinstance(values[0], str) else ""
            yield str(parameter.get("name")), text


class _Reader:
    def __init__(self, within: str | None) -> None:
        offered = [kind.name for kind in searched_types()]
        if within is not None:
            offered = [name for name in offered if name == PATIENT or name in COMPARTMENT]
        self.offered = offered
        self.kinds: list[str] = []
        self.named = False
        self.since: datetime | None = None
        self.wrong: list[Issue] = []
        self.unknown: list[Issue] = []

    def take(self, name: str, value: str) -> None:
        if name in _PASSED_OVER:
            return
        if name == "_type":
            self.take_types(value)
        elif name == "_since":
            # In a URL a bare "+" is a space.
            found = interval(value.replace(" ", "+"))
            if found is None:
                self.wrong.append(Issue("value", "_since is no instant."))
            else:
                self.since = found[0]
        elif name == "_outputFormat":
            if value.replace(" ", "+") not in _FORMATS:
                text = "Exports are application/fhir+ndjson."
                self.wrong.append(Issue("not-supported", text))
        else:
            text = f"An export has no parameter {shown(name)} here."
            self.unknown.append(Issue("not-supported", text))

    def take_types(self, value: str) -> None:
        self.named = True
        for name in filter(None, value.split(",")):
            if name not in self.offered:
                text = f"{shown(name)} is not exported here."
                self.unknown.append(Issue("not-supported", text))
            elif name not in self.kinds:
                self.kinds.append(name)
