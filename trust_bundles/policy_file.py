"""The certificate policy of a domain as people write it: a short TOML file.

Pure. Every mistake in the file is named with its line, all at once.

Standards:
    AS  Applicability Statement for Secure Health Transport v1.3, sections 2.8 and 4.2 (AS-089)
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Final

from certs.errors import DirectError, Reason
from certs.policy import CIPHERS, DIGESTS, KEYS, CertificatePolicy, Profile, RevocationMode

__all__ = ["POLICY_OCTETS", "read_policy", "write_policy"]

POLICY_OCTETS: Final = 64 * 1024
OIDS: Final = 100
OID_CHARACTERS: Final = 100
LEAST_RSA_BITS: Final = 1024
MOST_RSA_BITS: Final = 8192
MOST_OCTETS: Final = 1024 * 1024 * 1024

_OID: Final = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]{0,30}))+")
_AT_LINE: Final = re.compile(r"\(at line (\d+)")
_KEY: Final = re.compile(r"\s*\"?([A-Za-z0-9_-]+)\"?\s*=")


class _MistakeError(Exception):
    """What is wrong with a value, and with which item of a list."""

    def __init__(self, what: str, item: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.item = item


def read_policy(text: str, default: CertificatePolicy) -> CertificatePolicy:
    """Return the policy in `text`; what it does not say is as in `default`.

    Raises:
        DirectError: CONFIGURATION_INVALID; the detail has a line `line N: ...` for each mistake.
    """
    if len(text.encode()) > POLICY_OCTETS:
        raise _invalid(["line 1: the file is over 64 KiB"])
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _AT_LINE.search(str(error))
        line = found[1] if found else str(len(text.splitlines()))  # "at end of document"
        raise _invalid([f"line {line}: {error}"]) from None
    except RecursionError:
        raise _invalid(["line 1: values are nested too deep"]) from None
    problems: list[tuple[int, str]] = []
    changes: dict[str, Any] = {}
    for name, value in values.items():
        try:
            field, read = _READERS[name]
            changes[field] = read(value)
        except KeyError:
            known = ", ".join(_READERS)
            problems.append((_line_of(text, name), f"{name}: no such setting; there are {known}"))
        except _MistakeError as error:
            problems.append((_line_of(text, name, error.item), f"{name}: {error.what}"))
    if problems:
        raise _invalid([f"line {line}: {problem}" for line, problem in sorted(problems)])
    return replace(default, **changes)


def write_policy(policy: CertificatePolicy) -> str:
    """Return `policy` as a file that says everything, each setting with what it means."""
    lines: list[str] = []
    names = {field: name for name, (field, _) in _READERS.items()}
    for field in fields(policy):
        name = names[field.name]
        lines += [f"# {_MEANINGS[name]}", f"{name} = {_toml(getattr(policy, field.name))}", ""]
    return "\n".join(lines[:-1]) + "\n"


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise _MistakeError("true or false is wanted")
    return value


def _bits(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _MistakeError("a number of bits is wanted")
    if not LEAST_RSA_BITS <= value <= MOST_RSA_BITS:
        raise _MistakeError(f"from {LEAST_RSA_BITS} to {MOST_RSA_BITS} bits")
    return value


def _octets(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _MistakeError("a number of octets is wanted")
    if not 0 <= value <= MOST_OCTETS:
        raise _MistakeError(f"from 0 to {MOST_OCTETS} octets")
    return value


def _one_of(kind: type[Profile] | type[RevocationMode]) -> Callable[[object], object]:
    def read(value: object) -> object:
        known = {member.value: member for member in kind}
        if not isinstance(value, str) or value not in known:
            raise _MistakeError(f"one of {', '.join(known)} is wanted")
        return known[value]

    return read


def _words(known: frozenset[str]) -> Callable[[object], frozenset[str]]:
    def read(value: object) -> frozenset[str]:
        words = _texts(value)
        for word in words:
            if word not in known:
                names = ", ".join(sorted(known))
                raise _MistakeError(f"{word!r} is none of {names}", word)
        if not words:
            raise _MistakeError("at least one is wanted: nothing would be accepted")
        return frozenset(words)

    return read


def _oids(value: object) -> frozenset[str]:
    oids = _texts(value)
    for oid in oids:
        if len(oid) > OID_CHARACTERS or not _OID.fullmatch(oid):
            raise _MistakeError(f"{oid!r} is no object identifier", oid)
    return frozenset(oids)


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or len(value) > OIDS:
        raise _MistakeError("a list of texts is wanted")
    for item in value:
        if not isinstance(item, str):
            raise _MistakeError("a list of texts is wanted", str(item))
    return value


def _line_of(text: str, name: str, item: str = "") -> int:
    """Return the line where `name` is set, or below it that of `item`, counted from 1."""
    lines = text.splitlines()
    found = (n for n, line in enumerate(lines) if (key := _KEY.match(line)) and key[1] == name)
    # A table in its own lines, or a quoted key, is looked for by its name alone.
    start = next(found, next((n for n, line in enumerate(lines) if name in line), 0))
    if item:
        start = next((n for n in range(start, len(lines)) if item in lines[n]), start)
    return start + 1


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case frozenset():
            return "[" + ", ".join(f'"{item}"' for item in sorted(value)) + "]"
        case Profile() | RevocationMode():
            return f'"{value.value}"'
        case _:
            return str(value)


def _invalid(problems: list[str]) -> DirectError:
    return DirectError(Reason.CONFIGURATION_INVALID, "\n".join(problems))


# By the name in the file: the field of `CertificatePolicy`, and how its value is read.
_READERS: Final[Mapping[str, tuple[str, Callable[[object], object]]]] = {
    "profile": ("profile", _one_of(Profile)),
    "minimum_rsa_bits": ("minimum_rsa_bits", _bits),
    "keys": ("keys", _words(KEYS)),
    "digests": ("digests", _words(DIGESTS)),
    "ciphers": ("ciphers", _words(CIPHERS)),
    "allow_sha1": ("allow_sha1", _boolean),
    "allow_3des": ("allow_3des", _boolean),
    "inflated_octets": ("inflated_octets", _octets),
    "accept_unwrapped": ("accept_unwrapped", _boolean),
    "required_policies": ("required_policies", _oids),
    "require_key_separation": ("require_key_separation", _boolean),
    "revocation": ("revocation", _one_of(RevocationMode)),
}
_MEANINGS: Final = {
    "profile": "edition of the Applicability Statement: as-1.3 or as-1.2",
    "minimum_rsa_bits": "smallest RSA key of a certificate",
    "keys": "kinds of keys in certificates",
    "digests": "digests of signatures, on certificates and on messages",
    "ciphers": "content encryption of received messages",
    "allow_sha1": "accept SHA-1 signatures (legacy; as-1.3 forbids it)",
    "allow_3des": "accept triple DES (legacy)",
    "inflated_octets": "largest content of a compressed message; 0: compressed ones are refused",
    "accept_unwrapped": "accept messages that are not wrapped",
    "required_policies": "a certificate's path must be valid for one of these policy OIDs",
    "require_key_separation": "refuse certificates that both sign and encrypt",
    "revocation": "where revocation cannot be learnt: soft-fail or hard-fail",
}
