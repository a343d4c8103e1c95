"""The body and the attachments of a message as `Communication.payload` and Binary rows.

Pure; streaming: each part is decoded once to learn its size and hashes, and stays where it is.

Standards:
    FHIR    R4 Communication.payload, Attachment (`hash` is SHA-1 in base64), string (1 MiB)
    fhir.md section 3.3
    RFC2046 sections 5.1.3 (mixed), 5.1.4 (alternative); RFC2387 (related)
    RFC3676 section 4: format=flowed
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from mimetypes import guess_type
from typing import BinaryIO, Final
from uuid import UUID, uuid5

from fhir_bridge.archive import is_archive, unpacked
from fhir_bridge.binary_rows import CONTROLS, TITLE_CHARACTERS, BinaryRow, clean, measure
from fhir_bridge.ccda import Document, read_document
from fhir_bridge.headers import decode_charset, parameters, parse_date
from fhir_bridge.hl7v2 import is_hl7v2, patients_in
from fhir_bridge.html_text import text_of_html
from fhir_bridge.mime import Index, Part, decoded
from fhir_bridge.packages import Packaged, packages_in
from fhir_bridge.terms import JSON, Terms, extension
from fhir_bridge.tnef import FILES_MAX, Enclosed, enclosed_in, is_tnef

__all__ = ["Attached", "Payloads", "payloads_of"]

# FHIR: "strings SHALL NOT exceed 1,048,576 (1024*1024) characters in size".
STRING_CHARACTERS_MAX: Final = 1024 * 1024
TEXT_OCTETS_MAX: Final = 4 * STRING_CHARACTERS_MAX
CONTENT_TYPE_CHARACTERS_MAX: Final = 255
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")
_PLAIN: Final = re.compile(r"[A-Za-z0-9!#$&^_.+:-]+")


@dataclass(frozen=True, slots=True)
class Payloads:
    """`payload` elements, every Binary they point to, and that of the whole raw message.

    `patients` are those that HL7 v2 messages among them are about. `undocumented` are what XML
    among them is called that is no clinical document. `partial`: an XDM package among them could
    not be read, or not whole.
    """

    payload: tuple[JSON, ...]
    binaries: tuple[BinaryRow, ...]
    raw: BinaryRow
    documents: tuple[Attached, ...] = ()
    packages: tuple[Packaged, ...] = ()
    patients: tuple[JSON, ...] = ()
    undocumented: tuple[str, ...] = ()
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Attached:
    """A clinical document that the part `path` holds, and its attachment."""

    path: str
    document: Document
    attachment: JSON


def payloads_of(
    message: BinaryIO, found: Index, *, communication: UUID, owner: str, body_key: str, terms: Terms
) -> Payloads:
    """Return the payload of `message`: its text first, then every other part in order."""
    reader = _Reader(message, communication, owner, body_key, terms)
    for part, role in _roles(found.root):
        reader.take(part, role)
    reader.derive_text()
    raw = reader.raw()
    return Payloads(
        payload=tuple(reader.texts + reader.others + reader.derived),
        binaries=(*reader.binaries, raw),
        raw=raw,
        documents=tuple(reader.documents),
        packages=tuple(reader.packages),
        patients=tuple(reader.patients),
        undocumented=tuple(reader.undocumented),
        partial=reader.partial,
    )


def _roles(root: Part) -> Iterator[tuple[Part, str]]:
    """Yield each leaf with its role: body, body-html, inline, context or attachment."""
    taken: set[str] = set()
    context = (root.header("x-direct-context") or "").strip("<> \t")
    pending = [(root, True)]  # may this entity still be the readable body?
    while pending:
        part, readable = pending.pop()
        if part.children:
            related = part.content_type == "multipart/related"
            pending.extend(
                (child, readable and not (related and number))
                for number, child in reversed(list(enumerate(part.children)))
            )
            continue
        role = "attachment"
        named = part.disposition == "attachment" or part.filename is not None
        if part.content_type == "text/plain" and readable and not named:
            role = "body"
        elif part.content_type == "text/html" and readable and not named:
            role = "body-html"
        elif context and part.content_id == context:
            role = "context"  # Context IG: the header names the part by its Content-ID
        elif part.content_id and part.disposition != "attachment":
            role = "inline"
        if role.startswith("body") and role in taken:
            role = "inline"
        taken.add(role)
        yield part, role


class _Reader:
    """Collects payloads: texts first, the rest in the order of the message."""

    def __init__(
        self, message: BinaryIO, communication: UUID, owner: str, body_key: str, terms: Terms
    ) -> None:
        self.message = message
        self.communication = communication
        self.owner = owner
        self.body_key = body_key
        self.terms = terms
        self.texts: list[JSON] = []
        self.others: list[JSON] = []
        self.derived: list[JSON] = []
        self.binaries: list[BinaryRow] = []
        self.documents: list[Attached] = []
        self.packages: list[Packaged] = []
        self.patients: list[JSON] = []
        self.undocumented: list[str] = []
        self.partial = False
        self.html: Part | None = None
        self.body_path: str | None = None

    def take(self, part: Part, role: str) -> None:
        if role == "body" and part.length <= TEXT_OCTETS_MAX and self.text(part):
            return
        if role == "body-html":
            self.html = part
        self.others.append(self.attachment(part, role))

    def text(self, part: Part) -> bool:
        """Take the plain body as `contentString`; say whether it fitted."""
        text, exact = self.decoded_text(part)
        if part.type_parameters.get("format", "").lower() == "flowed":
            text = _unflowed(text, part.type_parameters.get("delsp", "").lower() == "yes")
        if len(text) > STRING_CHARACTERS_MAX:
            return False
        if text.strip():
            self.body_path = part.path
            self.texts.append(self.content_string(text, part.path, derived=not exact))
        return True

    def derive_text(self) -> None:
        """Make text from an HTML body that has none beside it."""
        if self.html is None or self.texts or self.html.length > TEXT_OCTETS_MAX:
            return
        text = text_of_html(self.decoded_text(self.html)[0])
        if text and len(text) <= STRING_CHARACTERS_MAX:
            self.texts.append(self.content_string(text, self.html.path, derived=True))

    def decoded_text(self, part: Part) -> tuple[str, bool]:
        octets = b"".join(decoded(self.message, part))
        charset = part.type_parameters.get("charset", "us-ascii")
        if charset.lower() == "us-ascii":
            charset = "utf-8"  # a superset, and what unlabelled text mostly is
        text, exact = decode_charset(octets, charset)
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        kept = CONTROLS.sub("", text)
        return kept, exact and kept == text

    def content_string(self, text: str, path: str, *, derived: bool) -> JSON:
        parts: list[tuple[str, JSON]] = [
            ("path", {"valueString": path}),
            ("role", {"valueCode": "body"}),
        ]
        if derived:
            parts.append(("derived", {"valueBoolean": True}))
        mime_part = extension(self.terms.extension("mime-part"), parts)
        return {"extension": [mime_part], "contentString": text}

    def attachment(self, part: Part, role: str) -> JSON:
        measured = measure(decoded(self.message, part))
        content_type = _content_type(part)
        title = clean(part.filename or "")[:TITLE_CHARACTERS] or None
        row = BinaryRow(
            id=uuid5(self.communication, f"Binary/{part.path}"),
            communication_id=self.communication,
            owner=self.owner,
            body_key=self.body_key,
            offset=part.offset,
            length=part.length,
            encoding=part.coding,
            content_type=content_type,
            filename=title,
            size=measured.size,
            sha1=measured.sha1,
            sha256=measured.sha256,
        )
        self.binaries.append(row)
        attachment = _attachment(row)
        options = parameters(part.header("content-disposition") or "")[1]
        if created := parse_date(options.get("creation-date", "")):
            attachment["creation"] = created.isoformat(timespec="seconds")
        if not self.read(part.path, attachment, lambda: decoded(self.message, part)):
            self.unpack(part, row)
        return {
            "extension": [self.mime_part(part, role, row.sha256)],
            "contentAttachment": attachment,
        }

    def read(self, path: str, attachment: JSON, octets: Callable[[], Iterator[bytes]]) -> bool:
        """Learn what an attachment says of documents and patients, where it is of that kind."""
        media_type = attachment["contentType"].partition(";")[0].lower()
        title = attachment.get("title", "")
        if media_type.endswith("xml") or title.lower().endswith(".xml"):
            document = read_document(octets())
            if document is not None:
                self.documents.append(Attached(path, document, attachment))
            # A picture or a form in XML says what it is.
            elif "+" not in media_type or "cda" in media_type:
                self.undocumented.append(title or path)
            return True
        if is_hl7v2(next(octets(), b"")):  # whatever it is called
            self.patients += patients_in(octets())
            return True
        return False

    def unpack(self, part: Part, row: BinaryRow) -> None:
        """Look into a part that holds files."""
        start = next(decoded(self.message, part), b"")
        # XD-001: a package is known by what it is, whatever it is called; so is an envelope.
        if is_archive(start):
            found, whole = packages_in(self.message, part, row)
            self.packages += found
            self.binaries += [each for one in found for each in one.binaries.values()]
            self.partial |= not whole
        elif is_tnef(start):
            files, whole = enclosed_in(decoded(self.message, part))
            room = FILES_MAX - len(self.derived)
            for number, file in enumerate(files[:room], 1):
                self.derived.append(self.enclosed(part, row, file, f"{part.path}/{number}"))
            self.partial |= not whole or len(files) > room

    def enclosed(self, part: Part, row: BinaryRow, file: Enclosed, path: str) -> JSON:
        """Take a file out of an envelope; it is a payload that nobody sent as one."""
        said = (file.media_type or "").lower()
        own = replace(
            row,
            id=uuid5(self.communication, f"Binary/{path}"),
            encoding=f"{row.encoding} {file.where}",
            content_type=said if _MEDIA_TYPE.fullmatch(said) else _guessed(file.name),
            filename=file.name,
            size=file.measured.size,
            sha1=file.measured.sha1,
            sha256=file.measured.sha256,
        )
        self.binaries.append(own)
        attachment = _attachment(own)
        self.read(path, attachment, lambda: unpacked(file.where, decoded(self.message, part)))
        parts: list[tuple[str, JSON]] = [
            ("path", {"valueString": path}),
            ("role", {"valueCode": "attachment"}),
            ("sha256", {"valueString": own.sha256}),
            ("derived", {"valueBoolean": True}),
            ("derived-from", {"valueString": part.path}),
        ]
        mime_part = extension(self.terms.extension("mime-part"), parts)
        return {"extension": [mime_part], "contentAttachment": attachment}

    def mime_part(self, part: Part, role: str, sha256: str) -> JSON:
        parts: list[tuple[str, JSON]] = [
            ("path", {"valueString": part.path}),
            ("role", {"valueCode": role}),
        ]
        for name, value in (
            ("disposition", part.disposition),
            ("content-id", part.content_id),
            ("encoding", part.encoding),
            ("alternative-of", self.body_path if role == "body-html" else None),
            ("sha256", sha256),
        ):
            if value and (cleaned := clean(value)):
                parts.append((name, {"valueString": cleaned}))
        return extension(self.terms.extension("mime-part"), parts)

    def raw(self) -> BinaryRow:
        """Return the row of the whole message, served as it was decrypted."""
        size = self.message.seek(0, 2)
        self.message.seek(0)
        measured = measure(iter(lambda: self.message.read(64 * 1024), b""))
        return BinaryRow(
            id=uuid5(self.communication, "Binary/raw"),
            communication_id=self.communication,
            owner=self.owner,
            body_key=self.body_key,
            offset=0,
            length=size,
            encoding="binary",
            content_type="message/rfc822",
            filename=None,
            size=measured.size,
            sha1=measured.sha1,
            sha256=measured.sha256,
        )


def _attachment(row: BinaryRow) -> JSON:
    attachment: JSON = {
        "contentType": row.content_type,
        "url": f"Binary/{row.id}",
        "size": row.size,
        "hash": row.sha1,
    }
    return {**attachment, "title": row.filename} if row.filename else attachment


def _guessed(name: str | None) -> str:
    """Return the media type that a file's name stands for."""
    return guess_type(name or "", strict=True)[0] or "application/octet-stream"


def _content_type(part: Part) -> str:
    """Return the media type with its parameters, but those that name or divide the part."""
    main = part.content_type
    if main.startswith("multipart/") or not _MEDIA_TYPE.fullmatch(main):
        return "application/octet-stream"
    given = [
        f"{name}={value if _PLAIN.fullmatch(value) else chr(34) + value + chr(34)}"
        for name, value in part.type_parameters.items()
        if name not in ("name", "boundary")
        and _PLAIN.fullmatch(name)
        and clean(value) == value
        and '"' not in value
        and "\\" not in value
        and "\n" not in value
        and value.isascii()
    ]
    whole = "; ".join([main, *given])
    return whole if len(whole) <= CONTENT_TYPE_CHARACTERS_MAX else main


def _unflowed(text: str, delsp: bool) -> str:
    """Join the soft-broken lines of format=flowed text."""
    pieces: list[str] = []
    for line in text.split("\n"):
        # RFC3676 4.4: a line may have been stuffed with one space.
        unstuffed = line.removeprefix(" ")
        # RFC3676 4.3: the signature separator ends in a space and is no soft break.
        joins = unstuffed.endswith(" ") and unstuffed != "-- "
        pieces.append(unstuffed[:-1] if joins and delsp else unstuffed)
        if not joins:
            pieces.append("\n")
    if pieces[-1] == "\n":
        pieces.pop()  # it stands between lines
    return "".join(pieces)
