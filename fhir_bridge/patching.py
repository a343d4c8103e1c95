"""Patches on JSON: JSON Patch and merge patch.

Pure: a new document is returned, the old one is not touched.

Standards:
    RFC6902 JSON Patch; RFC6901 JSON Pointer; RFC7386 JSON Merge Patch
    FHIR    R4 http.html 3.1.0.8 (patch): a failing test is a conflict, 422 a patch that
            cannot be applied
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from certs.errors import Reason
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.terms import JSON

__all__ = ["json_patch", "merge_patch"]

OPERATIONS_MAX: Final = 1000
COPIED_MAX: Final = 1024 * 1024  # elements and characters
_INDEX: Final = re.compile(r"0|[1-9]\d{0,6}")


def json_patch(document: JSON, operations: Any) -> JSON:
    """Return `document` with each operation applied in order.

    Raises:
        FhirError: RESOURCE_INVALID (400), no patch; RESOURCE_UNSUPPORTED (422), it cannot be
            applied; RESOURCE_CONFLICT (409), a test failed.
    """
    if not isinstance(operations, list) or len(operations) > OPERATIONS_MAX:
        raise _bad("A JSON Patch is a list of operations.")
    patched: Any = copy.deepcopy(document)
    copied = 0
    for operation in operations:
        if isinstance(operation, dict) and operation.get("op") == "copy":
            # A copy of the whole into itself doubles it each time.
            copied += _weight(_get(patched, _pointer(operation.get("from"))))
            if copied > COPIED_MAX:
                raise _inapplicable("The patch copies too much.")
        patched = _apply(patched, operation)
    if not isinstance(patched, dict):
        raise _inapplicable("The patch leaves no resource.")
    return patched


def merge_patch(document: JSON, patch: Mapping[str, Any]) -> JSON:
    """Return `document` with the members of `patch` merged in; null removes (RFC7386 2)."""
    merged = dict(document)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            below = merged.get(name)
            merged[name] = merge_patch(below if isinstance(below, dict) else {}, value)
        else:
            merged[name] = value
    return merged


def _apply(document: Any, operation: Any) -> Any:
    if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
        raise _bad("An operation is an object with op and path.")
    path = _pointer(operation["path"])
    match operation.get("op"):
        case "add":
            return _add(document, path, copy.deepcopy(_value(operation)))
        case "remove":
            return _remove(document, path)[0]
        case "replace":
            _get(document, path)
            return _add(_remove(document, path)[0], path, copy.deepcopy(_value(operation)))
        case "move":
            source = _pointer(operation.get("from"))
            if source == path[: len(source)] and source != path:
                raise _inapplicable("A value cannot be moved into itself.")
            document, moved = _remove(document, source)
            return _add(document, path, moved)
        case "copy":
            return _add(
                document, path, copy.deepcopy(_get(document, _pointer(operation.get("from"))))
            )
        case "test":
            if _get(document, path) != _value(operation):
                issue = Issue("conflict", "A test of the patch failed.")
                raise FhirError(Reason.RESOURCE_CONFLICT, [issue])
            return document
        case _:
            raise _bad("The op is add, remove, replace, move, copy or test.")


def _pointer(text: Any) -> list[str]:
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise _bad("A path is a JSON Pointer.")
    # RFC6901 4: "~1" first, then "~0".
    return [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]]


def _value(operation: Mapping[str, Any]) -> Any:
    if "value" not in operation:
        raise _bad("This op needs a value.")
    return operation["value"]


def _get(document: Any, path: Sequence[str]) -> Any:
    for step in path:
        if isinstance(document, dict) and step in document:
            document = document[step]
        elif isinstance(document, list):
            document = document[_index(step, len(document) - 1)]
        else:
            raise _inapplicable("The patch names an element that is not there.")
    return document


def _add(document: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    parent = _get(document, path[:-1])
    if isinstance(parent, dict):
        parent[path[-1]] = value
    elif isinstance(parent, list):
        end = len(parent)
        parent.insert(end if path[-1] == "-" else _index(path[-1], end), value)
    else:
        raise _inapplicable("The patch adds to what is no object or list.")
    return document


def _remove(document: Any, path: Sequence[str]) -> tuple[Any, Any]:
    """Return the document without the value at `path`, and that value."""
    removed = _get(document, path)
    if not path:
        return None, removed
    parent = _get(document, path[:-1])
    del parent[path[-1] if isinstance(parent, dict) else int(path[-1])]
    return document, removed


def _index(step: str, last: int) -> int:
    if not _INDEX.fullmatch(step) or int(step) > last:
        raise _inapplicable("The patch names a place that is not in the list.")
    return int(step)


def _weight(value: Any) -> int:
    """Return how many elements and characters `value` has."""
    weight, pending = 0, [value]
    while pending:
        item = pending.pop()
        weight += 1 + (len(item) if isinstance(item, str) else 0)
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return weight


def _bad(text: str) -> FhirError:
    return FhirError(Reason.RESOURCE_INVALID, [Issue("structure", text)])


def _inapplicable(text: str) -> FhirError:
    return FhirError(Reason.RESOURCE_UNSUPPORTED, [Issue("processing", text)])
