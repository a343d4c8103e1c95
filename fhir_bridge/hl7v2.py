"""Whom HL7 v2 is about: the PID of a message, or its fields as XDS metadata quote them.

Pure; streaming: a message is read segment by segment, whatever it carries. What is no HL7 v2
message is about nobody; nothing is raised for what others wrote.

Standards:
    HL7v2   2.5.1 sections 2.5.4 (delimiters), 2.7 (escapes), 2.15.9.18 (character set), 2A (data
            types CX, HD, XPN, DTM), 3.4.2 (PID)
    FHIR    R4 Patient
    fhir.md section 3.3, row on the subject
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, time
from typing import Final

from fhir_bridge.binary_rows import clean
from fhir_bridge.headers import decode_charset
from fhir_bridge.terms import JSON

__all__ = ["Delimiters", "is_hl7v2", "moment_of", "patient_of", "patients_in"]

SEGMENT_OCTETS_MAX: Final = 64 * 1024  # what a PID has hundreds of; longer ones are passed over
PATIENTS_MAX: Final = 10
IDENTIFIERS_MAX: Final = 10
TEXT_CHARACTERS_MAX: Final = 1000

# MSH-1 and MSH-2. Files have what their transport wraps around a message, or a byte order mark.
_HEAD: Final = re.compile(rb"[\x0b\xef\xbb\xbf]*MSH([!-/:-@\[-`{-~])([!-/:-@\[-`{-~]{4,5})\1")
_ENDS: Final = re.compile(rb"[\r\n]+")  # CR by the standard; files have the others too
_CHARSET: Final = re.compile(r"8859/(\d{1,2})")
_OID: Final = re.compile(r"[0-2](\.(0|[1-9]\d*)){2,}")
_TIME: Final = re.compile(r"(\d{4})(\d\d)?(\d\d)?(?:(\d\d)(\d\d)?(\d\d)?)?")
_GENDERS: Final = {
    "M": "male",
    "F": "female",
    "O": "other",
    "A": "other",
    "N": "other",
    "U": "unknown",
}
_NULL: Final = '""'  # 2.5.3: what was there is to be deleted


@dataclass(frozen=True, slots=True)
class Delimiters:
    """What divides a message; it says so itself."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"


_USUAL: Final = Delimiters()


def is_hl7v2(start: bytes) -> bool:
    """Say whether octets that begin with `start` are an HL7 v2 message."""
    return _HEAD.match(start) is not None


def patients_in(blocks: Iterable[bytes]) -> tuple[JSON, ...]:
    """Return the patients that the PIDs of a message tell of, each once and as a contained one."""
    segments = _segments(blocks)
    head = next(segments, b"")
    match = _HEAD.match(head)
    delimiters = Delimiters(match[1].decode(), *match[2].decode()[:4]) if match else _USUAL
    if match is None or len({*match[1], *match[2]}) != len(match[1] + match[2]):
        return ()
    charset = _charset(head, delimiters)
    found: list[JSON] = []
    for segment in segments:
        if not segment.startswith(b"PID" + match[1]):
            continue
        fields = decode_charset(segment, charset)[0].split(delimiters.field)
        stated = ((f"PID-{number}", text) for number, text in enumerate(fields))
        patient = patient_of(stated, delimiters=delimiters)
        if patient is not None and patient not in found:
            found.append(patient)
            if len(found) == PATIENTS_MAX:
                break
    return tuple(found)


def patient_of(
    stated: Iterable[tuple[str, str]],
    *,
    identifiers: Sequence[str] = (),
    delimiters: Delimiters = _USUAL,
) -> JSON | None:
    """Return the contained Patient of the fields `stated`; None where they tell of nobody.

    A field is its name, such as PID-3, and its value; `identifiers` are further values of PID-3.
    """
    found: JSON = {"resourceType": "Patient", "id": "patient"}
    given = list(identifiers)
    for name, value in stated:
        match name.strip():
            case "PID-3":
                given += value.split(delimiters.repetition)
            case "PID-5" if "name" not in found and (named := _name(value, delimiters)):
                found["name"] = [named]
            case "PID-7" if birth := moment_of(value.partition(delimiters.component)[0][:8]):
                found["birthDate"] = birth
            case "PID-8" if gender := _GENDERS.get(value.strip()[:1].upper()):
                found["gender"] = gender
    read = filter(None, (_identifier(text, delimiters) for text in given))
    unique = list({str(identifier): identifier for identifier in read}.values())
    if unique:
        found["identifier"] = unique[:IDENTIFIERS_MAX]
    return found if unique or "name" in found else None


def moment_of(text: str) -> str | None:
    """Return a DTM, which is in UTC, as a FHIR dateTime of the same precision."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    year, month, day, hour, minute, second = match.groups()
    clock = (int(hour or 0), int(minute or 0), int(second or 0))
    try:
        date(int(year), int(month or 1), int(day or 1))
        time(*clock)
    except ValueError:
        return None
    calendar = "-".join(filter(None, (year, month, day)))
    return f"{calendar}T{hour}:{minute or '00'}:{second or '00'}Z" if hour else calendar


def _segments(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *whole, rest = _ENDS.split(rest + block)
        yield from (each for each in whole if 0 < len(each) <= SEGMENT_OCTETS_MAX)
        rest = rest[: SEGMENT_OCTETS_MAX + 1]  # too long already, and it may grow without end
    if 0 < len(rest) <= SEGMENT_OCTETS_MAX:
        yield rest


def _charset(head: bytes, delimiters: Delimiters) -> str:
    # MSH-1 is the delimiter itself, so that MSH-18 is the 18th of what it divides.
    fields = head.decode("latin-1").split(delimiters.field)
    stated = fields[17].partition(delimiters.repetition)[0].strip() if len(fields) > 17 else ""
    latin = _CHARSET.fullmatch(stated)
    # ASCII is a part of it, and what others there are is replaced where it is not UTF-8.
    return f"iso-8859-{latin[1]}" if latin else "utf-8"


def _name(value: str, delimiters: Delimiters) -> JSON:
    """Return the first name in a list of XPN."""
    first = value.partition(delimiters.repetition)[0]
    parts = [*first.split(delimiters.component), "", "", ""][:3]
    family = _plain(parts[0].partition(delimiters.subcomponent)[0], delimiters)
    given = [name for part in parts[1:] if (name := _plain(part, delimiters))]
    return {**({"family": family} if family else {}), **({"given": given} if given else {})}


def _identifier(value: str, delimiters: Delimiters) -> JSON | None:
    """Return a CX as an identifier; one whose authority has no OID says nothing elsewhere."""
    parts = value.split(delimiters.component)
    authority = parts[3].split(delimiters.subcomponent) if len(parts) > 3 else []
    number = _plain(parts[0], delimiters)
    if not number or len(authority) < 2 or not _OID.fullmatch(authority[1]):
        return None
    return {"system": f"urn:oid:{authority[1]}", "value": number}


def _plain(text: str, delimiters: Delimiters) -> str:
    """Return `text` without escapes, as a string of FHIR."""
    if text.strip() == _NULL:
        return ""
    meanings = {
        "F": delimiters.field,
        "S": delimiters.component,
        "T": delimiters.subcomponent,
        "R": delimiters.repetition,
        "E": delimiters.escape,
    }
    escape = re.escape(delimiters.escape)
    # Others than these format text, or are octets of some other character set.
    bare = re.sub(f"{escape}([^{escape}]*){escape}", lambda m: meanings.get(m[1], ""), text)
    return " ".join(clean(bare).split())[:TEXT_CHARACTERS_MAX]
