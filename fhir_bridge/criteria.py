"""One search parameter and its values: what they ask of a resource's index.

Pure.

Standards:
    FHIR    R4 search.html 3.1.1.4: types, modifiers, prefixes, escapes
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from certs.errors import Reason
from fhir_bridge.indexing import folded, interval
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.registry import Kind, SearchParameter

__all__ = ["Criterion", "DateRange", "Token", "bad_search", "criterion_of", "shown"]

VALUES_MAX: Final = 100
_PREFIX: Final = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)?(.*)", re.DOTALL)


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


def criterion_of(parameter: SearchParameter, modifier: str | None, value: str) -> Criterion:
    """Return what `value` asks of `parameter`.

    Raises:
        FhirError: RESOURCE_INVALID; a value or a modifier that cannot be read.
    """
    if modifier == "missing":
        if value not in ("true", "false"):
            raise bad_search("value", "missing is true or false.")
        return Criterion(parameter, "missing", (value,))
    values = _split(value, ",")
    if len(values) > VALUES_MAX:
        raise bad_search("too-costly", "There are too many values.")
    if parameter.kind is Kind.DATE:
        _only(parameter, modifier, ())
        return Criterion(parameter, None, tuple(_date(v) for v in values))
    if parameter.kind is Kind.REFERENCE:
        return _reference(parameter, modifier, values)
    if parameter.kind is Kind.CODE:
        _only(parameter, modifier, ("not", "text"))
        if modifier == "text":
            return Criterion(parameter, "text", tuple(folded(_unescaped(v)) for v in values))
        tokens = tuple(_token(v) for v in values)
        if parameter.name in ("telecom", "email"):
            tokens = tuple(Token(t.system, t.code and t.code.lower()) for t in tokens)
        return Criterion(parameter, modifier, tokens)
    if parameter.kind is Kind.STRING:
        _only(parameter, modifier, ("exact", "contains"))
        if modifier == "exact":
            return Criterion(parameter, modifier, tuple(_unescaped(v) for v in values))
        return Criterion(parameter, modifier, tuple(folded(_unescaped(v)) for v in values))
    _only(parameter, modifier, ("not",))
    return Criterion(parameter, modifier, tuple(_unescaped(v) for v in values))


def _reference(
    parameter: SearchParameter, modifier: str | None, values: Sequence[str]
) -> Criterion:
    plain = [_unescaped(v) for v in values]
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
    parts = _split(text, "|")
    if len(parts) == 1:
        return Token(None, _unescaped(parts[0]))
    code = _unescaped("|".join(parts[1:]))
    return Token(_unescaped(parts[0]), code or None)


def _date(text: str) -> DateRange:
    match = _PREFIX.fullmatch(text)
    prefix, rest = (match[1] or "eq", match[2]) if match else ("eq", text)
    # A "+" of an offset that a client did not encode arrives as a space.
    times = interval(_unescaped(rest).replace(" ", "+"))
    if times is None:
        raise bad_search("value", "This is not a date.")
    return DateRange(prefix, *times)


def _split(text: str, separator: str) -> list[str]:
    """Return `text` split where `separator` is not escaped by a backslash (search.html 3.1.1.4)."""
    parts = [""]
    for piece in re.findall(r"\\.|[^\\]|\\$", text, re.DOTALL):
        if piece == separator:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def _unescaped(text: str) -> str:
    r"""Return `text` with its escapes (\, \| \$ \\) undone."""
    return re.sub(r"\\([,|$\\])", r"\1", text)


def _only(parameter: SearchParameter, modifier: str | None, allowed: tuple[str, ...]) -> None:
    if modifier is not None and modifier not in allowed:
        # FHIR: a server rejects a modifier it does not support.
        name = f"{parameter.name}:{shown(modifier)}"
        raise bad_search("not-supported", f"The modifier of {name} is not supported.")


def shown(text: str) -> str:
    """Return what of a client's text may stand in an answer."""
    return re.sub(r"[^A-Za-z0-9_:.-]", "?", text[:40])


def bad_search(code: str, text: str) -> FhirError:
    """Return the error for a search that cannot be read."""
    return FhirError(Reason.RESOURCE_INVALID, [Issue(code, text)])
