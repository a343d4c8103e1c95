"""A FHIR search as a value: its criteria, order and page, read from query parameters.

Pure.

Standards:
    FHIR    R4 search.html: 3.1.1.3 (comma is or, repeat is and), 3.1.1.4 (types, modifiers,
            prefixes), 3.1.1.5 (sort, count, total, summary, elements)
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from fhir_bridge.criteria import Criterion, bad_search, criterion_of, shown
from fhir_bridge.definitions import COMPARTMENT, TYPES
from fhir_bridge.registry import Kind, ResourceType, SearchParameter

__all__ = [
    "COUNT_MAX",
    "Chain",
    "Condition",
    "Either",
    "Has",
    "Include",
    "Query",
    "Sort",
    "cursor_of",
    "parse_query",
    "read_count",
    "read_cursor",
    "within_patient",
]

COUNT_DEFAULT: Final = 50
COUNT_MAX: Final = 1000
CRITERIA_MAX: Final = 50
SORTS_MAX: Final = 4
CHAIN_MAX: Final = 3
INCLUDES_MAX: Final = 20
KEY_MAX: Final = 1 << 62  # what a database holds as an integer
# What the HTTP layer reads, and what changes no result.
_PASSED_OVER: Final = frozenset({"_format", "_pretty", "_totalMethod"})


@dataclass(frozen=True, slots=True)
class Chain:
    """A reference to a resource of type `kind` that matches `inner` (search.html 3.1.1.5.3)."""

    parameter: SearchParameter
    kind: ResourceType
    inner: Condition


@dataclass(frozen=True, slots=True)
class Has:
    """A resource of type `kind` refers here by `parameter` and matches `inner` (3.1.1.5.4)."""

    parameter: SearchParameter
    kind: ResourceType
    inner: Condition


@dataclass(frozen=True, slots=True)
class Either:
    """One of these is enough."""

    criteria: tuple[Criterion, ...]


Condition = Criterion | Chain | Has | Either


@dataclass(frozen=True, slots=True)
class Include:
    """What else to put on the page: by `parameters` of `kind`, forwards or in reverse.

    `target` is the only type wanted, if there is one; `iterate` follows from includes too.
    """

    kind: ResourceType
    parameters: tuple[SearchParameter, ...]
    target: str | None
    reverse: bool
    iterate: bool


@dataclass(frozen=True, slots=True)
class Sort:
    """One key of the order."""

    parameter: SearchParameter
    descending: bool


@dataclass(frozen=True, slots=True)
class Query:
    """A search of one resource type. `used` is what was understood, for the self link."""

    kind: ResourceType
    criteria: tuple[Condition, ...]
    includes: tuple[Include, ...]
    sort: tuple[Sort, ...]
    count: int
    cursor: tuple[str | int, ...] | None
    total: bool
    summary_count: bool
    elements: tuple[str, ...]
    used: tuple[tuple[str, str], ...]


def parse_query(
    kind: ResourceType, pairs: Sequence[tuple[str, str]], *, strict: bool = False
) -> Query:
    """Return the search that `pairs` ask for.

    A parameter we do not know is left out, as FHIR asks of a lenient server; with `strict` it
    is refused.

    Raises:
        FhirError: RESOURCE_INVALID; a value or modifier that cannot be read, too many of them.
    """
    reader = _Reader(kind, strict)
    for name, value in pairs:
        reader.take(name, value)
    return reader.query()


def within_patient(query: Query, patient: UUID) -> Query | None:
    """Return `query` in the compartment of a Patient; None where its type is not in it."""
    names = COMPARTMENT.get(query.kind.name)
    if names is None:
        return None
    parameters = [query.kind.parameter(name) for name in names]
    found = tuple(Criterion(p, None, (f"Patient/{patient}",)) for p in parameters if p)
    return replace(query, criteria=(*query.criteria, Either(found)))


def cursor_of(keys: Sequence[str | int]) -> str:
    """Return an opaque `_cursor` that continues after the row with these sort keys."""
    return base64.urlsafe_b64encode(json.dumps(list(keys)).encode()).decode().rstrip("=")


def read_count(text: str) -> int:
    """Return the size of a page, at most 1,000.

    Raises:
        FhirError: RESOURCE_INVALID; no whole number.
    """
    if not text.isascii() or not text.isdigit():
        raise bad_search("value", "_count is a whole number.")
    return min(int(text[:9]), COUNT_MAX)


def read_cursor(text: str) -> tuple[str | int, ...]:
    """Return the sort keys in a `_cursor`.

    Raises:
        FhirError: RESOURCE_INVALID; not one of ours.
    """
    try:
        keys = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        keys = None
    if not isinstance(keys, list) or not keys or not all(map(_is_key, keys)):
        raise bad_search("value", "This is not a cursor of ours.")
    return tuple(keys)


def _is_key(key: object) -> bool:
    return isinstance(key, str) or (type(key) is int and abs(key) < KEY_MAX)


class _Reader:
    def __init__(self, kind: ResourceType, strict: bool) -> None:
        self.kind = kind
        self.strict = strict
        self.criteria: list[Condition] = []
        self.includes: list[Include] = []
        self.sort: list[Sort] = []
        self.count = COUNT_DEFAULT
        self.cursor: tuple[str | int, ...] | None = None
        self.total = False
        self.summary_count = False
        self.elements: tuple[str, ...] = ()
        self.used: list[tuple[str, str]] = []

    def take(self, name: str, value: str) -> None:
        if name in _PASSED_OVER:
            return
        if name == "_cursor":
            self.cursor = read_cursor(value)
        elif name == "_count":
            self.count = read_count(value)
        elif name == "_sort":
            self.take_sort(value)
        elif name == "_total":
            self.total = value in ("accurate", "estimate")
        elif name == "_summary":
            self.summary_count = value == "count"
        elif name == "_elements":
            self.elements = tuple(filter(None, value.split(",")))
        elif name.partition(":")[0] in ("_include", "_revinclude"):
            self.take_include(name, value)
        elif not self.take_criterion(name, value):
            if self.strict:
                raise bad_search("not-supported", f"The parameter {shown(name)} is not known here.")
            return
        if name != "_cursor":
            self.used.append((name, value))

    def take_sort(self, value: str) -> None:
        for key in value.split(",")[:SORTS_MAX]:
            parameter = self.kind.parameter(key.removeprefix("-"))
            if parameter is None:
                if self.strict:
                    raise bad_search("not-supported", f"Sorting by {shown(key)} is not supported.")
                continue
            self.sort.append(Sort(parameter, key.startswith("-")))

    def take_include(self, name: str, value: str) -> None:
        plain, _, modifier = name.partition(":")
        source, _, rest = value.partition(":")
        parameter_name, _, target = rest.partition(":")
        kind = TYPES.get(source)
        references = (
            [p for p in kind.parameters if p.kind is Kind.REFERENCE and not p.of] if kind else []
        )
        wanted = [p for p in references if parameter_name in (p.name, "*")]
        if kind is None or not wanted or modifier not in ("", "iterate", "recurse"):
            # FHIR: what cannot be included is refused rather than left out in silence.
            raise bad_search("not-supported", f"Nothing can be included by {shown(value)}.")
        reverse = plain == "_revinclude"
        if len(self.includes) == INCLUDES_MAX:
            raise bad_search("too-costly", "There are too many includes.")
        include = Include(kind, tuple(wanted), target or None, reverse, bool(modifier))
        self.includes.append(include)

    def take_criterion(self, name: str, value: str) -> bool:
        condition = _condition(self.kind, name, value, depth=0)
        if condition is None:
            return False
        if not value:
            return True  # FHIR: a parameter without a value is as if it were not there
        if len(self.criteria) == CRITERIA_MAX:
            raise bad_search("too-costly", "There are too many parameters.")
        self.criteria.append(condition)
        return True

    def query(self) -> Query:
        return Query(
            kind=self.kind,
            criteria=tuple(self.criteria),
            includes=tuple(self.includes),
            sort=tuple(self.sort),
            count=self.count,
            cursor=self.cursor,
            total=self.total or self.summary_count or self.count == 0,
            summary_count=self.summary_count,
            elements=self.elements,
            used=tuple(self.used),
        )


def _condition(kind: ResourceType, name: str, value: str, depth: int) -> Condition | None:
    """Return what one parameter asks; None where `kind` has no such parameter."""
    if depth > CHAIN_MAX:
        raise bad_search("too-costly", "The chain is too long.")
    if name.startswith("_has:"):
        return _has(name, value, depth)
    head, dot, rest = name.partition(".")
    plain, _, modifier = head.partition(":")
    parameter = kind.parameter(plain)
    if parameter is None:
        return None
    if dot:
        return _chain(parameter, modifier, rest, value, depth)
    if not value:
        return Criterion(parameter, None, ())
    return criterion_of(parameter, modifier or None, value)


def _chain(
    parameter: SearchParameter, modifier: str, rest: str, value: str, depth: int
) -> Condition:
    targets = [modifier] if modifier else list(parameter.targets)
    kind = TYPES.get(targets[0]) if len(targets) == 1 else None
    if parameter.kind is not Kind.REFERENCE or kind is None:
        text = f"{parameter.name} must name one type to be chained, as in {parameter.name}:Patient."
        raise bad_search("not-supported", text)
    inner = _condition(kind, rest, value, depth + 1)
    if inner is None:
        raise bad_search("not-supported", f"{kind.name} has no parameter {shown(rest)}.")
    return Chain(parameter, kind, inner)


def _has(name: str, value: str, depth: int) -> Condition:
    parts = name.split(":", 3)
    kind = TYPES.get(parts[1]) if len(parts) == 4 else None
    parameter = kind.parameter(parts[2]) if kind else None
    if kind is None or parameter is None or parameter.kind is not Kind.REFERENCE:
        raise bad_search("not-supported", "_has is _has:Type:reference:parameter.")
    inner = _condition(kind, parts[3], value, depth + 1)
    if inner is None:
        raise bad_search("not-supported", f"{kind.name} has no parameter {shown(parts[3])}.")
    return Has(parameter, kind, inner)
