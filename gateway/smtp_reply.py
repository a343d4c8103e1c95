"""What an SMTP server replied to us.

Pure.

Standards:
    RFC5321 section 4.2 · RFC2034 section 4 · RFC3463 section 2
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["PeerReply", "peer_reply"]

_STATUS: Final = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?: |$)")


@dataclass(frozen=True, slots=True)
class PeerReply:
    """What a server said. `text` is bounded and has no control characters but line feeds."""

    code: int
    status: str
    text: str

    @property
    def positive(self) -> bool:
        """Did it agree (2xx)?"""
        return self.code < 300


def peer_reply(code: int, message: str) -> PeerReply | None:
    """Return the reply of this code and these lines, or None where no server may say so."""
    if not 200 <= code < 600:
        return None
    text = "".join(c if " " <= c <= "~" or c == "\n" else "?" for c in message)
    # RFC2034 4: the enhanced code begins each line; RFC3463 2: its class is that of the code.
    found = _STATUS.match(text.rpartition("\n")[2])
    digit = str(code)[0]
    status = found[1] if found and found[1][0] == digit else f"{digit}.0.0"
    return PeerReply(code, status, text)
