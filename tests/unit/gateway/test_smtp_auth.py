from __future__ import annotations

from base64 import b64encode

import pytest

from gateway.smtp_auth import Credentials, exchange
from gateway.status import CommandError

EHR = Credentials("ehr", "secret")


def b64(text: str) -> str:
    return b64encode(text.encode()).decode()


def play(argument: str, *lines: str) -> tuple[list[str], Credentials]:
    """Return the challenges of an exchange and its outcome."""
    steps, challenges = exchange(argument), []
    try:
        challenges.append(next(steps))
        for line in lines:
            challenges.append(steps.send(line.encode()))
    except StopIteration as end:
        return challenges, end.value
    raise AssertionError("the exchange waits for more")


@pytest.mark.parametrize(
    ("argument", "lines", "challenges"),
    [
        pytest.param(f"PLAIN {b64(chr(0) + 'ehr' + chr(0) + 'secret')}", [], [], id="at-once"),
        pytest.param("plain", [b64("\0ehr\0secret")], [""], id="two-steps"),
        pytest.param(f"PLAIN {b64('ehr' + chr(0) + 'ehr' + chr(0) + 'secret')}", [], [], id="self"),
        pytest.param(
            "LOGIN", [b64("ehr"), b64("secret")], ["VXNlcm5hbWU6", "UGFzc3dvcmQ6"], id="login"
        ),
        pytest.param(f"LOGIN {b64('ehr')}", [b64("secret")], ["UGFzc3dvcmQ6"], id="login-user"),
    ],
)
def test_who_the_client_claims_to_be(
    argument: str, lines: list[str], challenges: list[str]
) -> None:
    assert play(argument, *lines) == (challenges, EHR)


@pytest.mark.parametrize(
    ("argument", "lines", "reply"),
    [
        pytest.param("", [], "504 5.5.4", id="no-mechanism"),
        pytest.param("GSSAPI", [], "504 5.5.4", id="unknown-mechanism"),
        pytest.param("PLAIN", ["*"], "501 5.7.0", id="cancelled"),
        pytest.param("LOGIN", [b64("ehr"), "*"], "501 5.7.0", id="login-cancelled"),
        pytest.param("PLAIN", ["a"], "501 5.5.2", id="not-base64"),
        pytest.param("PLAIN", ["YQ==\x00"], "501 5.5.2", id="more-than-base64"),
        pytest.param("PLAIN =", [], "501 5.5.2", id="empty"),
        pytest.param("PLAIN", [b64("ehr\0secret")], "501 5.5.2", id="two-fields"),
        pytest.param("PLAIN", [b64("\0e\0h\0r")], "501 5.5.2", id="four-fields"),
        pytest.param("PLAIN", ["AP8A/w=="], "501 5.5.2", id="not-utf-8"),
        pytest.param("LOGIN", [b64("e\0hr")], "501 5.5.2", id="nul-in-user"),
        pytest.param("PLAIN", [b64("root\0ehr\0secret")], "535 5.7.8", id="acting-as-another"),
    ],
)
def test_what_is_refused(argument: str, lines: list[str], reply: str) -> None:
    with pytest.raises(CommandError, match=reply):
        play(argument, *lines)


def test_a_password_is_in_no_representation() -> None:
    assert "secret" not in repr(EHR)
