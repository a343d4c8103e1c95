from __future__ import annotations

import pytest

from gateway.smtp_reply import PeerReply, peer_reply


@pytest.mark.parametrize(
    ("code", "message", "status"),
    [
        (250, "2.1.5 OK", "2.1.5"),
        (250, "OK", "2.0.0"),
        (250, "2.1.5", "2.1.5"),
        (550, "5.7.1 No", "5.7.1"),
        (550, "4.7.1 No", "5.0.0"),
        (550, "5.7.1x No", "5.0.0"),
        (554, "5.6.0 first\n5.6.1 last", "5.6.1"),
        (354, "go on", "3.0.0"),
    ],
)
def test_the_enhanced_code(code: int, message: str, status: str) -> None:
    assert peer_reply(code, message) == PeerReply(code, status, message)


@pytest.mark.parametrize("code", [-1, 0, 100, 199, 600, 999])
def test_no_server_may_say_so(code: int) -> None:
    assert peer_reply(code, "OK") is None


def test_a_text_is_printable_but_for_line_feeds() -> None:
    reply = peer_reply(250, "a\x00b\tc\ud800\n\xfcd")
    assert reply is not None
    assert reply.text == "a?b?c?\n?d"


def test_only_2xx_is_positive() -> None:
    replies = [peer_reply(code, "x") for code in (250, 354, 451, 550)]
    assert [reply is not None and reply.positive for reply in replies] == [
        True,
        False,
        False,
        False,
    ]
