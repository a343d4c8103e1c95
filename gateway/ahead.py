"""Make the next pieces of a large message while the last ones are used.

Pure, with one thread. Decoding and decrypting can be done beside hashing and writing, encrypting
beside base64 and writing: each is about half of the work and most of it lets go of the interpreter
lock, so that a large message takes little more than half the time where a second processor is
free. Small ones are not worth a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Final

from certs.cms.ber import Octets

__all__ = ["WORTHWHILE_OCTETS", "ahead"]

WORTHWHILE_OCTETS: Final = 1024 * 1024
_PIECES: Final = 4  # at most so many are waiting, which bounds the memory

_Made = SimpleQueue[Octets | None]  # None at the end


@contextmanager
def ahead(pieces: Iterable[Octets]) -> Iterator[Iterator[Octets]]:
    """Give `pieces`, made in a thread while they are used; what making one raises is raised there.

    The thread ends with the context, whether or not all of them were taken.
    """
    made: _Made = SimpleQueue()
    wanted: SimpleQueue[bool] = SimpleQueue()
    for _piece in range(_PIECES):
        wanted.put(True)
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        making = pool.submit(_make, pieces, made, wanted)
        try:
            yield _taken(made, wanted, making)
        finally:
            wanted.put(False)


def _make(pieces: Iterable[Octets], made: _Made, wanted: SimpleQueue[bool]) -> None:
    try:
        for piece in pieces:
            # A copy where the maker may use the buffer again.
            made.put(piece if memoryview(piece).readonly else bytes(piece))
            if not wanted.get():
                return
    finally:
        made.put(None)


def _taken(made: _Made, wanted: SimpleQueue[bool], making: Future[None]) -> Iterator[Octets]:
    while (piece := made.get()) is not None:
        yield piece
        wanted.put(True)
    making.result()  # raises what stopped it
