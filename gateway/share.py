"""One process's share of a gateway that several processes serve together.

Talks to the kernel, to wake other processes. `gateway.processes` makes the shares, and
`gateway.app` serves one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from socket import socket
from typing import Final

__all__ = ["HOLDER_OCTETS", "Share", "Sockets"]

# The first octets of each of a process's lease tokens; what follows is random for each claim.
HOLDER_OCTETS: Final = 8


@dataclass(frozen=True, slots=True)
class Sockets:
    """Where a gateway listens; None where a listener is switched off."""

    backbone: socket | None = None
    edge: socket | None = None
    fhir: socket | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """What one process has of its own, and with the others.

    `holder` begins its lease tokens. One of them all is `first`: what has to be done once is its.
    It wakes when another writes to `bell`, an eventfd, and it wakes the others through `bells`.
    It ends when `parent`, a pipe that only the parent can write to, is closed.
    """

    holder: bytes
    first: bool
    sockets: Sockets
    bell: int
    bells: tuple[int, ...]
    parent: int

    @property
    def processes(self) -> int:
        """How many there are, with this one."""
        return len(self.bells) + 1

    def ring(self) -> None:
        """Wake the others: there is more to do than this process can."""
        for bell in self.bells:
            os.eventfd_write(bell, 1)
