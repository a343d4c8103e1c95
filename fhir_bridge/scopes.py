"""What a client may do, in SMART's words: `system/Communication.rs`, or `.read` as version 1 said.

Pure. A scope opens a kind of resource; which mailboxes it opens is granted to the client apart.

Standards:
    SMART   App Launch 2.2.0, scopes and launch context: 3.0.2 (v2 syntax), 3.0.2.8 (v1)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from certs.errors import DirectError, Reason

__all__ = [
    "ALL",
    "EVERYTHING",
    "INTERACTIONS",
    "OPERATIONS",
    "USUAL",
    "Scopes",
    "parse_scopes",
]

# "*" is every type but these, which are an administrator's and must be named.
NAMED_ONLY: Final = frozenset({"AuditEvent"})
ANY: Final = "*"
ALL: Final = "system/*.cruds"
# What a client gets that is registered without scopes: all of its mailboxes' own, and reading the
# directory. Whoever may change the directory may lead the mail of others astray: that is granted.
USUAL: Final = (
    "system/*.rs system/Binary.cruds system/Communication.cruds system/CommunicationRequest.cruds "
    "system/DocumentReference.cruds system/Media.cruds system/Subscription.cruds system/Task.cruds"
)
SCOPES_CHARACTERS_MAX: Final = 4000
_SCOPE: Final = re.compile(r"system/(\*|[A-Z][A-Za-z]{2,63})\.(c?r?u?d?s?|read|write|\*)")
_VERSION_1: Final = {"read": "rs", "write": "cud", "*": "cruds"}

# SMART 3.0.2.2: what each letter opens. A conditional form also searches, which is asked apart.
INTERACTIONS: Final = {
    "create": "c",
    "read": "r",
    "vread": "r",
    "history-instance": "r",
    "update": "u",
    "patch": "u",
    "delete": "d",
    "search-type": "s",
    "history-type": "s",
}


# What operations need on the type that they are called on; `$validate` stores and shows nothing.
OPERATIONS: Final = {
    "send-direct": "c",
    "preflight": "c",
    "inbox": "rs",
    "mark-read": "u",
    "forwarded": "r",
    "resend": "u",
    "get-ws-binding-token": "r",
    "raw": "r",
    "validate": "",
    "graphql": "",  # each list and resource asks for itself
    "export": "",  # each type asks for itself
    "process-message": "c",  # of the Communication that is sent
    "patient-export": "",
    "group-export": "",
}


@dataclass(frozen=True, slots=True)
class Scopes:
    """Pairs of a resource type, or "*", and a letter of "cruds"."""

    grants: frozenset[tuple[str, str]]

    def allow(self, kind: str, letters: str) -> bool:
        """Say whether all of `letters` are open on the resource type `kind`."""
        return all(
            (kind, letter) in self.grants
            or (kind not in NAMED_ONLY and (ANY, letter) in self.grants)
            for letter in letters
        )

    def narrowed(self, wanted: Scopes) -> Scopes:
        """Return what of `wanted` is open here; "*" that is not open becomes what is."""
        kept = {(kind, letter) for kind, letter in wanted.grants if self.allow(kind, letter)}
        for kind, letter in self.grants:
            if kind not in NAMED_ONLY and (ANY, letter) in wanted.grants:
                kept.add((kind, letter))
        return Scopes(frozenset(kept))

    @property
    def text(self) -> str:
        """The scopes in version 2's syntax, one for each type."""
        kinds = sorted({kind for kind, _ in self.grants})
        return " ".join(f"system/{kind}.{''.join(self._letters(kind))}" for kind in kinds)

    def _letters(self, kind: str) -> Iterator[str]:
        return (letter for letter in "cruds" if (kind, letter) in self.grants)


def parse_scopes(text: str, *, strict: bool = True) -> Scopes:
    """Return the scopes in `text`, which are separated by spaces.

    What is not of a system's kind, and a scope with a search (`?category=…`), is refused, or,
    unless `strict`, left out: it is then not granted (RFC 6749 3.3 allows that).

    Raises:
        DirectError: RESOURCE_UNSUPPORTED.
    """
    grants: set[tuple[str, str]] = set()
    for word in text[:SCOPES_CHARACTERS_MAX].split():
        match = _SCOPE.fullmatch(word)
        letters = _VERSION_1.get(match[2], match[2]) if match else ""
        if match and letters:
            grants |= {(match[1], letter) for letter in letters}
        elif strict:
            raise DirectError(Reason.RESOURCE_UNSUPPORTED, f"not a scope for systems: {word[:80]}")
    return Scopes(frozenset(grants))


EVERYTHING: Final = parse_scopes(ALL)
