"""An XDM package: its submission sets, its documents, and what each document is.

Pure; streaming. The package stays where it is, in the message: a document is a stretch of it.
What is no package is none; one that cannot be trusted raises, and is an attachment only.

Standards:
    XDXM    XDR and XDM for Direct Messaging, section 2
    IHE     ITI TF-2 3.32: the layout of the media (XD-001 to XD-008)
    fhir.md section 3.3, row on XDM; section 3.7, row on bombs
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pybase64

from certs.errors import DirectError, Reason
from fhir_bridge.archive import Octets, contents, entries_of
from fhir_bridge.ccda import HEADER_OCTETS_MAX, Document, read_document
from fhir_bridge.xds_metadata import Metadata, read_metadata

__all__ = ["Filed", "Package", "read_packages"]

FOLDER: Final = "IHE_XDM"
METADATA: Final = "metadata.xml"
METADATA_OCTETS_MAX: Final = 1024 * 1024
PACKAGES_MAX: Final = 20
BLOCK_OCTETS: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Filed:
    """A file of the package. `where` is what `archive.unpacked` takes; hashes as in `Measured`.

    `document` is the header of a C-CDA, where the file is one.
    """

    path: str
    where: str
    size: int
    sha1: str
    sha256: str
    document: Document | None


@dataclass(frozen=True, slots=True)
class Package:
    """A submission set. `folder` is its path; `files` are by their path in lower case."""

    folder: str
    metadata: Metadata
    files: Mapping[str, Filed]

    def file(self, uri: str) -> Filed | None:
        """Return the file that a document entry's URI names (XD-004: relative to its set)."""
        path = uri.replace("\\", "/").removeprefix("./")
        return self.files.get(f"{self.folder}/{path}".lower())


def read_packages(octets: Octets, size: int) -> tuple[Package, ...]:
    """Return the submission sets of the archive; none where it is no XDM package.

    Raises:
        DirectError: MESSAGE_MALFORMED; it is a package, but not one that can be trusted.
    """
    entries = entries_of(octets, size, FOLDER)
    if not entries:
        return ()
    reading = _Reading()
    for entry, where, block in contents(octets, entries):
        if block is None:
            reading.ends(entry.path, where)
        else:
            reading.takes(entry.path, block)
    # XD-003: METADATA.XML lies exactly two levels deep.
    metadata = {
        path.rpartition("/")[0]: text
        for path, text in reading.metadata.items()
        if path.count("/") == 2
    }
    if len(metadata) > PACKAGES_MAX:
        raise DirectError(Reason.MESSAGE_MALFORMED, "xdm: too many submission sets")
    return tuple(
        Package(folder, read_metadata(text), reading.files) for folder, text in metadata.items()
    )


class _Reading:
    """What was learnt of the files, while they pass."""

    def __init__(self) -> None:
        self.files: dict[str, Filed] = {}
        self.metadata: dict[str, bytes] = {}
        self._begin()

    def _begin(self) -> None:
        self._size = 0
        self._head = b""
        self._sha1 = hashlib.sha1(usedforsecurity=False)  # XD-004, and FHIR's Attachment.hash
        self._sha256 = hashlib.sha256()

    def takes(self, path: str, block: bytes) -> None:
        self._size += len(block)
        self._sha1.update(block)
        self._sha256.update(block)
        if path.lower().endswith(".xml") and len(self._head) < HEADER_OCTETS_MAX:
            self._head += block

    def ends(self, path: str, where: str) -> None:
        name = path.rpartition("/")[2].lower()
        if name == METADATA:
            if self._size > METADATA_OCTETS_MAX:
                raise DirectError(Reason.MESSAGE_MALFORMED, "xdm: too much metadata")
            self.metadata[path] = self._head
        self.files[path.lower()] = Filed(
            path=path,
            where=where,
            size=self._size,
            sha1=pybase64.b64encode(self._sha1.digest()).decode(),
            sha256=self._sha256.hexdigest(),
            document=None if name == METADATA else self._document(),
        )
        self._begin()

    def _document(self) -> Document | None:
        starts = range(0, len(self._head), BLOCK_OCTETS)
        return read_document(self._head[start : start + BLOCK_OCTETS] for start in starts)
