"""A FHIR resource in XML, read into the form that JSON has.

Pure; see `xml_format` for the way back. Limits are those of JSON: depth, elements, size. A DOCTYPE
is refused, so that no entity is ever expanded and nothing is ever fetched.

Standards:
    FHIR    R4 xml.html
    XML     1.0, in UTF-8 only
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final
from xml.parsers import expat

from certs.errors import Reason
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.shapes import Element, Shape, is_resource, shape_of
from fhir_bridge.terms import JSON
from fhir_bridge.xml_format import FHIR_NAMESPACE, XHTML_NAMESPACE

__all__ = ["from_xml"]

DEPTH_MAX: Final = 100
ELEMENTS_MAX: Final = 100_000
ATTRIBUTES_MAX: Final = 8
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d{0,17})")
_DECIMAL: Final = re.compile(r"-?(?:0|[1-9]\d{0,99})(?:\.\d{1,100})?(?:[eE][+-]?\d{1,4})?")


def from_xml(text: bytes) -> JSON:
    """Return the resource in `text`.

    Raises:
        FhirError: RESOURCE_INVALID; not well-formed, a DOCTYPE, an element or attribute that FHIR
            does not have there, a value that is none of its type, too deep, too many.
    """
    reader = _Reader(text)
    try:
        reader.parser.Parse(text, True)
    except expat.ExpatError:
        raise _invalid("structure", "The body is not well-formed XML in UTF-8.") from None
    if reader.resource is None:
        raise _invalid("structure", "The body is not a resource.")
    return reader.resource


@dataclass(slots=True)
class _Frame:
    """An element that is open. `of` is None for a resource, and for what contains one."""

    name: str
    of: Element | None
    found: JSON = field(default_factory=dict)
    shape: Any = None  # of its children; None: it has a resource instead
    value: Any = None


class _Reader:
    def __init__(self, text: bytes) -> None:
        self.text = text
        self.resource: JSON | None = None
        self.stack: list[_Frame] = []
        self.elements = 0
        self.narrative: tuple[int, int] | None = None  # where it starts, and how deep we are in it
        self.parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.characters
        self.parser.StartDoctypeDeclHandler = self.doctype

    def doctype(self, *_: object) -> None:
        raise self.wrong("security", "A DOCTYPE is not read.")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.elements += 1
        if self.elements > ELEMENTS_MAX or len(self.stack) > DEPTH_MAX:
            raise self.wrong("too-costly", "The resource is too deep or has too many elements.")
        if self.narrative is not None:
            start, depth = self.narrative
            if depth > DEPTH_MAX:
                raise self.wrong("too-costly", "The narrative is too deep.")
            self.narrative = (start, depth + 1)
            return
        namespace, _, local = name.rpartition(" ")
        parent = self.stack[-1] if self.stack else None
        if namespace == XHTML_NAMESPACE:
            self.begin_narrative(parent, local)
        elif namespace != FHIR_NAMESPACE or len(attributes) > ATTRIBUTES_MAX:
            raise self.wrong("structure", "This is no element of FHIR.", local)
        elif parent is None or (parent.shape is None and parent.of is not None):
            self.begin_resource(parent, local)
        else:
            self.begin_element(parent, local, attributes)

    def begin_resource(self, parent: _Frame | None, local: str) -> None:
        if not is_resource(local) or (parent is not None and parent.found):
            raise self.wrong("structure", "The resource type is not known.", local)
        frame = _Frame(local, None, {"resourceType": local}, shape_of(local))
        if parent is not None:
            parent.found = frame.found
        self.stack.append(frame)

    def begin_element(self, parent: _Frame, local: str, attributes: dict[str, str]) -> None:
        element = parent.shape.get(local)
        if element is None or element.shape is Shape.XHTML:
            raise self.wrong("structure", "There is no such element here.", local)
        frame = _Frame(local, element)
        if element.shape is Shape.COMPLEX:
            frame.shape = shape_of(element.type)
        elif element.shape is not Shape.RESOURCE:
            frame.shape = _PRIMITIVE
        allowed = {"id"} if element.shape is not Shape.RESOURCE else set()
        if element.type == "Extension":
            allowed.add("url")
        for name, value in attributes.items():
            if name == "value" and frame.shape is _PRIMITIVE:
                frame.value = self.read(value, element, local)
            elif name in allowed:
                frame.found[name] = value
            else:
                raise self.wrong("structure", "There is no such attribute here.", local)
        self.stack.append(frame)

    def begin_narrative(self, parent: _Frame | None, local: str) -> None:
        known = parent.shape.get(local) if parent and parent.shape else None
        start: int = self.parser.CurrentByteIndex
        tag = self.text[start : self.text.find(b">", start)]
        # In JSON the narrative stands alone: it must name its namespace itself.
        if known is None or known.shape is not Shape.XHTML or not tag.startswith(b"<div"):
            raise self.wrong("structure", "There is no narrative here.", local)
        if f'"{XHTML_NAMESPACE}"'.encode() not in tag.replace(b"'", b'"'):
            raise self.wrong("structure", "A narrative names its namespace itself.", local)
        self.narrative = (start, 0)

    def end(self, name: str) -> None:
        if self.narrative is not None:
            start, depth = self.narrative
            if depth:
                self.narrative = (start, depth - 1)
                return
            stop = self.text.find(b">", self.parser.CurrentByteIndex) + 1
            self.stack[-1].found["div"] = self.text[start:stop].decode("utf-8")
            self.narrative = None
            return
        frame = self.stack.pop()
        if frame.of is None:
            if not self.stack:
                self.resource = frame.found
            return
        self.put(self.stack[-1], frame, frame.of)

    def put(self, parent: _Frame, frame: _Frame, element: Element) -> None:
        """Give what was read to its parent."""
        name, found = frame.name, parent.found
        primitive = frame.shape is _PRIMITIVE
        value: Any = frame.value if primitive else frame.found
        beside = frame.found or None if primitive else None
        if value is None and beside is None:
            raise self.wrong("required", "An element has a value or children.", name)
        if not element.repeats:
            if name in found or f"_{name}" in found:
                raise self.wrong("structure", "This element does not repeat.", name)
            found.update({name: value} if value is not None else {})
            found.update({f"_{name}": beside} if beside is not None else {})
            return
        values = found.setdefault(name, [])
        values.append(value)
        if beside is not None:
            extended = found.setdefault(f"_{name}", [])
            extended.extend([None] * (len(values) - 1 - len(extended)))
            extended.append(beside)
        elif f"_{name}" in found:
            found[f"_{name}"].append(None)

    def read(self, text: str, element: Element, local: str) -> Any:
        """Return a primitive as JSON has it."""
        match element.shape:
            case Shape.BOOLEAN if text in ("true", "false"):
                return text == "true"
            case Shape.INTEGER if _NUMBER.fullmatch(text):
                return int(text)
            case Shape.DECIMAL if _DECIMAL.fullmatch(text):
                return Decimal(text)
            case Shape.STRING:
                return text
            case _:
                raise self.wrong("value", "The value does not have its type's format.", local)

    def characters(self, text: str) -> None:
        if self.narrative is None and text.strip():
            raise self.wrong("structure", "FHIR has no text between elements.")

    def wrong(self, code: str, text: str, local: str = "") -> FhirError:
        names = [frame.name for frame in self.stack if frame.name.isalnum()]
        return _invalid(code, text, ".".join([*names, *([local] if local.isalnum() else [])]))


# What a primitive may hold beside its value: extensions (its id is an attribute).
_PRIMITIVE: Final = {"extension": Element(Shape.COMPLEX, repeats=True, type="Extension")}


def _invalid(code: str, text: str, at: str = "") -> FhirError:
    return FhirError(Reason.RESOURCE_INVALID, [Issue(code, text, at or None)])
