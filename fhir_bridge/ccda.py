"""The header of a clinical document (C-CDA): what it is, of whom, from when.

Pure; reads blocks until the header ends. What is not a well-formed ClinicalDocument is None. A
DOCTYPE ends the reading: entities are never expanded.

Standards:
    CDA     R2 section 4.2 (header); HL7 v3 data types: II, CE, TS, PN
    fhir.md section 3.3, rows on C-CDA; section 3.7
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from fhir_bridge.indexing import interval

__all__ = ["Code", "Document", "Patient", "read_document"]

HEADER_OCTETS_MAX: Final = 1024 * 1024
TEXT_CHARACTERS_MAX: Final = 1000
DEPTH_MAX: Final = 40  # headers nest a dozen elements
_FIRST_ONLY: Final = frozenset({"recordTarget", "author", "name"})
TEMPLATES_MAX: Final = 20
_US_REALM_HEADER: Final = "2.16.840.1.113883.10.20.22.1.1"
_BODIES: Final = {"structuredBody": "structuredBody", "nonXMLBody": "nonXMLBody"}
_NAMESPACE: Final = "urn:hl7-org:v3"
_TIME: Final = re.compile(r"(\d{4})(\d\d)?(\d\d)?(?:(\d\d)(\d\d)(\d\d)?(?:\.\d+)?)?([+-]\d{4})?")


@dataclass(frozen=True, slots=True)
class Code:
    """A code of a code system that is named by its OID."""

    system: str
    code: str
    display: str | None


@dataclass(frozen=True, slots=True)
class Patient:
    """The record target. `identifiers` are (root, extension); `birth` a FHIR date."""

    identifiers: tuple[tuple[str, str], ...]
    family: str | None
    given: tuple[str, ...]
    birth: str | None
    gender: str | None


@dataclass(frozen=True, slots=True)
class Document:
    """What the header says. `identifier` is (root, extension or ""); `instant` is FHIR's.

    `format` is the format code of a C-CDA, of a release that its templates tell.
    """

    identifier: tuple[str, str] | None
    code: Code | None
    confidentiality: Code | None
    title: str | None
    instant: str | None
    patient: Patient | None
    author: str | None = None
    custodian: str | None = None
    format: str | None = None


def read_document(blocks: Iterable[bytes]) -> Document | None:
    """Return the header of the ClinicalDocument in `blocks`, or None."""
    reader = _Reader()
    size = 0
    try:
        for block in blocks:
            size += len(block)
            if size > HEADER_OCTETS_MAX:
                return None
            reader.feed(block)
        reader.end()
    except _HeaderEndsError:
        return reader.document()
    except expat.ExpatError:
        return None
    return reader.document() if reader.is_document else None


class _HeaderEndsError(Exception):
    """The body was reached."""


@dataclass(slots=True)
class _Found:
    attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    patient_ids: list[tuple[str, str]] = field(default_factory=list)
    templates: dict[str, str] = field(default_factory=dict)  # the latest extension of each root
    body: str | None = None


class _Reader:
    """Collects attributes and texts by path, such as `recordTarget/patientRole/patient/name`."""

    def __init__(self) -> None:
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._path: list[str] = []
        self._found = _Found()
        self._counts: dict[str, int] = {}
        self.is_document = False

    def feed(self, block: bytes) -> None:
        self._parser.Parse(block, False)

    def end(self) -> None:
        self._parser.Parse(b"", True)

    def _doctype(self, *_: object) -> None:
        raise expat.ExpatError("a DOCTYPE is not read")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, local = name.rpartition(" ")
        if len(self._path) == DEPTH_MAX:
            raise expat.ExpatError("nested too deeply")
        self._path.append(local)
        if local in _FIRST_ONLY:
            path = "/".join(self._path)
            self._counts[path] = self._counts.get(path, 0) + 1
            if self._counts[path] > 1:
                self._path[-1] = f"{local}#"  # a former name, a second patient: read over
        if len(self._path) == 1:
            if (namespace, local) != (_NAMESPACE, "ClinicalDocument"):
                raise expat.ExpatError("not a ClinicalDocument")
            self.is_document = True
        elif len(self._path) == 3 and self._path[:2] == ["ClinicalDocument", "component"]:
            self._found.body = local
            raise _HeaderEndsError
        path = "/".join(self._path[1:])
        if path == "recordTarget/patientRole/id" and attributes.get("root"):
            self._found.patient_ids.append((attributes["root"], attributes.get("extension", "")))
        if path == "templateId" and len(self._found.templates) < TEMPLATES_MAX:
            root, given = attributes.get("root", ""), attributes.get("extension", "")
            self._found.templates[root] = max(given, self._found.templates.get(root, ""))
        self._found.attributes.setdefault(path, attributes)
        self._found.texts.setdefault(path, []).append("")

    def _end(self, name: str) -> None:
        self._path.pop()

    def _text(self, text: str) -> None:
        kept = self._found.texts["/".join(self._path[1:])]
        if len(kept[-1]) < TEXT_CHARACTERS_MAX:
            kept[-1] += text[:TEXT_CHARACTERS_MAX]

    def document(self) -> Document:
        root = self._found.attributes.get("id", {})
        identifier = (root["root"], root.get("extension", "")) if root.get("root") else None
        return Document(
            identifier=identifier,
            code=self._code("code"),
            confidentiality=self._code("confidentialityCode"),
            title=self._words("title"),
            instant=_instant(self._value("effectiveTime")),
            patient=self._patient(),
            author=self._author(),
            custodian=self._words(
                "custodian/assignedCustodian/representedCustodianOrganization/name"
            ),
            format=self._format(),
        )

    def _author(self) -> str | None:
        """Return the name of the first author: a person, a device, or an organization."""
        base = "author/assignedAuthor"
        person = f"{base}/assignedPerson/name"
        names = [self._each(f"{person}/{part}") for part in ("prefix", "given", "family")]
        return (
            " ".join(word for words in names for word in words)
            or self._words(person)
            or self._words(f"{base}/assignedAuthoringDevice/softwareName")
            or self._words(f"{base}/representedOrganization/name")
        )

    def _format(self) -> str | None:
        # HL7 SDWG format codes of IHE's value set: C-CDA R1.1 has templates without extension.
        release = self._found.templates.get(_US_REALM_HEADER)
        body = _BODIES.get(self._found.body or "")
        if release is None or body is None:
            return None
        return f"urn:hl7-org:sdwg:ccda-{body}:{'2.1' if release else '1.1'}"

    def _patient(self) -> Patient | None:
        base = "recordTarget/patientRole/patient"
        gender = self._code(f"{base}/administrativeGenderCode")
        patient = Patient(
            identifiers=tuple(self._found.patient_ids[:10]),
            family=self._words(f"{base}/name/family"),
            given=self._each(f"{base}/name/given"),
            birth=_date(self._value(f"{base}/birthTime")),
            gender={"M": "male", "F": "female", "UN": "other"}.get(gender.code) if gender else None,
        )
        return patient if patient.identifiers or patient.family else None

    def _code(self, path: str) -> Code | None:
        found = self._found.attributes.get(path, {})
        if not found.get("code") or not found.get("codeSystem"):
            return None
        return Code(found["codeSystem"], found["code"], found.get("displayName") or None)

    def _value(self, path: str) -> str:
        return self._found.attributes.get(path, {}).get("value", "")

    def _words(self, path: str) -> str | None:
        return next(iter(self._each(path)), None)

    def _each(self, path: str) -> tuple[str, ...]:
        texts = (" ".join(text.split()) for text in self._found.texts.get(path, ()))
        return tuple(filter(None, texts))


def _instant(value: str) -> str | None:
    """Return a v3 time as a FHIR instant; None where it has no time of day with an offset."""
    match = _TIME.fullmatch(value)
    if match is None or not (match[4] and match[7]):
        return None
    year, month, day, hour, minute, second, offset = match.groups()
    text = f"{year}-{month}-{day}T{hour}:{minute}:{second or '00'}{offset[:3]}:{offset[3:]}"
    return text if interval(text) else None


def _date(value: str) -> str | None:
    match = _TIME.fullmatch(value)
    text = "-".join(filter(None, match.groups()[:3])) if match else ""
    return text if interval(text) else None
