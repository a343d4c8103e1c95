from __future__ import annotations

import pytest

from certs.address import parse_address
from certs.errors import DirectError, Reason
from gateway.notify import Notify, Wish
from gateway.smtp_commands import Mail, Rcpt, parse_command, parse_mail, parse_rcpt
from gateway.status import CommandError

ANNA = parse_address("anna@a.example")


@pytest.mark.parametrize(
    ("line", "verb", "argument"),
    [
        (b"QUIT", "QUIT", ""),
        (b"quit ", "QUIT", ""),
        (b"Mail FROM:<a@b.example>", "MAIL", "FROM:<a@b.example>"),
        (b"NOOP  two  words ", "NOOP", "two  words"),
        (b"", "", ""),
    ],
)
def test_a_command_line_is_a_verb_and_an_argument(line: bytes, verb: str, argument: str) -> None:
    assert parse_command(line) == (verb, argument)


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        pytest.param(b"NOOP \x00", "500 5.5.2", id="nul"),
        pytest.param(b"NO\tOP", "500 5.5.2", id="tab"),
        pytest.param(b"NOOP \x7f", "500 5.5.2", id="delete"),
        pytest.param("NOOP ü".encode(), "500 5.5.2", id="not-ascii"),
        pytest.param("MAIL FROM:<ü@b.example>".encode(), "553 5.6.7", id="mail-not-ascii"),
        pytest.param("RCPT TO:<a@bü.example>".encode(), "553 5.6.7", id="rcpt-not-ascii"),
    ],
)
def test_refuses_other_octets_in_a_command(line: bytes, reply: str) -> None:
    with pytest.raises(CommandError, match=reply):
        parse_command(line)


@pytest.mark.parametrize(
    ("argument", "mail"),
    [
        ("FROM:<anna@a.example>", Mail(ANNA)),
        ("from:<anna@a.example>", Mail(ANNA)),
        ("FROM: <anna@a.example>", Mail(ANNA)),
        ("FROM:<>", Mail(None)),
        ("FROM:<@relay.example,@b.example:anna@a.example>", Mail(ANNA)),
        ("FROM:<anna@a.example> SIZE=1000", Mail(ANNA, size=1000)),
        ("FROM:<anna@a.example> size=0 Body=8BitMime", Mail(ANNA, size=0)),
        ("FROM:<anna@a.example> BODY=7BIT AUTH=<>", Mail(ANNA)),
        ("FROM:<anna@a.example> RET=HDRS ENVID=QQ+2B1", Mail(ANNA, envelope_id="QQ+1")),
    ],
)
def test_mail(argument: str, mail: Mail) -> None:
    assert parse_mail(argument, dsn=True) == mail


def test_a_quoted_local_part_may_hold_angle_brackets_and_spaces() -> None:
    mail = parse_mail('FROM:<"a > b@c"@a.example> SIZE=1', dsn=False)
    assert mail.sender is not None
    assert mail.sender.local_part == '"a > b@c"'
    assert mail.size == 1


def test_the_case_of_a_local_part_is_kept() -> None:
    assert str(parse_rcpt("TO:<DrJones@B.Example>", dsn=False).recipient) == "DrJones@b.example"


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        pytest.param("", "501 5.5.4", id="nothing"),
        pytest.param("FROM", "501 5.5.4", id="no-colon"),
        pytest.param("TO:<anna@a.example>", "501 5.5.4", id="wrong-word"),
        pytest.param("FROM:anna@a.example", "501 5.5.4", id="no-brackets"),
        pytest.param("FROM:<anna@a.example", "501 5.5.4", id="open-bracket"),
        pytest.param("FROM:<anna@a.example>x", "501 5.5.4", id="no-space"),
        pytest.param("FROM:<<anna@a.example>>", "501 5.5.4", id="nested"),
        pytest.param('FROM:<"anna@a.example>', "501 5.5.4", id="open-quote"),
        pytest.param("FROM:<anna@a.example> SIZE", "501 5.5.4", id="size-without-value"),
        pytest.param("FROM:<anna@a.example> SIZE=-1", "501 5.5.4", id="size-negative"),
        pytest.param("FROM:<anna@a.example> SIZE=" + "9" * 21, "501 5.5.4", id="size-digits"),
        pytest.param("FROM:<anna@a.example> SIZE=1 SIZE=2", "501 5.5.4", id="repeated"),
        pytest.param("FROM:<anna@a.example> BODY=BINARYMIME", "501 5.5.4", id="binarymime"),
        pytest.param("FROM:<anna@a.example> =", "501 5.5.4", id="no-keyword"),
        pytest.param("FROM:<anna@a.example> RET=ALL", "501 5.5.4", id="ret"),
        pytest.param("FROM:<anna@a.example> ENVID=a+0", "501 5.5.4", id="xtext"),
        pytest.param("FROM:<anna@a.example> ENVID=a+0D", "501 5.5.4", id="xtext-control"),
        pytest.param("FROM:<anna@a.example> ENVID=" + "a" * 101, "501 5.5.4", id="envid-long"),
        pytest.param("FROM:<anna@a.example> SMTPUTF8", "555 5.6.7", id="smtputf8"),
        pytest.param("FROM:<anna@a.example> HOLDFOR=1", "555 5.5.4", id="unknown"),
    ],
)
def test_mail_is_strict(argument: str, reply: str) -> None:
    with pytest.raises(CommandError, match=reply):
        parse_mail(argument, dsn=True)


@pytest.mark.parametrize(
    "address", ["anna", "anna@localhost", "anna@[127.0.0.1]", "@a.example", "a..b@a.example"]
)
def test_only_direct_addresses(address: str) -> None:
    with pytest.raises(DirectError) as caught:
        parse_mail(f"FROM:<{address}>", dsn=False)
    assert caught.value.reason is Reason.ADDRESS_MALFORMED
    with pytest.raises(DirectError):
        parse_rcpt(f"TO:<{address}>", dsn=False)


def test_there_is_no_null_recipient() -> None:
    with pytest.raises(DirectError):
        parse_rcpt("TO:<>", dsn=False)


@pytest.mark.parametrize(
    ("words", "notify"),
    [
        ("", {Notify.FAILURE}),
        (" NOTIFY=NEVER", {Notify.NEVER}),
        (" notify=success,failure", {Notify.SUCCESS, Notify.FAILURE}),
        (" NOTIFY=DELAY", {Notify.DELAY}),
    ],
)
def test_rcpt(words: str, notify: set[Notify]) -> None:
    rcpt = parse_rcpt(f"TO:<anna@a.example>{words}", dsn=True)
    assert rcpt == Rcpt(ANNA, Wish(frozenset(notify)))


def test_the_original_recipient_is_decoded() -> None:
    rcpt = parse_rcpt("TO:<anna@a.example> ORCPT=rfc822;an+2Bna+3Dx@a.example", dsn=True)
    assert rcpt == Rcpt(ANNA, Wish(original="rfc822;an+na=x@a.example"))


@pytest.mark.parametrize(
    ("words", "reply"),
    [
        pytest.param("NOTIFY=", "501 5.5.4", id="notify-empty"),
        pytest.param("NOTIFY=SOMETIMES", "501 5.5.4", id="notify-unknown"),
        pytest.param("NOTIFY=NEVER,FAILURE", "501 5.5.4", id="never-and-more"),
        pytest.param("ORCPT=anna", "501 5.5.4", id="orcpt-without-type"),
        pytest.param("ORCPT=rfc822;", "501 5.5.4", id="orcpt-without-address"),
        pytest.param("ORCPT=;anna@a.example", "501 5.5.4", id="orcpt-empty-type"),
        pytest.param("ORCPT=rfc822;anna+0D+0AX:1", "501 5.5.4", id="orcpt-line-end"),
        pytest.param("ORCPT=rfc(822;anna@a.example", "501 5.5.4", id="orcpt-type-no-atom"),
        pytest.param("ORCPT=rfc822;anna+e4", "501 5.5.4", id="orcpt-no-xtext"),
        pytest.param("ORCPT=rfc822;" + "a" * 494, "501 5.5.4", id="orcpt-long"),
        pytest.param("SMTPUTF8", "555 5.6.7", id="smtputf8"),
        pytest.param("SIZE=1", "555 5.5.4", id="mail-parameter"),
    ],
)
def test_rcpt_is_strict(words: str, reply: str) -> None:
    with pytest.raises(CommandError, match=reply):
        parse_rcpt(f"TO:<anna@a.example> {words}", dsn=True)


@pytest.mark.parametrize("word", ["RET=HDRS", "ENVID=1"])
def test_dsn_parameters_are_unknown_where_dsn_was_not_offered(word: str) -> None:
    with pytest.raises(CommandError, match=r"555 5\.5\.4"):
        parse_mail(f"FROM:<anna@a.example> {word}", dsn=False)
    with pytest.raises(CommandError, match=r"555 5\.5\.4"):
        parse_rcpt("TO:<anna@a.example> NOTIFY=NEVER", dsn=False)
