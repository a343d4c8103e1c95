from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from certs.address import parse_address
from certs.errors import DirectError
from gateway.smtp_auth import exchange
from gateway.smtp_commands import parse_command, parse_mail, parse_rcpt
from gateway.status import CommandError

# Lines made of what matters to the parser, and of anything.
WORDS = (
    'MAIL RCPT FROM TO : < > @ a b.example " \\ = , SIZE=1 BODY=8BITMIME NOTIFY=NEVER RET=FULL '
    "ORCPT=rfc822;a ENVID=+2B"
)
TOKENS = st.sampled_from([*WORDS.split(), " "])
TEXT = st.lists(TOKENS, max_size=15).map("".join) | st.text(max_size=80)
ATOM = st.text("abcXYZ019!#$%&'*+-/=?^_`{|}~", min_size=1, max_size=10)
LOCAL_PART = st.lists(ATOM, min_size=1, max_size=3).map(".".join) | st.text(
    "ab <>@.,;:()[]", max_size=10
).map('"{}"'.format)
LABEL = st.text("abc019", min_size=1, max_size=8)
DOMAIN = st.lists(LABEL, min_size=2, max_size=4).map(".".join)


def refusal_of(call: Callable[[], object]) -> int | None:
    """The code of the reply to a call that refuses; 0 for a reason of the gateway's."""
    try:
        call()
    except CommandError as error:
        return error.reply.code
    except DirectError:
        return 0
    return None


@given(TEXT.map(str.encode) | st.binary(max_size=80))
def test_a_line_is_a_command_or_refused(line: bytes) -> None:
    assert refusal_of(lambda: parse_command(line)) in (None, 500, 553)


@given(TEXT, st.booleans())
def test_an_argument_is_an_envelope_or_refused(text: str, dsn: bool) -> None:
    for argument in (text, f"FROM:{text}", f"FROM:<{text}>", f"FROM:<a@b.example> {text}"):
        assert refusal_of(partial(parse_mail, argument, dsn=dsn)) in (None, 0, 501, 555)
    for argument in (text, f"TO:{text}", f"TO:<{text}>", f"TO:<a@b.example> {text}"):
        assert refusal_of(partial(parse_rcpt, argument, dsn=dsn)) in (None, 0, 501, 555)


@given(LOCAL_PART, DOMAIN, st.integers(0, 10**19), st.booleans())
def test_every_address_is_read_as_it_was_written(
    local_part: str, domain: str, size: int, dsn: bool
) -> None:
    address = parse_address(f"{local_part}@{domain}")
    mail = parse_mail(f"FROM:<{address}> SIZE={size} BODY=8BITMIME", dsn=dsn)
    assert (str(mail.sender), mail.size) == (str(address), size)
    assert str(parse_rcpt(f"TO:<{address}>", dsn=dsn).recipient) == str(address)


@given(
    st.sampled_from(["PLAIN", "LOGIN", "plain ", "LOGIN =", "X"]) | TEXT,
    st.lists(st.binary(max_size=40), max_size=3),
)
def test_an_authentication_ends_in_credentials_or_a_refusal(
    argument: str, lines: list[bytes]
) -> None:
    def converse() -> None:
        steps = exchange(argument)
        with suppress(StopIteration):
            next(steps)
            for line in lines:
                steps.send(line)

    assert refusal_of(converse) in (None, 501, 504, 535)
