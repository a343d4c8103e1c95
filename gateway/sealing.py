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
from typing import BinaryIO

from cryptography import x509

from certs.identity import Identity
from certs.ports import Writable
from gateway import smime
from gateway.message import header_of, outer_header, prepare
from gateway.unsealed import Algorithms

__all__ = ["Copy", "seal_copies"]


@dataclass(frozen=True, slots=True)
class Copy:
    """One sealed copy to make: the certificates to encrypt to and where it goes."""

    certificates: Sequence[x509.Certificate]
    out: Writable


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
) -> Algorithms:
    """Write every copy and return the algorithms used; `clear` then holds what was wrapped.

    `message_id` and `accepted_at` stand in where the message has no Message-ID or Date; `trace`
    is our Received line, for the outer header only.

    Raises:
        DirectError: MESSAGE_MALFORMED; CERTIFICATE_UNFIT, where a certificate's key is of a kind
            that nothing can be encrypted to.
    """
    facts = prepare(submitted, clear, message_id=message_id, date=accepted_at)
    clear.seek(0)
    outer = trace + outer_header(facts, header_of(clear))
    made = [
        smime.seal(
            clear,
            copy.out,
            outer=outer,
            signers=signers,
            recipients=copy.certificates,
            boundary=boundary,
            now=now,
        )
        for copy in copies
    ]
    return made[0]
