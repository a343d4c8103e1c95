"""The XDM packages in the parts of a message, and the Binary of each document in them.

Pure.

Standards:
    XDXM    XDR and XDM for Direct Messaging, section 2
    fhir.md section 3.3, row on XDM; section 3.7, row on bombs
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO
from uuid import uuid5

from certs.errors import DirectError
from fhir_bridge.binary_rows import TITLE_CHARACTERS, BinaryRow, clean
from fhir_bridge.mime import Part, decoded
from fhir_bridge.xdm import Filed, Package, read_packages

__all__ = ["Packaged", "packages_in"]


@dataclass(frozen=True, slots=True)
class Packaged:
    """A submission set in the part `path`, and the Binary of each file that it names."""

    path: str
    package: Package
    binaries: Mapping[str, BinaryRow]


def packages_in(message: BinaryIO, part: Part, row: BinaryRow) -> tuple[tuple[Packaged, ...], bool]:
    """Return the submission sets in `part`, whose Binary is `row`, and whether that is all.

    A package that cannot be trusted has none: it stays an attachment.
    """
    try:
        packages = read_packages(lambda: decoded(message, part), row.size)
    except DirectError:
        return (), False
    found, whole = [], True
    for package in packages:
        entries = package.metadata.documents
        named = [(entry, package.file(entry.slot("URI"))) for entry in entries]
        whole &= all(file is not None for _, file in named)
        binaries = {
            file.path: _binary(file, entry.media_type, part, row)
            for entry, file in named
            if file is not None
        }
        found.append(Packaged(part.path, package, binaries))
    return tuple(found), whole


def _binary(file: Filed, media_type: str, part: Part, row: BinaryRow) -> BinaryRow:
    return replace(
        row,
        id=uuid5(row.communication_id or row.id, f"Binary/{part.path}/{file.path}"),
        encoding=f"{row.encoding} {file.where}",
        content_type=media_type,
        filename=clean(file.path.rpartition("/")[2])[:TITLE_CHARACTERS] or None,
        size=file.size,
        sha1=file.sha1,
        sha256=file.sha256,
    )
