"""A FHIR resource as XML, from JSON and back, with nothing lost on the way.

Pure. Values are carried over as they are written: no model parses them, so that a decimal keeps its
digits and a date its offset. What is read from XML is judged afterwards as JSON is. A DOCTYPE is
refused, so that no entity is ever expanded.

Standards:
    FHIR    R4 xml.html, json.html (2.6.2: primitives and their extensions)
    XML     1.0, in UTF-8 only
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any, Final
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from certs.errors import Reason
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.shapes import Element, Shape, is_resource, shape_of

__all__ = ["FHIR_NAMESPACE", "XHTML_NAMESPACE", "to_xml"]

FHIR_NAMESPACE: Final = "http://hl7.org/fhir"
XHTML_NAMESPACE: Final = "http://www.w3.org/1999/xhtml"
_ESCAPES: Final = {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}
_UNWRITABLE: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_xml(resource: Mapping[str, Any]) -> bytes:
    """Return `resource`, which is valid, as XML.

    Raises:
        FhirError: RESOURCE_UNSUPPORTED (406); a character that XML cannot hold.
    """
    pieces: list[str] = ['<?xml version="1.0" encoding="UTF-8"?>\n']
    pieces.extend(_resource(resource, f' xmlns="{FHIR_NAMESPACE}"'))
    text = "".join(pieces)
    if _UNWRITABLE.search(text):
        issue = Issue("not-supported", "XML cannot hold a character of this: ask for JSON.")
        raise FhirError(Reason.RESOURCE_UNSUPPORTED, [issue], status=406)
    return text.encode("utf-8")


def _resource(resource: Mapping[str, Any], namespace: str = "") -> Iterator[str]:
    name = str(resource.get("resourceType", ""))
    if is_resource(name):
        yield f"<{name}{namespace}>"
        yield from _children(resource, shape_of(name), skip=())
        yield f"</{name}>"


def _children(
    item: Mapping[str, Any], shape: Mapping[str, Element], skip: tuple[str, ...]
) -> Iterator[str]:
    for name, element in shape.items():
        if name in skip:
            continue
        values = _listed(item.get(name))
        if element.shape is Shape.COMPLEX:
            for value in values:
                yield from _complex(name, value, element.type)
        elif element.shape is Shape.RESOURCE:
            for value in values:
                yield f"<{name}>"
                yield from _resource(value)
                yield f"</{name}>"
        elif element.shape is Shape.XHTML:
            yield from (_xhtml(str(value)) for value in values)
        else:
            extended = _listed(item.get(f"_{name}"))
            for value, beside in zip_longest(values, extended):
                yield from _primitive(name, value, beside or {})


def _complex(name: str, value: Mapping[str, Any], kind: str) -> Iterator[str]:
    skip = ("id", "url") if kind == "Extension" else ("id",)
    attributes = "".join(f" {key}={_quoted(value[key])}" for key in skip if key in value)
    yield f"<{name}{attributes}>"
    yield from _children(value, shape_of(kind), skip)
    yield f"</{name}>"


def _primitive(name: str, value: Any, beside: Mapping[str, Any]) -> Iterator[str]:
    if value is None and not beside:
        return
    yield f"<{name}"
    if "id" in beside:
        yield f" id={_quoted(beside['id'])}"
    if value is not None:
        yield f" value={_quoted(str(value).lower() if isinstance(value, bool) else value)}"
    if "extension" in beside:
        yield ">"
        for extension in beside["extension"]:
            yield from _complex("extension", extension, "Extension")
        yield f"</{name}>"
    else:
        yield "/>"


def _xhtml(text: str) -> str:
    """Return a narrative as it is, if it is one element of XHTML; else its text, escaped."""
    if text.startswith("<div") and _is_one_element(text):
        return text
    return f'<div xmlns="{XHTML_NAMESPACE}">{_escaped(text)}</div>'


def _is_one_element(text: str) -> bool:
    """Say whether `text` is one well-formed element of XHTML, which cannot end its parent."""
    names: list[str] = []
    parser = expat.ParserCreate("utf-8", namespace_separator=" ")
    parser.StartElementHandler = lambda name, _: names.append(name)
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(text.encode("utf-8", "replace"), True)
    except expat.ExpatError:
        return False
    return names[0] == f"{XHTML_NAMESPACE} div"


def _refuse(*_: object) -> None:
    raise expat.ExpatError("a DOCTYPE is not read")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _quoted(value: Any) -> str:
    return quoteattr(str(value), _ESCAPES)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
