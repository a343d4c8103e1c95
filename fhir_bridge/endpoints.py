"""Where the gateway may be made to call: the operator's list, and what a hook's URL may be.

Pure. A client chooses the URL of its hook, so only what the operator names is ever called: by
https, by plain http only where the entry says so, and at the entry's port only.

Standards:
    fhir.md section 4.4
    RFC3986 section 3.2
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

__all__ = ["Endpoint", "endpoint_of"]

ENDPOINT_CHARACTERS: Final = 2048
_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An allowed place. `host` is in lower case."""

    url: str
    host: str
    port: int


def endpoint_of(url: object, hosts: Collection[str]) -> Endpoint | None:
    """Return the place that `url` leads to; None where the operator's `hosts` do not allow it.

    An entry is `host`, `host:port`, or either behind `http://` to allow plain HTTP.
    """
    if not isinstance(url, str):
        return None
    found = _parsed(url)
    if found is None or found[0] not in _PORTS or "\\" in url or not url.isascii():
        return None
    allowed = {_parsed(entry if "://" in entry else f"https://{entry}") for entry in hosts}
    return Endpoint(url, found[1], found[2]) if found in allowed else None


def _parsed(url: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port; None where there is more or less than these and a path."""
    if len(url) > ENDPOINT_CHARACTERS or not url.isprintable() or " " in url:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or "@" in parts.netloc or parts.fragment:
        return None
    return parts.scheme, parts.hostname, port or _PORTS.get(parts.scheme, 0)
