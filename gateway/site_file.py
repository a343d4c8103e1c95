"""A whole site declared in one TOML file: read into things with values, and written back.

Pure. What a file leaves out of a thing is at its default, so two files that mean the same are
read to the same values.

    [domain."direct.example.org"]         profile, enabled, policy (TOML text)
    [address."desk@direct.example.org"]   enabled, deliver, server, forward
    [user.ehr]                            addresses, enabled; password_file, for when it is made
    [client.clinic-app]                   mailboxes, scopes, enabled, jwks
    [bundle.atab]                         url, every_s, signers, tls_ca, approve, enabled, for
    [[anchor]]                            for, certificate, directions, enabled, begins, ends

Keys and passwords are not declared: they are made, or imported, and never written to a file.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.address import parse_address, parse_domain
from certs.errors import DirectError, Reason
from certs.issuers import sha256_of
from certs.policy import Profile
from fhir_bridge.assertion import public_keys
from fhir_bridge.scopes import USUAL, parse_scopes
from gateway.address_settings import read_settings, write_settings
from trust_bundles.policy import Direction

__all__ = ["KINDS", "Thing", "read_site", "write_site"]

FILE_OCTETS: Final = 64 * 1024 * 1024
BOTH: Final = sorted(way.value for way in Direction)
DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing of a site. `key` tells it from others of its kind; `values` are JSON values.

    `aside` is declared for when it is made, and is no part of what it is.
    """

    kind: str
    key: str
    values: Mapping[str, Any]
    aside: Mapping[str, Any] = field(default_factory=dict)


def read_site(text: str) -> list[Thing]:
    """Return what a file declares, in the order in which it can be made.

    Raises:
        DirectError: CONFIGURATION_INVALID; with the place of what is wrong.
    """
    if len(text) > FILE_OCTETS:
        raise _invalid("the file", "over 64 MiB")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _invalid("the file", str(error)) from None
    unknown = sorted(set(document) - set(KINDS))
    if unknown:
        raise _invalid(unknown[0], f"unknown; there are {', '.join(KINDS)}")
    found = [thing for kind in KINDS for thing in _things(kind, document.get(kind))]
    for (kind, key), count in Counter((thing.kind, thing.key) for thing in found).items():
        if count > 1:
            raise _invalid(f"{kind} {key}", "declared twice")
    return found


def write_site(things: Iterable[Thing]) -> str:
    """Return the file that `read_site` reads to these things."""
    lines = [
        "# A direct-gateway site: `direct-gateway apply FILE --dry-run` shows what would change."
    ]
    for thing in things:
        lines.append("")
        if thing.kind == "anchor":
            lines.append("[[anchor]]")
        else:
            lines.append(f"[{thing.kind}.{_quoted(thing.key)}]")
        lines += [f"{name} = {_toml(value)}" for name, value in thing.values.items()]
    return "\n".join(lines) + "\n"


def _things(kind: str, declared: Any) -> list[Thing]:
    if declared is None:
        return []
    if kind == "anchor":
        if not isinstance(declared, list):
            raise _invalid(kind, "write [[anchor]]")
        return [_thing(kind, str(number), item) for number, item in enumerate(declared, start=1)]
    if not isinstance(declared, dict):
        raise _invalid(kind, f'write [{kind}."NAME"]')
    return [_thing(kind, name, item) for name, item in declared.items()]


def _thing(kind: str, name: str, declared: Any) -> Thing:
    where = f"{kind} {name}"
    if not isinstance(declared, dict):
        raise _invalid(where, "not a table")
    given = _Given(where, dict(declared))
    try:
        thing = _READERS[kind](name, given)
    except DirectError as error:
        if error.detail.startswith(where):
            raise
        raise _invalid(where, error.detail) from None
    given.finish()
    return thing


class _Given:
    """The values of one thing, each to be taken by its name and type."""

    def __init__(self, where: str, values: dict[str, Any]) -> None:
        self._where = where
        self._values = values

    def take(self, name: str, default: Any) -> Any:
        """Return a value of the type that the default has."""
        value = self._values.pop(name, default)
        if type(value) is not type(default):
            raise _invalid(f"{self._where}: {name}", f"not {_NAMES[type(default)]}")
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise _invalid(f"{self._where}: {name}", "not a list of texts")
        return value

    def rest(self) -> dict[str, Any]:
        """Return all that was not taken."""
        rest, self._values = self._values, {}
        return rest

    def finish(self) -> None:
        """Return where all was taken."""
        for name in self._values:
            raise _invalid(f"{self._where}: {name}", "unknown")


def _domain(name: str, given: _Given) -> Thing:
    values = {
        "profile": _one_of(Profile, given.take("profile", Profile.AS_1_3.value)),
        "enabled": given.take("enabled", True),
        "policy": given.take("policy", ""),
    }
    return Thing("domain", parse_domain(name), _without(values, policy=""))


def _address(name: str, given: _Given) -> Thing:
    enabled = given.take("enabled", True)
    settings = write_settings(read_settings(given.rest()))
    return Thing("address", parse_address(name).key, {"enabled": enabled, **settings})


def _user(name: str, given: _Given) -> Thing:
    values = {
        "addresses": _keys(given.take("addresses", [])),
        "enabled": given.take("enabled", True),
    }
    return Thing("user", name, values, {"password_file": given.take("password_file", "")})


def _client(name: str, given: _Given) -> Thing:
    jwks = given.take("jwks", "")
    values = {
        "mailboxes": _keys(given.take("mailboxes", [])),
        "scopes": parse_scopes(given.take("scopes", USUAL)).text,
        "enabled": given.take("enabled", True),
        "jwks": public_keys(jwks) if jwks else "",
    }
    return Thing("client", name, _without(values, jwks=""))


def _bundle(name: str, given: _Given) -> Thing:
    uses = {
        parse_address(owner).key if "@" in owner else parse_domain(owner): _directions(ways)
        for owner, ways in given.take("for", {}).items()
    }
    values = {
        "url": given.take("url", ""),
        "every_s": given.take("every_s", DAY_S),
        "signers": given.take("signers", ""),
        "tls_ca": given.take("tls_ca", ""),
        "approve": given.take("approve", False),
        "enabled": given.take("enabled", True),
        "for": dict(sorted(uses.items())),
    }
    return Thing("bundle", name, _without(values, url="", signers="", tls_ca=""))


def _anchor(_: str, given: _Given) -> Thing:
    pem = given.take("certificate", "")
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise _invalid("certificate", "not a certificate in PEM") from None
    owner = given.take("for", "")
    owner = parse_address(owner).key if "@" in owner else parse_domain(owner)
    values = {
        "for": owner,
        "certificate": certificate.public_bytes(Encoding.PEM).decode(),
        "directions": _directions(given.take("directions", BOTH)),
        "enabled": given.take("enabled", True),
        "begins": _time(given.take("begins", "")),
        "ends": _time(given.take("ends", "")),
    }
    key = f"{owner} {sha256_of(certificate).hex()}"
    return Thing("anchor", key, _without(values, begins="", ends=""))


_READERS: Final[Mapping[str, Callable[[str, _Given], Thing]]] = {
    "domain": _domain,
    "address": _address,
    "user": _user,
    "client": _client,
    "bundle": _bundle,
    "anchor": _anchor,
}
KINDS: Final = tuple(_READERS)
_NAMES: Final = {
    bool: "true or false",
    int: "a whole number",
    str: "a text",
    list: "a list",
    dict: "a table",
}


def _keys(texts: Iterable[str]) -> list[str]:
    return sorted({parse_address(text).key for text in texts})


def _directions(ways: Any) -> list[str]:
    if not isinstance(ways, list) or not ways:
        raise _invalid("directions", f"a list of {' and '.join(BOTH)}")
    return sorted({_one_of(Direction, way) for way in ways})


def _time(text: str) -> str:
    if not text:
        return ""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise _invalid(text, "not ISO 8601") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


def _one_of(kinds: Any, text: Any) -> str:
    known: list[str] = [kind.value for kind in kinds]
    if text not in known:
        raise _invalid(repr(text), f"write one of {', '.join(known)}")
    return str(text)


def _without(values: dict[str, Any], **empty: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value != empty.get(name, _NEVER)}


_NEVER: Final = object()


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        inner = ", ".join(f"{_quoted(name)} = {_toml(item)}" for name, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, str):
        plain = "\n" in value and "'''" not in value and value.replace("\n", "").isprintable()
        return f"'''\n{value}'''" if plain else _quoted(value)
    return str(value)


def _quoted(text: str) -> str:
    # TOML's basic strings are JSON's, but for DEL and for pairs of surrogates.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _invalid(where: str, what: str) -> DirectError:
    return DirectError(Reason.CONFIGURATION_INVALID, f"{where}: {what}")
