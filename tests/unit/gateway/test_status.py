from __future__ import annotations

import pytest

from certs.errors import Reason
from gateway.status import REPLIES, CommandError, Reply, render, reply_to

SPOKEN = [pytest.param(reason, id=reason.code) for reason in Reason if REPLIES[reason]]
SILENT = [pytest.param(reason, id=reason.code) for reason in Reason if not REPLIES[reason]]


def test_every_reason_has_a_row() -> None:
    assert set(REPLIES) == set(Reason)


@pytest.mark.parametrize("reason", SPOKEN)
def test_the_class_digits_agree_with_each_other_and_with_retryable(reason: Reason) -> None:
    reply = reply_to(reason)
    digit = "4" if reason.retryable else "5"
    assert str(reply.code)[0] == digit
    assert reply.status.startswith(f"{digit}.")


@pytest.mark.parametrize("reason", SPOKEN)
def test_a_text_is_one_short_line_of_printable_ascii(reason: Reason) -> None:
    line = render(reason)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 100


@pytest.mark.parametrize("reason", SILENT)
def test_a_reason_without_a_reply_is_an_internal_error_to_the_peer(reason: Reason) -> None:
    assert render(reason) == render(Reason.INTERNAL)


def test_a_reply_renders_code_status_and_text() -> None:
    assert render(Reason.RECIPIENT_UNKNOWN) == "550 5.1.1 No such mailbox here"
    assert str(Reply(354, "", "Go on")) == "354 Go on"


def test_only_221_and_421_close_the_channel() -> None:
    assert Reply(221, "2.0.0", "Bye").closes
    assert Reply(421, "4.3.2", "Busy").closes
    assert not Reply(250, "2.0.0", "OK").closes


def test_a_command_error_carries_its_reply() -> None:
    reply = Reply(503, "5.5.1", "Send MAIL first")
    assert CommandError(reply).reply is reply
    assert str(CommandError(reply)) == "503 5.5.1 Send MAIL first"
