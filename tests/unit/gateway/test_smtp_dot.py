from __future__ import annotations

import pytest

from gateway.smtp_dot import DotStuffer


@pytest.mark.parametrize("chunk_octets", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("content", "wire"),
    [
        pytest.param(b"", b".\r\n", id="empty"),
        pytest.param(b"a\r\n", b"a\r\n.\r\n", id="line"),
        pytest.param(b"a", b"a\r\n.\r\n", id="without-final-line-end"),
        pytest.param(b".\r\n", b"..\r\n.\r\n", id="dot-first"),
        pytest.param(b"a\r\n.\r\n.b\r\n", b"a\r\n..\r\n..b\r\n.\r\n", id="dots"),
        pytest.param(b"a.\r\n..\r\n", b"a.\r\n...\r\n.\r\n", id="two-dots"),
        pytest.param(b"\r\n\r\n", b"\r\n\r\n.\r\n", id="empty-lines"),
    ],
)
def test_stuffs_whole_and_in_pieces(content: bytes, wire: bytes, chunk_octets: int) -> None:
    stuffer = DotStuffer()
    chunks = (content[i : i + chunk_octets] for i in range(0, len(content), chunk_octets))
    assert b"".join(map(stuffer.feed, chunks)) + stuffer.finish() == wire
