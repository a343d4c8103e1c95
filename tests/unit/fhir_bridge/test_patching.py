from __future__ import annotations

from typing import Any

import pytest

from fhir_bridge.outcome import FhirError
from fhir_bridge.patching import json_patch, merge_patch


@pytest.mark.parametrize(
    ("document", "operations", "patched"),
    [
        ({"a": 1}, [], {"a": 1}),
        ({"a": [1]}, [{"op": "add", "path": "/a/0", "value": 0}], {"a": [0, 1]}),
        ({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}], {"a": [1, 2]}),
        ({}, [{"op": "add", "path": "/a~1b~0", "value": 1}], {"a/b~": 1}),
        ({"a": 1}, [{"op": "add", "path": "", "value": {"b": 2}}], {"b": 2}),
        ({"a": 1}, [{"op": "remove", "path": "/a"}], {}),
        ({"a": [1, 2]}, [{"op": "remove", "path": "/a/0"}], {"a": [2]}),
        ({"a": 1}, [{"op": "replace", "path": "/a", "value": 2}], {"a": 2}),
        ({"a": [1, 2]}, [{"op": "replace", "path": "/a/1", "value": 3}], {"a": [1, 3]}),
        ({"a": 1}, [{"op": "move", "from": "/a", "path": "/b"}], {"b": 1}),
        (
            {"a": {"b": 1}},
            [{"op": "copy", "from": "/a", "path": "/c"}],
            {"a": {"b": 1}, "c": {"b": 1}},
        ),
        ({"a": 1}, [{"op": "test", "path": "/a", "value": 1}], {"a": 1}),
    ],
)
def test_operations_are_applied(
    document: dict[str, Any], operations: list[Any], patched: dict[str, Any]
) -> None:
    before = repr(document)
    assert json_patch(document, operations) == patched
    assert repr(document) == before


@pytest.mark.parametrize(
    ("operations", "status"),
    [
        ({}, 400),
        ([{}] * 1001, 400),
        ([1], 400),
        ([{"op": "jump", "path": "/a"}], 400),
        ([{"op": "add", "path": "a", "value": 1}], 400),
        ([{"op": "add", "path": "/b"}], 400),
        ([{"op": "move", "path": "/b"}], 400),
        ([{"op": "remove", "path": "/x"}], 422),
        ([{"op": "remove", "path": ""}], 422),
        ([{"op": "replace", "path": "/x", "value": 1}], 422),
        ([{"op": "add", "path": "/l/5", "value": 1}], 422),
        ([{"op": "add", "path": "/l/01", "value": 1}], 422),
        ([{"op": "add", "path": "/a/b", "value": 1}], 422),
        ([{"op": "remove", "path": "/l/-"}], 422),
        ([{"op": "move", "from": "/o", "path": "/o/x"}], 422),
        ([{"op": "copy", "from": "", "path": "/o/x"}] * 100, 422),
        ([{"op": "test", "path": "/a", "value": 2}], 409),
    ],
)
def test_what_cannot_be_applied_is_refused(operations: Any, status: int) -> None:
    with pytest.raises(FhirError) as caught:
        json_patch({"a": 1, "l": [1], "o": {"s": "x" * 10_000}}, operations)
    assert caught.value.status == status


def test_a_merge_patch_follows_the_rfc() -> None:
    # RFC7386 3: the example of the standard.
    document = {
        "title": "Goodbye!",
        "author": {"givenName": "John", "familyName": "Doe"},
        "tags": [1],
    }
    patch = {"title": "Hello!", "author": {"familyName": None}, "tags": [2], "x": {"y": None}}
    assert merge_patch(document, patch) == {
        "title": "Hello!",
        "author": {"givenName": "John"},
        "tags": [2],
        "x": {},
    }
