"""How mail to one of our addresses is delivered: what the `settings` of its row mean.

Pure: values in, values out.

    deliver   absent: as the configuration says of its domain; "fhir": its FHIR inbox; "server":
              the mail server under `server`
    server    a mail server, as under [mailboxes] in the configuration
    forward   addresses of ours that each get a copy: a pool
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from pydantic import ValidationError

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError, Reason
from gateway.config import Mailbox

__all__ = ["DEFAULT_SETTINGS", "AddressSettings", "Deliver", "read_settings", "write_settings"]

FORWARDS: Final = 100  # in one pool: each copy is a job or a resource
_KEYS: Final = frozenset({"deliver", "server", "forward"})


class Deliver(Enum):
    """Where an address reads its mail."""

    DEFAULT = "default"
    FHIR = "fhir"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class AddressSettings:
    """`server` is there where `deliver` says SERVER, and only there."""

    deliver: Deliver = Deliver.DEFAULT
    server: Mailbox | None = None
    forward: tuple[DirectAddress, ...] = ()


DEFAULT_SETTINGS: Final = AddressSettings()


def read_settings(values: Mapping[str, Any]) -> AddressSettings:
    """Return what the settings of an address say; `{}` says nothing.

    Raises:
        DirectError: CONFIGURATION_INVALID; ADDRESS_MALFORMED for what is forwarded to.
    """
    unknown = sorted(set(values) - _KEYS)
    if unknown:
        raise _invalid(f"unknown: {', '.join(unknown)}")
    forward = values.get("forward", ())
    if not isinstance(forward, list | tuple) or len(forward) > FORWARDS:
        raise _invalid(f"forward: a list of at most {FORWARDS} addresses")
    try:
        deliver = Deliver(values.get("deliver", Deliver.DEFAULT.value))
        server = values.get("server")
        mailbox = None if server is None else Mailbox.model_validate(server)
    except ValidationError as error:
        wrong = "; ".join(
            f"server.{'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        )
        raise _invalid(wrong) from None
    except ValueError:
        raise _invalid("deliver: default, fhir or server") from None
    if (mailbox is None) is (deliver is Deliver.SERVER):
        raise _invalid("a server goes with deliver = server, and only with it")
    return AddressSettings(deliver, mailbox, tuple(parse_address(str(text)) for text in forward))


def write_settings(settings: AddressSettings) -> dict[str, Any]:
    """Return the settings as JSON values, without what is at its default."""
    values: dict[str, Any] = {}
    if settings.deliver is not Deliver.DEFAULT:
        values["deliver"] = settings.deliver.value
    if settings.server is not None:
        written = settings.server.model_dump(mode="json", exclude_defaults=True)
        values["server"] = {**written, "server": str(settings.server.server)}
    if settings.forward:
        values["forward"] = [str(address) for address in settings.forward]
    return values


def _invalid(detail: str) -> DirectError:
    return DirectError(Reason.CONFIGURATION_INVALID, f"settings of an address: {detail}")
