"""The METADATA.XML of an XDM package: submission sets and the documents in them.

Pure. Read as it comes, with named limits; a DOCTYPE ends the reading, so that no entity is ever
expanded.

Standards:
    IHE     ITI TF-3 4.2: metadata in ebRIM 3.0 (slots, classifications, external identifiers)
    XDXM    section 5: minimal metadata (XD-004, XD-008, XD-016 to XD-018)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from certs.errors import DirectError, Reason

__all__ = ["Classified", "Metadata", "Registered", "read_metadata"]

ELEMENTS_MAX: Final = 20_000
DEPTH_MAX: Final = 30
OBJECTS_MAX: Final = 200
VALUES_MAX: Final = 100
TEXT_CHARACTERS_MAX: Final = 2000
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,100}/[a-z0-9!#$&^_.+-]{1,100}")
_RIM: Final = "urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0"
_SUBMISSION_SET: Final = "urn:uuid:a54d6aa5-d40d-43f9-88c5-b4633d873bdd"

Slots = dict[str, list[str]]


@dataclass(slots=True)
class Classified:
    """A classification: what `scheme` says of its object, as a code or in slots."""

    scheme: str
    code: str
    display: str = ""
    slots: Slots = field(default_factory=dict)


@dataclass(slots=True)
class Registered:
    """A document entry, or a submission set. `identifiers` are by their scheme."""

    id: str
    mime_type: str = ""
    title: str = ""
    comment: str = ""
    slots: Slots = field(default_factory=dict)
    classified: list[Classified] = field(default_factory=list)
    identifiers: dict[str, str] = field(default_factory=dict)

    @property
    def media_type(self) -> str:
        """Its media type in lower case; that of any octets where it states none."""
        stated = self.mime_type.strip().lower()
        return stated if _MEDIA_TYPE.fullmatch(stated) else "application/octet-stream"

    def slot(self, name: str) -> str:
        """Return the first value of slot `name`, or ""."""
        return next(iter(self.slots.get(name, ())), "")

    def under(self, scheme: str) -> list[Classified]:
        """Return the classifications of `scheme`."""
        return [each for each in self.classified if each.scheme == scheme]


@dataclass(frozen=True, slots=True)
class Metadata:
    """The submission set, and its documents in order."""

    submission: Registered | None
    documents: tuple[Registered, ...]


def read_metadata(text: bytes) -> Metadata:
    """Return what `text` registers.

    Raises:
        DirectError: MESSAGE_MALFORMED; it is not well-formed, has a DOCTYPE, or too much in it.
    """
    reader = _Reader()
    try:
        reader.parse(text)
    except expat.ExpatError as error:
        raise DirectError(Reason.MESSAGE_MALFORMED, f"metadata: {error}") from error
    return Metadata(reader.submission(), tuple(reader.documents))


class _Reader:
    """Follows the elements; only those of ebRIM count."""

    def __init__(self) -> None:
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._elements = 0
        self._path: list[str] = []
        self._object: Registered | None = None
        self._classified: Classified | None = None
        self._slot: list[str] | None = None
        self._value: list[str] | None = None
        self._packages: dict[str, Registered] = {}
        self._marked: list[str] = []
        self.documents: list[Registered] = []

    def parse(self, text: bytes) -> None:
        self._parser.Parse(text, True)

    def submission(self) -> Registered | None:
        """Return the package that is marked as a submission set; a folder is none."""
        marked = [self._packages[i] for i in self._marked if i in self._packages]
        return next(iter(marked or self._packages.values()), None)

    def _doctype(self, *_: object) -> None:
        raise expat.ExpatError("a DOCTYPE is not read")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, local = name.rpartition(" ")
        self._elements += 1
        self._path.append(local if namespace == _RIM else "")
        if self._elements > ELEMENTS_MAX or len(self._path) > DEPTH_MAX:
            raise expat.ExpatError("there is too much in it")
        match self._path[-1]:
            case "ExtrinsicObject" | "RegistryPackage":
                self._enter(self._path[-1], attributes)
            case "Classification":
                self._classify(attributes)
            case "ExternalIdentifier" if self._object is not None:
                scheme = attributes.get("identificationScheme", "")
                value = attributes.get("value", "")[:TEXT_CHARACTERS_MAX]
                self._object.identifiers.setdefault(scheme, value)
            case "Slot" if self._object is not None:
                of = self._classified or self._object
                self._slot = of.slots.setdefault(attributes.get("name", ""), [])
            case "Value" if self._slot is not None:
                self._value = []
            case "LocalizedString":
                self._name(attributes.get("value", "")[:TEXT_CHARACTERS_MAX])

    def _enter(self, kind: str, attributes: Mapping[str, str]) -> None:
        found = Registered(attributes.get("id", ""), attributes.get("mimeType", ""))
        if len(self.documents) + len(self._packages) == OBJECTS_MAX:
            raise expat.ExpatError("there are too many documents")
        if kind == "ExtrinsicObject":
            self.documents.append(found)
        else:
            self._packages.setdefault(found.id, found)
        self._object = found

    def _classify(self, attributes: Mapping[str, str]) -> None:
        if attributes.get("classificationNode") == _SUBMISSION_SET:
            inside = self._object.id if self._object is not None else ""
            self._marked.append(attributes.get("classifiedObject", inside))
        elif self._object is not None:
            scheme = attributes.get("classificationScheme", "")
            self._classified = Classified(scheme, attributes.get("nodeRepresentation", ""))
            self._object.classified.append(self._classified)

    def _name(self, text: str) -> None:
        """Take a name or a description: of a classification, else of the object itself."""
        outer = next((p for p in reversed(self._path) if p in ("Name", "Description")), "")
        above = self._path[-3] if len(self._path) > 2 else ""
        if self._classified is not None and above == "Classification" and outer == "Name":
            self._classified.display = self._classified.display or text
        elif self._object is not None and above in ("ExtrinsicObject", "RegistryPackage"):
            if outer == "Name":
                self._object.title = self._object.title or text
            else:
                self._object.comment = self._object.comment or text

    def _text(self, text: str) -> None:
        if self._value is not None and sum(map(len, self._value)) < TEXT_CHARACTERS_MAX:
            self._value.append(text[:TEXT_CHARACTERS_MAX])

    def _end(self, name: str) -> None:
        match self._path.pop():
            case "Value" if self._slot is not None and self._value is not None:
                if len(self._slot) < VALUES_MAX:
                    self._slot.append("".join(self._value).strip())
                self._value = None
            case "Slot":
                self._slot = None
            case "Classification":
                self._classified = None
            case "ExtrinsicObject" | "RegistryPackage":
                self._object = None
