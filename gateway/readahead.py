"""Make the next piece of a large message while the last one is used.

Pure, with one thread: decoding and decrypting on one side, hashing and writing on the other are of
about the same cost and both let go of the interpreter lock, so that a large message takes little
more than half the time on two cores. Small ones are not worth a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from certs.cms.ber import Octets

__all__ = ["WORTHWHILE_OCTETS", "read_ahead"]

WORTHWHILE_OCTETS: Final = 1024 * 1024


def read_ahead(pieces: Iterable[Octets]) -> Iterator[bytes]:
    """Yield `pieces`, always one ahead; what making one raises is raised here."""
    made = map(bytes, pieces)  # a copy: its maker may use the buffer again
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as pool:
        coming = pool.submit(next, made, None)
        while (piece := coming.result()) is not None:
            coming = pool.submit(next, made, None)
            yield piece
