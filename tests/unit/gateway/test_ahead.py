from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from gateway.ahead import ahead


def counted(made: list[int]) -> Iterator[bytes]:
    for number in range(100):
        made.append(number)
        yield bytes([number])


def test_pieces_come_whole_and_in_order() -> None:
    with ahead(counted([])) as pieces:
        assert [bytes(piece)[0] for piece in pieces] == list(range(100))


def test_a_buffer_may_be_used_again_by_its_maker() -> None:
    def reusing() -> Iterator[memoryview]:
        buffer = bytearray(1)
        for number in range(100):
            buffer[0] = number
            yield memoryview(buffer)

    with ahead(reusing()) as pieces:
        assert [bytes(piece)[0] for piece in pieces] == list(range(100))


def test_what_the_maker_raises_is_raised_where_the_piece_was_to_come() -> None:
    def failing() -> Iterator[bytes]:
        yield b"first"
        raise ValueError("second")

    taken: list[bytes] = []
    with pytest.raises(ValueError, match="second"), ahead(failing()) as pieces:
        taken.extend(bytes(piece) for piece in pieces)
    assert taken == [b"first"]


def test_only_a_few_pieces_wait() -> None:
    made: list[int] = []
    with ahead(counted(made)) as pieces:
        next(pieces)
    assert len(made) <= 6


def test_the_thread_ends_with_the_context_though_pieces_are_left() -> None:
    before = threading.active_count()
    with ahead(counted([])) as pieces:
        next(pieces)
    assert threading.active_count() == before
