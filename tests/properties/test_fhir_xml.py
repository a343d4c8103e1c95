"""JSON to XML and back is the same JSON, for whatever the elements of a type may hold."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_bridge.definitions import TYPES
from fhir_bridge.outcome import FhirError
from fhir_bridge.resources import dump, load
from fhir_bridge.shapes import Element, Shape, shape_of
from fhir_bridge.xml_format import to_xml
from fhir_bridge.xml_reader import from_xml

CHECKED = settings(max_examples=60, deadline=None)
TEXT = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Cn"], include_characters="\n\t\r"),
    min_size=1,
    max_size=20,
)
PRIMITIVES: dict[Shape, st.SearchStrategy[Any]] = {
    Shape.STRING: TEXT,
    Shape.BOOLEAN: st.booleans(),
    Shape.INTEGER: st.integers(-(2**31), 2**31 - 1),
    Shape.DECIMAL: st.decimals(allow_nan=False, allow_infinity=False, places=3).map(Decimal),
    Shape.XHTML: st.just('<div xmlns="http://www.w3.org/1999/xhtml">a <b>b</b></div>'),
}
EXTENSION = st.fixed_dictionaries({"url": TEXT, "valueString": TEXT})


@st.composite
def elements(draw: st.DrawFn, name: str, depth: int) -> dict[str, Any]:
    """Draw some elements of the type `name`."""
    shape = shape_of(name)
    chosen = draw(st.lists(st.sampled_from(sorted(shape)), min_size=1, max_size=4, unique=True))
    found: dict[str, Any] = {}
    for key in chosen:
        element = shape[key]
        if element.shape in PRIMITIVES:
            found.update(draw(primitive(key, element)))
        elif depth:
            kind = element.type or draw(st.sampled_from(["Patient", "Organization"]))
            head = {"resourceType": kind} if element.shape is Shape.RESOURCE else {}
            one = elements(kind, depth - 1).map(lambda item, head=head: {**head, **item})
            found[key] = draw(st.lists(one, min_size=1, max_size=2) if element.repeats else one)
    return found or {"id": "x"}


@st.composite
def primitive(draw: st.DrawFn, key: str, element: Element) -> dict[str, Any]:
    """Draw a primitive with or without what may stand beside it."""
    value = PRIMITIVES[element.shape]
    if element.repeats:
        beside = st.fixed_dictionaries({"extension": st.lists(EXTENSION, min_size=1, max_size=1)})
        pairs = draw(
            st.lists(st.tuples(value | st.none(), beside | st.none()), min_size=1, max_size=3)
        )
        pairs = [pair for pair in pairs if pair != (None, None)]
        found: dict[str, Any] = {}
        if pairs:
            found[key] = [value for value, _ in pairs]
        if any(extra for _, extra in pairs):
            found[f"_{key}"] = [extra for _, extra in pairs]
        return found
    return {key: draw(value)}


RESOURCES = st.sampled_from(sorted(TYPES)).flatmap(
    lambda name: elements(name, 3).map(lambda item: {"resourceType": name, **item})
)


@given(RESOURCES)
@CHECKED
def test_xml_and_json_say_the_same(resource: dict[str, Any]) -> None:
    again = from_xml(to_xml(resource))
    assert again == resource
    assert load(dump(again)) == load(dump(resource))


MARKUP = st.text(alphabet='<>/="&;! aPatienthlfr:.org', max_size=200).map(str.encode)


@given(st.binary(max_size=300) | MARKUP)
@CHECKED
def test_any_octets_are_a_resource_or_refused(body: bytes) -> None:
    for text in (body, b'<Patient xmlns="http://hl7.org/fhir">' + body + b"</Patient>"):
        with suppress(FhirError):
            assert from_xml(text)["resourceType"]


@pytest.mark.parametrize("name", sorted(TYPES))
def test_every_type_has_its_elements(name: str) -> None:
    assert {"id", "meta"} <= set(shape_of(name))
