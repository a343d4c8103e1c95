"""What fetching a trust bundle yields, and what refreshing it comes to.

Pure: values only.

Standards:
    RFC9110 sections 8.8 (validators) and 13.1 (conditional requests)
"""

from __future__ import annotations

from dataclasses import dataclass

from trust_bundles.status import Status

__all__ = ["Fetched", "Outcome", "Validators"]


@dataclass(frozen=True, slots=True)
class Validators:
    """What the server said names the content that it sent; sent back with the next request."""

    etag: str | None = None
    last_modified: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The conditions they make."""
        conditions = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in conditions.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Fetched:
    """`content` None: not modified since the content that the validators name."""

    content: bytes | None
    validators: Validators


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a refresh of bundle `name` came to. `number` None: no version was looked at."""

    name: str
    status: Status
    detail: str | None = None
    number: int | None = None
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    sha256: str | None = None
