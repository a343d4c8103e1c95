from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from fhir_bridge.headers import (
    decode_charset,
    decode_words,
    mailboxes,
    message_ids,
    parameters,
    parse_date,
    unfold,
)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        pytest.param("plain", "plain", id="plain"),
        pytest.param("=?utf-8?q?caf=C3=A9?=", "café", id="q"),
        pytest.param("=?utf-8?B?w6k=?=", "é", id="b"),
        pytest.param("=?UTF-8*fr?Q?=C3=A9_t?=", "é t", id="language-and-underscore"),
        pytest.param("a =?utf-8?q?b?=  =?utf-8?q?c?= d", "a bc d", id="space-between-words"),
        pytest.param("=?utf-8?q?=C3?= =?utf-8?q?=A9?=", "é", id="split-character"),
        pytest.param("=?iso-8859-1?q?=E9?==?utf-8?q?=C3=A9?=", "éé", id="two-charsets"),
        pytest.param("=?x-none?q?a?=", "a", id="unknown-charset"),
        pytest.param("=?utf-8?b?!!!?=", "", id="no-base64"),
        pytest.param("=?hex?q?61?=", "61", id="a-codec-that-is-no-charset"),
    ],
)
def test_encoded_words_are_decoded(written: str, read: str) -> None:
    assert decode_words(written) == read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        pytest.param("a@x.org", [("", "a@x.org")], id="bare"),
        pytest.param('"Wells, A" <a@x.org>', [("Wells, A", "a@x.org")], id="quoted-comma"),
        pytest.param("A (note (nested)) <a@x.org>", [("A", "a@x.org")], id="comment"),
        pytest.param("Team: a@x.org, b@x.org;", [("", "a@x.org"), ("", "b@x.org")], id="group"),
        pytest.param("Undisclosed:;", [], id="empty-group"),
        pytest.param("<@r.org,@s.org:a@x.org>", [("", "a@x.org")], id="route"),
        pytest.param("=?utf-8?q?J=C3=B6?= <j@x.org>", [("Jö", "j@x.org")], id="encoded"),
        pytest.param('"a b"@x.org', [("", '"a b"@x.org')], id="quoted-local-part"),
        pytest.param(r'"a\"b" <a@x.org>', [('a"b', "a@x.org")], id="quoted-pair"),
        pytest.param("nobody, a@x.org", [("", "a@x.org")], id="not-an-address"),
        pytest.param("<<a@x.org>>, b@x.org", [("", "b@x.org")], id="stray-brackets"),
    ],
)
def test_address_lists_are_read(written: str, read: list[tuple[str, str]]) -> None:
    assert [(m.name, str(m.address)) for m in mailboxes(written)] == read


def test_at_most_a_thousand_mailboxes_are_read() -> None:
    assert len(mailboxes("a@x.org," * 1500)) == 1000


@pytest.mark.parametrize(
    ("written", "value", "given"),
    [
        pytest.param("Text/Plain", "text/plain", {}, id="none"),
        pytest.param('a/b; X="1;2"; y=z', "a/b", {"x": "1;2", "y": "z"}, id="quoted"),
        pytest.param("a; f*=utf-8'en'%e2%82%ac%20x", "a", {"f": "€ x"}, id="charset-and-language"),
        pytest.param(
            "a; f*1=b.pdf; f*0*=utf-8''%C3%A9", "a", {"f": "éb.pdf"}, id="sections-out-of-order"
        ),
        pytest.param("a; f=\"x\"; f*=utf-8''y", "a", {"f": "y"}, id="extended-wins-over-plain"),
        pytest.param('a; f="=?utf-8?q?=C3=A9?="', "a", {"f": "é"}, id="encoded-word"),
        pytest.param("a; f=1; f=2", "a", {"f": "1"}, id="twice"),
        pytest.param("a; f*0=x; f*1=y", "a", {"f": "xy"}, id="plain-sections"),
        pytest.param("a; f*=no-quotes", "a", {"f": "no-quotes"}, id="extended-without-charset"),
    ],
)
def test_parameters_are_read(written: str, value: str, given: dict[str, str]) -> None:
    assert parameters(written) == (value, given)


def test_at_most_a_hundred_parameters_are_read() -> None:
    assert len(parameters("a" + "".join(f"; p{n}=1" for n in range(200)))[1]) == 100


def test_message_ids_keep_their_angle_brackets() -> None:
    assert message_ids("<a@x> junk <b@y>\t<c d>") == ("<a@x>", "<b@y>")


def test_a_date_keeps_its_offset() -> None:
    moment = parse_date("Fri, 02 Jan 2026 09:30:00 -0500")
    assert moment == datetime(2026, 1, 2, 9, 30, tzinfo=timezone(timedelta(hours=-5)))
    assert moment is not None
    assert moment.utcoffset() == timedelta(hours=-5)


def test_an_unknown_offset_is_utc() -> None:
    assert parse_date("Fri, 02 Jan 2026 09:30:00 -0000") == datetime(2026, 1, 2, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "Fri, 99 Jan 2026 09:30:00 +0000"])
def test_what_is_no_date_is_none(text: str) -> None:
    assert parse_date(text) is None


def test_a_folded_value_is_one_line() -> None:
    assert unfold(b" a\r\n b\r\n\tc\r\n") == "a b\tc"
    assert unfold(b"\xe9") == "é"


def test_a_wrong_charset_is_told() -> None:
    assert decode_charset(b"a\xff", "utf-8") == ("a�", False)
    assert decode_charset(b"a", "no-such") == ("a", False)
    assert decode_charset(b"a", "rot13") == ("a", False)
    assert decode_charset(b"a" * 1_000_000, "punycode")[1] is False
