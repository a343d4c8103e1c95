"""Read a resource that a client sent, and check it; every issue found is reported at once.

Pure. The client's own JSON is what is kept: the R4B models of `fhir.resources` judge it and are
thrown away (their R4B has R4's elements for everything served here). What they let through
(fhir.md 1.3) is checked before and after them.

Standards:
    FHIR    R4 json.html, datatypes.html, references.html; invariants att-1, ext-1, dom-3
    RFC8259
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

import orjson
from fhir.resources.R4B import get_fhir_model_class
from fhir.resources.R4B.resource import Resource
from pydantic import BaseModel, ValidationError

from certs.errors import Reason
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.terms import JSON

__all__ = [
    "check",
    "decimal_text",
    "dump",
    "load",
    "load_any",
    "require_type",
    "require_well_formed",
]

# fhir.md 1.3: fhir.resources raises RecursionError from about 300 on.
DEPTH_MAX: Final = 64
# FHIR: string, 1,048,576 characters. Ours: elements of one resource.
STRING_CHARACTERS_MAX: Final = 1024 * 1024
ELEMENTS_MAX: Final = 100_000
INTEGER_CHARACTERS: Final = 18

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ID: Final = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_REFERENCE: Final = re.compile(
    r"#[A-Za-z0-9\-.]{0,64}"
    r"|[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?"
    r"|[A-Z][A-Za-z]+\?\S+"
    r"|[a-z][a-z0-9+.-]*:\S+"
)
_EXTENSION: Final = re.compile(r"\.(?:extension|modifierExtension)\[\d+\]$")
_ATTACHMENT: Final = re.compile(r"\.(?:\w*[aA]ttachment|photo(?:\[\d+\])?)$")
_REFERENCE_TYPE: Final = re.compile(r"(?:^|/)([A-Z][A-Za-z]+)(?:/[A-Za-z0-9\-.]{1,64}|\?\S+)")


def load(text: bytes) -> JSON:
    """Return the JSON object in `text`; decimals keep their digits.

    Raises:
        FhirError: RESOURCE_INVALID; not one JSON object in UTF-8, a name twice, too deep.
    """
    loaded = load_any(text)
    if not isinstance(loaded, dict):
        raise _invalid(Issue("structure", "The body is not a JSON object."))
    return loaded


def load_any(text: bytes) -> Any:
    """Return any JSON value in `text`, unchecked but for names that stand twice.

    Raises:
        FhirError: RESOURCE_INVALID.
    """
    try:
        return json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=Decimal,
            parse_int=_integer,
            parse_constant=_no_constant,
        )
    except RecursionError:
        raise _invalid(Issue("structure", "The resource is nested too deeply.")) from None
    except ValueError:  # of which JSONDecodeError and UnicodeDecodeError are kinds
        raise _invalid(Issue("structure", "The body is not JSON in UTF-8.")) from None


def dump(resource: Mapping[str, Any]) -> bytes:
    """Return `resource` as JSON; a `Decimal` as it was written."""
    return orjson.dumps(resource, default=decimal_text)


def require_type(resource: JSON, expected: str) -> None:
    """Return where `resource` is of type `expected`.

    Raises:
        FhirError: RESOURCE_INVALID.
    """
    found = resource.get("resourceType")
    if found != expected:
        text = f"This endpoint takes {expected}, not {found if _known(found) else 'this'}."
        raise _invalid(Issue("invalid", text, "resourceType"))


def require_well_formed(resource: JSON, name: str) -> None:
    """Return where `resource` is what any FHIR JSON must be, whatever its type.

    Raises:
        FhirError: RESOURCE_INVALID; an empty array, a null, a control character, too deep.
    """
    issues = list(_malformed(resource, name))
    if issues:
        raise FhirError(Reason.RESOURCE_INVALID, issues)


def check(resource: JSON) -> None:
    """Return where `resource` is a valid R4 resource of a known type.

    Raises:
        FhirError: RESOURCE_INVALID, with every issue found; first of all an empty array, a
            null, a control character, an over-long string, an id that is none.
    """
    name = resource.get("resourceType")
    require_well_formed(resource, name if isinstance(name, str) else "Resource")
    if not isinstance(name, str) or not _known(name):
        raise _invalid(Issue("structure", "The resource type is not known.", "resourceType"))
    issues = list(_unknown_contained(resource, name))
    if not issues:
        issues = _judged_by_model(resource, name)
    issues.extend(_invariants(resource, name))
    if issues:
        raise FhirError(Reason.RESOURCE_INVALID, issues)


def _judged_by_model(resource: JSON, name: str) -> list[Issue]:
    try:
        model = get_fhir_model_class(name).model_validate(resource)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        return [_issue_of_model(name, p["loc"], p["type"], p["msg"]) for p in problems]
    # fhir.md 1.3: what the models should have reported; an object, or true, for a url.
    except (KeyError, RecursionError, TypeError, AttributeError):
        return [Issue("structure", "The resource could not be read.", name)]
    return list(_bindings(model, name))


def _issue_of_model(name: str, location: tuple[int | str, ...], kind: str, text: str) -> Issue:
    expression = name
    for step in location:
        expression += f"[{step}]" if isinstance(step, int) else f".{step.removeprefix('_')}"
    expression = expression.replace(".resource_type", ".resourceType")
    if kind == "extra_forbidden":
        return Issue("structure", "There is no such element here.", expression)
    if "missing" in kind:
        return Issue("required", "This element is required.", expression)
    if kind.endswith("_type"):
        return Issue("structure", f"{text}.", expression)
    # The rest of the message may quote the value: say what kind of problem it is only.
    if "one field value is expected" in text or "multiple" in text:
        return Issue(
            "structure", "Exactly one of the choices of this element is allowed.", expression
        )
    return Issue("value", "The value does not have the format of its type.", expression)


def _bindings(model: BaseModel, path: str) -> Iterator[Issue]:
    """Yield what the models do not enforce: required bindings and the types of references."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if value is None or name == "resource_type":
            continue
        rules = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        here = f"{path}.{field.alias or name}"
        repeats = isinstance(value, list)
        for position, item in enumerate(value if repeats else [value]):
            at = f"{here}[{position}]" if repeats else here
            codes = rules.get("enum_values")
            if isinstance(codes, list) and "+" not in codes and item not in codes:
                yield Issue("code-invalid", f"One of {', '.join(map(str, codes))}.", at)
            targets = rules.get("enum_reference_types")
            if isinstance(targets, list) and isinstance(item, BaseModel):
                yield from _reference_target(item, targets, at)
            if isinstance(item, BaseModel):
                yield from _bindings(item, at)


def _reference_target(reference: BaseModel, targets: list[Any], at: str) -> Iterator[Issue]:
    if "Resource" in targets:
        return
    literal = getattr(reference, "reference", None) or ""
    found = _REFERENCE_TYPE.search(literal)
    kinds = {getattr(reference, "type", None), found[1] if found and literal[0] != "#" else None}
    if any(_known(kind) and kind not in targets for kind in kinds):
        yield Issue("value", f"This refers to one of {', '.join(map(str, targets))} only.", at)


def _malformed(value: Any, path: str) -> Iterator[Issue]:
    """Yield what FHIR forbids in any JSON; iterative, so that depth is judged, not suffered."""
    pending: list[tuple[Any, str, int]] = [(value, path, 1)]
    seen = 0
    extended: set[str] = set()  # the arrays that have another beside them, of extensions
    while pending:
        item, at, depth = pending.pop()
        seen += 1
        if depth > DEPTH_MAX or seen > ELEMENTS_MAX:
            yield Issue("too-costly", "The resource is too deep or has too many elements.", path)
            return
        if isinstance(item, dict):
            if not item:
                yield Issue("structure", "An object must not be empty.", at)
            pending.extend((child, f"{at}.{key}", depth + 1) for key, child in item.items())
            extended |= {f"{at}.{key[1:]}" for key in item if key.startswith("_")}
            yield from _bad_names(item, at)
        elif isinstance(item, list):
            if not item:
                yield Issue("structure", "An array must not be empty.", at)
            pending.extend((child, f"{at}[{n}]", depth + 1) for n, child in enumerate(item))
        elif isinstance(item, str):
            yield from _bad_string(item, at)
        elif item is None and "._" not in at and at.rpartition("[")[0] not in extended:
            # FHIR json.html: null stands only beside an extended primitive in an array.
            yield Issue("structure", "null is not a value.", at)


def _bad_string(text: str, at: str) -> Iterator[Issue]:
    if not text:
        yield Issue("value", "A string must not be empty.", at)
    elif len(text) > STRING_CHARACTERS_MAX and not at.endswith(".data"):
        yield Issue("too-long", "A string has at most 1,048,576 characters.", at)
    elif _CONTROLS.search(text) or not _encodable(text):
        yield Issue("value", "A string must not hold control characters or surrogates.", at)


def _bad_names(element: Mapping[str, Any], at: str) -> Iterator[Issue]:
    for key in element:
        if not _encodable(key) or _CONTROLS.search(key):
            yield Issue("structure", "A name holds control characters.", at)
    identity = element.get("id")
    if isinstance(identity, str) and "resourceType" in element and not _ID.fullmatch(identity):
        yield Issue("value", "An id has 1 to 64 letters, digits, - and dots.", f"{at}.id")


def _invariants(resource: JSON, name: str) -> Iterator[Issue]:
    """Yield broken rules on elements of any resource: references, att-1, ext-1, dom-3."""
    contained = _contained(resource)
    anchors = {f"#{item.get('id')}" for _position, item in contained}
    used: set[str] = set()
    for element, at in _objects(resource, name):
        reference = element.get("reference")
        if isinstance(reference, str):
            used.add(reference)
            if not _REFERENCE.fullmatch(reference):
                yield Issue("value", "This is not a reference.", f"{at}.reference")
            elif reference[0] == "#" and reference != "#" and reference not in anchors:
                yield Issue("not-found", "No contained resource has this id.", f"{at}.reference")
        if "data" in element and "contentType" not in element and _ATTACHMENT.search(at):
            yield Issue("invariant", "att-1: data needs a contentType.", at)
        if _EXTENSION.search(at):
            values = [key for key in element if key.startswith("value")]
            if bool(values) == ("extension" in element):
                yield Issue("invariant", "ext-1: either a value or extensions.", at)
    for position, item in contained:
        if f"#{item.get('id')}" not in used:
            text = "dom-3: a contained resource is referred to from the resource."
            yield Issue("invariant", text, f"{name}.contained[{position}]")


def _unknown_contained(resource: JSON, name: str) -> Iterator[Issue]:
    for element, at in _objects(resource, name):
        kind = element.get("resourceType")
        if kind is not None and not _known(kind):
            yield Issue("structure", "The resource type is not known.", f"{at}.resourceType")


def _objects(value: Any, path: str) -> Iterator[tuple[JSON, str]]:
    pending: list[tuple[Any, str]] = [(value, path)]
    while pending:
        item, at = pending.pop()
        if isinstance(item, dict):
            yield item, at
            pending.extend((child, f"{at}.{key}") for key, child in item.items())
        elif isinstance(item, list):
            pending.extend((child, f"{at}[{n}]") for n, child in enumerate(item))


def _known(kind: object) -> bool:
    if not isinstance(kind, str) or not kind[:1].isupper() or not kind.isalpha():
        return False
    try:
        return issubclass(get_fhir_model_class(kind), Resource)
    except (KeyError, ValueError):
        return False


def _contained(resource: JSON) -> list[tuple[int, JSON]]:
    # Whatever else stands there, the model has already called wrong.
    items = resource.get("contained")
    if not isinstance(items, list):
        return []
    return [(n, item) for n, item in enumerate(items) if isinstance(item, dict)]


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> JSON:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _invalid(Issue("structure", "A name stands twice in one object."))
    return found


def _integer(text: str) -> int | Decimal:
    # A decimal may have more digits than an integer; beyond 64 bits it can only be a decimal.
    return int(text) if len(text) <= INTEGER_CHARACTERS else Decimal(text)


def _no_constant(text: str) -> None:
    raise _invalid(Issue("structure", "NaN and infinity are not JSON."))


def decimal_text(value: object) -> orjson.Fragment:
    """Return a decimal as it was written, for `orjson.dumps`."""
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError(type(value).__name__)


def _invalid(issue: Issue) -> FhirError:
    return FhirError(Reason.RESOURCE_INVALID, [issue])
