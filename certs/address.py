"""Direct addresses and health domain names: parse and compare.

Pure.

Standards:
    AS      Applicability Statement for Secure Health Transport v1.3, sections 1.1 and 1.2
    RFC5321 sections 2.4 (case) and 4.5.3.1 (sizes)
    RFC5322 section 3.4.1 (addr-spec)
    RFC5890 A-labels
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from certs.errors import DirectError, Reason

__all__ = ["DirectAddress", "parse_address", "parse_domain"]

# RFC5321 4.5.3.1.1 and 4.5.3.1.2
LOCAL_PART_OCTETS: Final = 64
DOMAIN_OCTETS: Final = 253  # which make 255 in the DNS (RFC1035 2.3.4)
LABEL_OCTETS: Final = 63

_ATEXT: Final = r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+"
_DOT_ATOM: Final = re.compile(rf"{_ATEXT}(?:\.{_ATEXT})*")
_QUOTED: Final = re.compile(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\[\x20-\x7e])*"')
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")


@dataclass(frozen=True, slots=True, eq=False)
class DirectAddress:
    """`local_part`@`domain`. The domain is in lower-case A-labels; the local part as written.

    Two addresses are equal where they name the same mailbox: DirectTrust peers sign for one
    spelling and send with another, so the local part compares without case (AS-016, K-04),
    though RFC5321 2.4 leaves its case to the receiving host. Transport keeps the case.
    """

    local_part: str
    domain: str

    @property
    def key(self) -> str:
        """The whole address in lower case: what to compare and index by."""
        return f"{self.local_part.lower()}@{self.domain}"

    def __str__(self) -> str:
        return f"{self.local_part}@{self.domain}"

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, DirectAddress) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)


def parse_address(text: str) -> DirectAddress:
    """Return the address in `text`: an addr-spec, with no display name and no angle brackets.

    Raises:
        DirectError: ADDRESS_MALFORMED; not an ASCII addr-spec in a fully qualified domain, or
            too long. A Direct address has no non-ASCII form (AS-001, R-061).
    """
    local_part, at, host = text.rpartition("@")
    if not at:
        raise _malformed("no @")
    if not (_DOT_ATOM.fullmatch(local_part) or _QUOTED.fullmatch(local_part)):
        raise _malformed("local part is neither a dot-atom nor a quoted string")
    if len(local_part) > LOCAL_PART_OCTETS:
        raise _malformed("local part is longer than 64 octets")
    return DirectAddress(local_part, parse_domain(host))


@lru_cache(maxsize=1024)  # of a busy site's mail, most is between the same few
def parse_domain(text: str) -> str:
    """Return the health domain name in `text`, in lower case and without a final dot.

    Raises:
        DirectError: ADDRESS_MALFORMED; not a fully qualified ASCII host name.
    """
    # Before the case is folded: the Kelvin sign would become a "k".
    if not text.isascii():
        raise _malformed("domain is not in A-labels")
    domain = text.lower().removesuffix(".")
    labels = domain.split(".")
    if len(labels) < 2:
        raise _malformed("domain is not fully qualified")
    if len(domain) > DOMAIN_OCTETS or any(len(label) > LABEL_OCTETS for label in labels):
        raise _malformed("domain or one of its labels is too long")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise _malformed("domain is not in A-labels")
    return domain


def _malformed(detail: str) -> DirectError:
    return DirectError(Reason.ADDRESS_MALFORMED, detail)
