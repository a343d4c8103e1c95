"""A host and a port, as configuration and command lines write them.

Pure.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from certs.errors import DirectError, Reason

__all__ = ["HostPort", "host_port", "parse_host_port"]


class HostPort(BaseModel):
    """A host and a port, written `host:port` or `[v6]:port`."""

    model_config = ConfigDict(frozen=True)

    host: str
    port: int = Field(ge=0, le=65535)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def host_port(value: object) -> object:
    """Return the parts of `host:port` for a model; leave everything else to it."""
    if not isinstance(value, str):
        return value
    if not value:
        return None
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError("write it as host:port")
    return {"host": host.removeprefix("[").removesuffix("]"), "port": int(port)}


def parse_host_port(text: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[v6]:port`.

    Raises:
        DirectError: CONFIGURATION_INVALID.
    """
    try:
        parsed = HostPort.model_validate(host_port(text))
    except ValueError:  # pydantic's ValidationError is one
        raise DirectError(
            Reason.CONFIGURATION_INVALID, f"{text!r}: write it as host:port"
        ) from None
    return parsed.host, parsed.port
