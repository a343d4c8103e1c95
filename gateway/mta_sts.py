"""MTA-STS: the policy by which a domain demands TLS of those who send to it.

Pure.

Standards:
    RFC8461 sections 3.1 (TXT record), 3.2 (policy) and 4.1 (host matching)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from certs.errors import DirectError, Reason

__all__ = ["Mode", "StsPolicy", "parse_policy", "policy_id", "policy_text", "policy_url"]

# RFC8461 3.2: about one year.
MAX_AGE_S: Final = 31_557_600
# RFC8461 3.1: sts-id = 1*32(ALPHA / DIGIT)
_ID: Final = re.compile(r"[A-Za-z0-9]{1,32}")
_HOST: Final = re.compile(r"(?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_HOSTS: Final = 100


class Mode(Enum):
    """What a sender is to do about a host that does not satisfy the policy."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class StsPolicy:
    """A policy. `hosts` are names of MX hosts in lower case, some with "*." before them."""

    mode: Mode
    hosts: tuple[str, ...]
    max_age_s: int

    def allows(self, host: str) -> bool:
        """Say whether the policy names this MX host (RFC8461 4.1)."""
        name = host.lower().rstrip(".")
        # The wildcard stands for one label, the leftmost.
        return name in self.hosts or f"*.{name.partition('.')[2]}" in self.hosts


def policy_url(domain: str) -> str:
    """Return where the policy of `domain` is (RFC8461 3.3)."""
    return f"https://mta-sts.{domain}/.well-known/mta-sts.txt"


def policy_id(records: Iterable[str]) -> str | None:
    """Return the id in the TXT records of _mta-sts.<domain>, or None where there is no policy.

    RFC8461 3.1: there must be exactly one record that begins with the version.
    """
    found = [text for text in records if re.match(r"v=STSv1[ \t]*;", text)]
    if len(found) != 1:
        return None
    fields = dict(_pair(field, "=") for field in found[0].split(";"))
    name = fields.get("id", "")
    return name if _ID.fullmatch(name) else None


def parse_policy(text: bytes) -> StsPolicy:
    """Return the policy in this text.

    Raises:
        DirectError: DIRECTORY_UNAVAILABLE; it is not one, which is as if it could not be fetched.
    """
    fields: dict[str, str] = {}
    hosts: list[str] = []
    for line in text.decode("ascii", "replace").splitlines():
        key, value = _pair(line, ":")
        if key == "mx":
            hosts.append(value.lower())
        else:
            # RFC8461 3.2: of a repeated field the first counts.
            fields.setdefault(key, value)
    age = fields.get("max_age", "")
    try:
        mode = Mode(fields.get("mode", ""))
    except ValueError:
        raise _invalid("mode") from None
    if fields.get("version") != "STSv1":
        raise _invalid("version")
    if not (age.isdecimal() and len(age) <= 10):
        raise _invalid("max_age")
    if len(hosts) > _HOSTS or not all(map(_HOST.fullmatch, hosts)):
        raise _invalid("mx")
    if not hosts and mode is not Mode.NONE:
        raise _invalid("mx")
    return StsPolicy(mode, tuple(hosts), min(int(age), MAX_AGE_S))


def policy_text(policy: StsPolicy) -> str:
    """Return the policy as its domain publishes it (RFC8461 3.2)."""
    hosts = [f"mx: {host}" for host in policy.hosts]
    lines = ["version: STSv1", f"mode: {policy.mode.value}", *hosts, f"max_age: {policy.max_age_s}"]
    return "\r\n".join([*lines, ""])


def _pair(text: str, separator: str) -> tuple[str, str]:
    key, _, value = text.partition(separator)
    return key.strip(), value.strip()


def _invalid(what: str) -> DirectError:
    return DirectError(Reason.DIRECTORY_UNAVAILABLE, f"MTA-STS policy: bad {what}")
