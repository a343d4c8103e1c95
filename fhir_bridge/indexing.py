"""What a search finds a resource by: its index rows.

Pure.

Standards:
    FHIR    R4 search.html 3.1.1.4 (token, reference, date, string), datatypes.html dateTime
"""

from __future__ import annotations

import calendar
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from fhir_bridge.registry import COMMON, Kind, ResourceType
from fhir_bridge.terms import Terms

__all__ = ["IndexRow", "elements", "folded", "index_rows", "interval", "local_id"]

VALUE_CHARACTERS: Final = 512
_DATE: Final = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?)?)?"
)
_Rows: TypeAlias = Callable[[str, Any], Iterator["IndexRow"]]
_STEP: Final = re.compile(r"(ext|part)\(([a-z-]+)\)|([A-Za-z]+)")


class IndexRow(NamedTuple):
    """One findable value; see `tables.fhir_index`."""

    name: str
    system: str | None = None
    value: str | None = None
    target: UUID | None = None
    low: datetime | None = None
    high: datetime | None = None


def index_rows(
    resource: Mapping[str, Any], kind: ResourceType, terms: Terms
) -> tuple[IndexRow, ...]:
    """Return every index row of `resource`, each once."""
    rows: dict[IndexRow, None] = {}
    for first, path, name, rows_of in _looked_for(kind):
        if first in resource:
            for element in elements(resource, path, terms):
                rows.update(dict.fromkeys(rows_of(name, element)))
    return tuple(rows)


@cache
def _looked_for(kind: ResourceType) -> tuple[tuple[str, str, str, _Rows], ...]:
    """Return each path of each search parameter, after the element of a resource it begins at."""
    return tuple(
        (element or "extension", path, parameter.name, _ROWS[parameter.kind])
        for parameter in (*kind.parameters, *COMMON)
        for path in parameter.paths
        for _, _, element in _steps(path)[:1]
    )


def elements(resource: Mapping[str, Any], path: str, terms: Terms) -> list[Any]:
    """Return the elements at `path` (see `registry.SearchParameter`), lists flattened."""
    found: list[Any] = [resource]
    for function, argument, element in _steps(path):
        found = [
            child
            for item in found
            if isinstance(item, dict)
            for child in _step(item, function, argument, element, terms)
        ]
    return found


@cache
def _steps(path: str) -> tuple[tuple[str, str, str], ...]:
    """Return the steps of a path; the paths are those of the table of search parameters."""
    return tuple(_STEP.findall(path))


@lru_cache(maxsize=1024)  # of one message the same times are asked for several times
def interval(text: str) -> tuple[datetime, datetime] | None:
    """Return the times that a FHIR date, dateTime or instant covers: from, and up to but without.

    Without an offset it is read as UTC. None where it is no such value.
    """
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    try:
        low = datetime.fromisoformat(
            f"{year}-{month or '01'}-{day or '01'}T{hour or '00'}:{minute or '00'}:{second or '00'}"
            f"{(offset or '+00:00').replace('Z', '+00:00')}"
        ).astimezone(UTC)
        if fraction:
            low += timedelta(microseconds=int(f"{fraction[1:]:0<6}"[:6]))
            return low, low + timedelta(microseconds=10 ** max(0, 6 - len(fraction[1:])))
        return low, low + _width(year, month, day, hour, second)
    except (ValueError, OverflowError):
        return None


def local_id(literal: str) -> UUID | None:
    """Return the id in a relative reference, where it can be one that we gave."""
    kind, _, identity = literal.partition("/")
    try:
        return UUID(identity) if kind.isalpha() else None
    except ValueError:
        return None


def folded(text: str) -> str:
    """Return `text` as strings are compared: lower case, no accents, single spaces."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(c for c in plain if not unicodedata.combining(c))
    return " ".join(bare.split())[:VALUE_CHARACTERS]


def _width(
    year: str, month: str | None, day: str | None, hour: str | None, second: str | None
) -> timedelta:
    if second:
        return timedelta(seconds=1)
    if hour:
        return timedelta(minutes=1)
    if day:
        return timedelta(days=1)
    if month:
        return timedelta(days=calendar.monthrange(int(year), int(month))[1])
    return timedelta(days=366 if calendar.isleap(int(year)) else 365)


def _step(
    item: Mapping[str, Any], function: str, argument: str, element: str, terms: Terms
) -> list[Any]:
    if element:
        value = item.get(element, [])
        return value if isinstance(value, list) else [value]
    url = terms.extension(argument) if function == "ext" else argument
    found = [e for e in item.get("extension", ()) if e.get("url") == url]
    # An extension with parts is passed on whole, one with a value as that value.
    return [
        e if "extension" in e else next((v for k, v in e.items() if k.startswith("value")), None)
        for e in found
    ]


def _token(name: str, element: Any) -> Iterator[IndexRow]:
    if isinstance(element, bool):
        yield IndexRow(name, value=str(element).lower())
    elif isinstance(element, str):
        yield IndexRow(name, value=element[:VALUE_CHARACTERS])
    elif isinstance(element, dict):
        for coding in element.get("coding", ()):
            yield from _token(name, coding)
            if "display" in coding:
                yield IndexRow(f"{name}:text", value=folded(coding["display"]))
        if isinstance(text := element.get("text"), str):
            yield IndexRow(f"{name}:text", value=folded(text))
        code = element.get("code") if "value" not in element else element["value"]
        if element.get("system") == "email" and isinstance(code, str):
            code = code.lower()  # a ContactPoint: an address is compared without case
        if isinstance(code, str):
            yield IndexRow(name, element.get("system"), code[:VALUE_CHARACTERS])


def _reference(name: str, element: Any) -> Iterator[IndexRow]:
    if isinstance(element, str):  # a canonical
        yield IndexRow(name, value=element[:VALUE_CHARACTERS])
    if not isinstance(element, dict):
        return
    literal = element.get("reference")
    if isinstance(literal, str) and not literal.startswith("#"):
        present = literal.partition("/_history/")[0][:VALUE_CHARACTERS]
        yield IndexRow(name, value=present, target=local_id(present))
    identifier = element.get("identifier")
    if isinstance(identifier, dict) and isinstance(value := identifier.get("value"), str):
        if value.startswith("mailto:"):  # fhir.md 3.2: compared without case
            value = value.lower()
        yield IndexRow(f"{name}:identifier", identifier.get("system"), value[:VALUE_CHARACTERS])
    if isinstance(display := element.get("display"), str):
        yield IndexRow(f"{name}:text", value=folded(display))


def _date(name: str, element: Any) -> Iterator[IndexRow]:
    if isinstance(element, str) and (times := interval(element)):
        yield IndexRow(name, low=times[0], high=times[1])
    elif isinstance(element, dict):  # a Period; an open end is far away
        start = interval(element.get("start", "0001"))
        end = interval(element.get("end", "9998"))
        if start and end:
            yield IndexRow(name, low=start[0], high=end[1])


def _string(name: str, element: Any) -> Iterator[IndexRow]:
    # A HumanName or an Address is found by each part of it.
    parts = element.values() if isinstance(element, dict) else [element]
    for part in parts:
        for text in part if isinstance(part, list) else [part]:
            if isinstance(text, str):
                yield IndexRow(name, value=folded(text))
                yield IndexRow(f"{name}:exact", value=text[:VALUE_CHARACTERS])


def _uri(name: str, element: Any) -> Iterator[IndexRow]:
    if isinstance(element, str):
        yield IndexRow(name, value=element[:VALUE_CHARACTERS])


_ROWS: Final[Mapping[Kind, _Rows]] = {
    Kind.CODE: _token,
    Kind.REFERENCE: _reference,
    Kind.DATE: _date,
    Kind.STRING: _string,
    Kind.URI: _uri,
}
