"""What elements a FHIR type has: their order, their types, and which repeat.

Pure: read from the R4B models of `fhir.resources`, whose elements are R4's for all that is served
here (fhir.md 1.5).

Standards:
    FHIR    R4 xml.html, json.html: order and repetition are part of a type
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Any

from fhir.resources.R4B import get_fhir_model_class
from fhir.resources.R4B.resource import Resource
from fhir_core.types import FhirBase, Xhtml

__all__ = ["Element", "Shape", "is_resource", "shape_of"]


class Shape(Enum):
    """How an element is written."""

    STRING = "string"  # and every primitive that JSON writes as one
    BOOLEAN = "boolean"
    INTEGER = "integer"
    DECIMAL = "decimal"
    XHTML = "xhtml"
    COMPLEX = "complex"
    RESOURCE = "resource"


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a type; `type` names that of a complex one."""

    shape: Shape
    repeats: bool
    type: str = ""


@cache
def shape_of(name: str) -> Mapping[str, Element]:
    """Return the elements of the type `name`, which there is, in their order."""
    model = get_fhir_model_class(name)
    fields = {field.alias or key: field for key, field in model.model_fields.items()}
    return {
        element: _element(fields[element].annotation)
        for element in model.elements_sequence()
        if element in fields
    }


@cache
def is_resource(name: str) -> bool:
    """Say whether there is a resource type `name`."""
    if not name[:1].isupper() or not name.isalpha():
        return False
    try:
        return issubclass(get_fhir_model_class(name), Resource)
    except (KeyError, ValueError):
        return False


def _element(annotation: Any, *, repeats: bool = False) -> Element:
    if typing.get_origin(annotation) is list:
        return _element(typing.get_args(annotation)[0], repeats=True)
    if typing.get_origin(annotation) is typing.Annotated:
        plain, *rules = typing.get_args(annotation)
        if any(isinstance(rule, Xhtml) for rule in rules):
            return Element(Shape.XHTML, repeats)
        return _element(plain, repeats=repeats)
    if isinstance(annotation, type):
        return _plain(annotation, repeats)
    [inner] = [a for a in typing.get_args(annotation) if a is not type(None)][:1]
    return _element(inner, repeats=repeats)


def _plain(kind: type, repeats: bool) -> Element:
    if issubclass(kind, FhirBase):
        name = kind.__name__.removesuffix("Type")
        if name == "Resource":
            return Element(Shape.RESOURCE, repeats)
        return Element(Shape.COMPLEX, repeats, name)
    shapes = {bool: Shape.BOOLEAN, int: Shape.INTEGER, Decimal: Shape.DECIMAL}
    return Element(shapes.get(kind, Shape.STRING), repeats)
