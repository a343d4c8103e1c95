"""Make one sealed message for each destination domain out of one submitted message.

Pure: reads and writes the open files it is given. One copy for each domain, so that no recipient
learns from the RecipientInfos who else got the message at other HISPs (AS-056).

Standards:
    AS  Applicability Statement v1.3, section 2 (AS-020 to AS-033, AS-040, AS-055, AS-056)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Final

from cryptography import x509

from certs.identity import Identity
from certs.ports import Writable
from gateway import smime
from gateway.message import header_of, outer_header, prepare
from gateway.peers import SIZE_OCTETS, octets_at_most
from gateway.seal_options import SealOptions
from gateway.unsealed import Algorithms

__all__ = ["Copy", "seal_copies"]

# More than headers, certificates and names can add to the rough figure (their limits add up).
_MARGIN_OCTETS: Final = 4 * 1024 * 1024
_DEFAULTS: Final = SealOptions()


@dataclass(frozen=True, slots=True)
class Copy:
    """One sealed copy to make: the certificates to encrypt to, where it goes, and how.

    `limit_octets` is how large it may be.
    """

    certificates: Sequence[x509.Certificate]
    out: Writable
    options: SealOptions = _DEFAULTS
    limit_octets: int = SIZE_OCTETS


def seal_copies(
    submitted: BinaryIO,
    clear: BinaryIO,
    copies: Sequence[Copy],
    *,
    signers: Sequence[Identity],
    message_id: str,
    accepted_at: datetime,
    boundary: str,
    trace: bytes,
    now: datetime,
) -> list[Algorithms | None]:
    """Write every copy and return its algorithms; `clear` then holds what was wrapped.

    None stands for a copy that would be too large, of which nothing is written.

    `message_id` and `accepted_at` stand in where the message has no Message-ID or Date; `trace`
    is our Received line, for the outer header only.

    Raises:
        DirectError: MESSAGE_MALFORMED; CERTIFICATE_UNFIT, where a certificate's key is of a kind
            that nothing can be encrypted to.
    """
    facts = prepare(submitted, clear, message_id=message_id, date=accepted_at)
    clear.seek(0)
    outer = trace + outer_header(facts, header_of(clear))
    size = clear.seek(0, 2)
    made: list[Algorithms | None] = []
    for copy in copies:
        how = _How(outer, signers, copy.certificates, boundary, now, copy.options)
        fits = how.octets(size, copy.limit_octets) <= copy.limit_octets
        made.append(how.seal(clear, copy.out) if fits else None)
    return made


@dataclass(frozen=True, slots=True)
class _How:
    """All that `gateway.smime.seal` and `sealed_octets` want beside the content."""

    outer: bytes
    signers: Sequence[Identity]
    recipients: Sequence[x509.Certificate]
    boundary: str
    now: datetime
    options: SealOptions

    def octets(self, size: int, limit: int) -> int:
        """Return how long the sealed message will be: roughly where it is far below `limit`."""
        # Only near the limit is it worth to wrap the key once more for each recipient.
        roughly = octets_at_most(size, len(self.recipients))
        if roughly + _MARGIN_OCTETS <= limit:
            return roughly
        return smime.sealed_octets(
            size,
            outer=self.outer,
            signers=self.signers,
            recipients=self.recipients,
            boundary=self.boundary,
            now=self.now,
            options=self.options,
        )

    def seal(self, content: BinaryIO, out: Writable) -> Algorithms:
        """Write the sealed message."""
        return smime.seal(
            content,
            out,
            outer=self.outer,
            signers=self.signers,
            recipients=self.recipients,
            boundary=self.boundary,
            now=self.now,
            options=self.options,
        )
