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
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from certs.errors import Reason
from fhir_bridge.definitions import TYPES
from fhir_bridge.indexing import folded, interval
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.registry import Kind, ResourceType, SearchParameter

__all__ = [
    "Chain",
    "Condition",
    "Criterion",
    "DateRange",
    "Has",
    "Include",
    "Query",
    "Sort",
    "Token",
    "cursor_of",
    "parse_query",
    "read_count",
    "read_cursor",
]

COUNT_DEFAULT: Final = 50
COUNT_MAX: Final = 1000
VALUES_MAX: Final = 100
CRITERIA_MAX: Final = 50
SORTS_MAX: Final = 4
CHAIN_MAX: Final = 3
INCLUDES_MAX: Final = 20
_PREFIX: Final = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)?(.*)", re.DOTALL)
# What the HTTP layer reads, and what changes no result.
_PASSED_OVER: Final = frozenset({"_format", "_pretty", "_totalMethod"})


@dataclass(frozen=True, slots=True)
class Token:
    """`system` None is any system, "" is none; `code` None is any code."""

    system: str | None
    code: str | None


@dataclass(frozen=True, slots=True)
class DateRange:
    """A date with its comparison. `high` is just after the last moment it covers."""

    prefix: str
    low: datetime
    high: datetime


@dataclass(frozen=True, slots=True)
class Criterion:
    """One parameter that must match; any of its values will do."""

    parameter: SearchParameter
    modifier: str | None
    values: tuple[Token | DateRange | str, ...]


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


Condition = Criterion | Chain | Has


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


def cursor_of(keys: Sequence[str | int]) -> str:
    """Return an opaque `_cursor` that continues after the row with these sort keys."""
    return base64.urlsafe_b64encode(json.dumps(list(keys)).encode()).decode().rstrip("=")


def read_count(text: str) -> int:
    """Return the size of a page, at most 1,000.

    Raises:
        FhirError: RESOURCE_INVALID; no whole number.
    """
    if not text.isascii() or not text.isdigit():
        raise _bad("value", "_count is a whole number.")
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
    if not isinstance(keys, list) or not all(isinstance(k, str | int) for k in keys) or not keys:
        raise _bad("value", "This is not a cursor of ours.")
    return tuple(keys)


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
                raise _bad("not-supported", f"The parameter {_shown(name)} is not known here.")
            return
        if name != "_cursor":
            self.used.append((name, value))

    def take_sort(self, value: str) -> None:
        for key in value.split(",")[:SORTS_MAX]:
            parameter = self.kind.parameter(key.removeprefix("-"))
            if parameter is None:
                if self.strict:
                    raise _bad("not-supported", f"Sorting by {_shown(key)} is not supported.")
                continue
            self.sort.append(Sort(parameter, key.startswith("-")))

    def take_include(self, name: str, value: str) -> None:
        plain, _, modifier = name.partition(":")
        source, _, rest = value.partition(":")
        parameter_name, _, target = rest.partition(":")
        kind = TYPES.get(source)
        references = [p for p in kind.parameters if p.kind is Kind.REFERENCE] if kind else []
        wanted = [p for p in references if parameter_name in (p.name, "*")]
        if kind is None or not wanted or modifier not in ("", "iterate", "recurse"):
            # FHIR: what cannot be included is refused rather than left out in silence.
            raise _bad("not-supported", f"Nothing can be included by {_shown(value)}.")
        reverse = plain == "_revinclude"
        if len(self.includes) == INCLUDES_MAX:
            raise _bad("too-costly", "There are too many includes.")
        include = Include(kind, tuple(wanted), target or None, reverse, bool(modifier))
        self.includes.append(include)

    def take_criterion(self, name: str, value: str) -> bool:
        condition = _condition(self.kind, name, value, depth=0)
        if condition is None:
            return False
        if not value:
            return True  # FHIR: a parameter without a value is as if it were not there
        if len(self.criteria) == CRITERIA_MAX:
            raise _bad("too-costly", "There are too many parameters.")
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
        raise _bad("too-costly", "The chain is too long.")
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
    return _criterion(parameter, modifier or None, value)


def _chain(
    parameter: SearchParameter, modifier: str, rest: str, value: str, depth: int
) -> Condition:
    targets = [modifier] if modifier else list(parameter.targets)
    kind = TYPES.get(targets[0]) if len(targets) == 1 else None
    if parameter.kind is not Kind.REFERENCE or kind is None:
        text = f"{parameter.name} must name one type to be chained, as in {parameter.name}:Patient."
        raise _bad("not-supported", text)
    inner = _condition(kind, rest, value, depth + 1)
    if inner is None:
        raise _bad("not-supported", f"{kind.name} has no parameter {_shown(rest)}.")
    return Chain(parameter, kind, inner)


def _has(name: str, value: str, depth: int) -> Condition:
    parts = name.split(":", 3)
    kind = TYPES.get(parts[1]) if len(parts) == 4 else None
    parameter = kind.parameter(parts[2]) if kind else None
    if kind is None or parameter is None or parameter.kind is not Kind.REFERENCE:
        raise _bad("not-supported", "_has is _has:Type:reference:parameter.")
    inner = _condition(kind, parts[3], value, depth + 1)
    if inner is None:
        raise _bad("not-supported", f"{kind.name} has no parameter {_shown(parts[3])}.")
    return Has(parameter, kind, inner)


def _criterion(parameter: SearchParameter, modifier: str | None, value: str) -> Criterion:
    if modifier == "missing":
        if value not in ("true", "false"):
            raise _bad("value", "missing is true or false.")
        return Criterion(parameter, "missing", (value,))
    values = split_escaped(value, ",")
    if len(values) > VALUES_MAX:
        raise _bad("too-costly", "There are too many values.")
    if parameter.kind is Kind.DATE:
        _only(parameter, modifier, ())
        return Criterion(parameter, None, tuple(_date(v) for v in values))
    if parameter.kind is Kind.REFERENCE:
        return _reference(parameter, modifier, values)
    if parameter.kind is Kind.CODE:
        _only(parameter, modifier, ("not", "text"))
        if modifier == "text":
            return Criterion(parameter, "text", tuple(folded(unescaped(v)) for v in values))
        tokens = tuple(_token(v) for v in values)
        if parameter.name in ("telecom", "email"):
            tokens = tuple(Token(t.system, t.code and t.code.lower()) for t in tokens)
        return Criterion(parameter, modifier, tokens)
    if parameter.kind is Kind.STRING:
        _only(parameter, modifier, ("exact", "contains"))
        if modifier == "exact":
            return Criterion(parameter, modifier, tuple(unescaped(v) for v in values))
        return Criterion(parameter, modifier, tuple(folded(unescaped(v)) for v in values))
    _only(parameter, modifier, ("not",))
    return Criterion(parameter, modifier, tuple(unescaped(v) for v in values))


def _reference(
    parameter: SearchParameter, modifier: str | None, values: Sequence[str]
) -> Criterion:
    plain = [unescaped(v) for v in values]
    if modifier == "identifier":
        return Criterion(parameter, "identifier", tuple(_identifier(v) for v in values))
    # A Direct address is a URI, and what a person has at hand: find it by its identifier.
    if modifier is None and all(v.startswith("mailto:") for v in plain):
        return Criterion(parameter, "identifier", tuple(Token(None, v.lower()) for v in plain))
    if modifier == "text":
        return Criterion(parameter, "text", tuple(folded(v) for v in plain))
    types = parameter.targets or ("",)
    if modifier is not None and modifier != "not":
        if not modifier[:1].isupper() or (parameter.targets and modifier not in types):
            _only(parameter, modifier, ())
        return Criterion(parameter, None, tuple(f"{modifier}/{v.split('/')[-1]}" for v in plain))
    found = [v if "/" in v or ":" in v else f"{t}/{v}" for v in plain for t in types]
    return Criterion(parameter, modifier, tuple(found))


def _identifier(text: str) -> Token:
    token = _token(text)
    code = token.code.lower() if token.code and token.code.startswith("mailto:") else token.code
    return Token(token.system, code)


def _token(text: str) -> Token:
    parts = split_escaped(text, "|")
    if len(parts) == 1:
        return Token(None, unescaped(parts[0]))
    code = unescaped("|".join(parts[1:]))
    return Token(unescaped(parts[0]), code or None)


def _date(text: str) -> DateRange:
    match = _PREFIX.fullmatch(text)
    prefix, rest = (match[1] or "eq", match[2]) if match else ("eq", text)
    # A "+" of an offset that a client did not encode arrives as a space.
    times = interval(unescaped(rest).replace(" ", "+"))
    if times is None:
        raise _bad("value", "This is not a date.")
    return DateRange(prefix, *times)


def split_escaped(text: str, separator: str) -> list[str]:
    """Return `text` split where `separator` is not escaped by a backslash (search.html 3.1.1.4)."""
    return re.split(rf"(?<!\\){re.escape(separator)}", text)


def unescaped(text: str) -> str:
    r"""Return `text` with its escapes (\, \| \$ \\) undone."""
    return re.sub(r"\\([,|$\\])", r"\1", text)


def _only(parameter: SearchParameter, modifier: str | None, allowed: tuple[str, ...]) -> None:
    if modifier is not None and modifier not in allowed:
        # FHIR: a server rejects a modifier it does not support.
        name = f"{parameter.name}:{_shown(modifier)}"
        raise _bad("not-supported", f"The modifier of {name} is not supported.")


def _shown(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_:.-]", "?", text[:40])


def _bad(code: str, text: str) -> FhirError:
    return FhirError(Reason.RESOURCE_INVALID, [Issue(code, text)])
