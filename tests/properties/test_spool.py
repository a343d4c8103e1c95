"""gateway.spool: however a body is cut into chunks, the same body is stored."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.spool import INLINE_OCTETS, SpoolSink

CONTENT = bytes(range(251)) * (3 * INLINE_OCTETS // 251)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, INLINE_OCTETS), max_size=8))
def test_chunks_of_any_size_make_one_body(sizes: Sequence[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sink = SpoolSink(Path(folder) / "body")
        start = 0
        for size in sizes:
            start += sink.write(memoryview(CONTENT)[start : start + size])
        body = asyncio.run(sink.finish())
        stored = body.inline if body.inline is not None else (Path(folder) / "body").read_bytes()
        assert stored == CONTENT[:start]
        assert (body.size, body.sha256) == (start, hashlib.sha256(stored).hexdigest())
        assert (body.inline is None) == (start > INLINE_OCTETS)
