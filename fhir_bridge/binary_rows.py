"""The octets of a Binary: where they lie, and their size and hashes.

Pure; streaming.

Standards:
    FHIR    R4 Attachment (`hash` is SHA-1 in base64), string
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import pybase64

__all__ = [
    "CONTROLS",
    "TITLE_CHARACTERS",
    "BinaryRow",
    "Measure",
    "Measured",
    "clean",
    "measure",
]

TITLE_CHARACTERS: Final = 255
CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class BinaryRow:
    """The octets of one Binary: `length` octets at `offset` of the body `body_key`, encoded.

    `size`, `sha1` (base64) and `sha256` (hexadecimal) are of the decoded octets.
    """

    id: UUID
    communication_id: UUID | None
    owner: str
    body_key: str
    offset: int
    length: int
    encoding: str
    content_type: str
    filename: str | None
    size: int
    sha1: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Measured:
    """Size in octets, SHA-1 in base64, SHA-256 in hexadecimal."""

    size: int
    sha1: str
    sha256: str


class Measure:
    """Learns size and hashes of octets as they pass."""

    def __init__(self) -> None:
        self._size = 0
        self._sha1 = hashlib.sha1(usedforsecurity=False)  # FHIR: Attachment.hash is SHA-1
        self._sha256 = hashlib.sha256()

    def add(self, block: bytes) -> None:
        """Take the next octets."""
        self._size += len(block)
        self._sha1.update(block)
        self._sha256.update(block)

    def result(self) -> Measured:
        """Return what was learnt."""
        sha1 = pybase64.b64encode(self._sha1.digest()).decode()
        return Measured(self._size, sha1, self._sha256.hexdigest())


def measure(blocks: Iterable[bytes]) -> Measured:
    """Return size and hashes of `blocks`."""
    measuring = Measure()
    for block in blocks:
        measuring.add(block)
    return measuring.result()


def clean(text: str) -> str:
    """Return `text` without what a FHIR string may not hold, and without outer white space."""
    return CONTROLS.sub("", text).strip()
