"""Facts of a header, and submissions made canonical."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta, timezone
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from certs.address import parse_address
from certs.errors import DirectError, Reason
from gateway.header import parse_header
from gateway.message import Facts, facts_from, facts_of, outer_header, prepare
from tests.helpers.pki import NOW
from tests.helpers.sealed import MESSAGE

BASE = b"From: alice@a.example\r\nTo: bob@b.example\r\n"
NEW_ID = "<new@a.example>"


def facts(header: bytes) -> Facts:
    return facts_of(io.BytesIO(header + b"\r\nbody"))


def prepared(message: bytes) -> bytes:
    out = io.BytesIO()
    prepare(io.BytesIO(message), out, message_id=NEW_ID, date=NOW)
    return out.getvalue()


def parsed(message: bytes) -> EmailMessage:
    made = message_from_bytes(message, policy=policy.default)
    assert isinstance(made, EmailMessage)
    return made


def addresses(*texts: str) -> tuple[object, ...]:
    return tuple(parse_address(text) for text in texts)


def refusal(header: bytes) -> str:
    with pytest.raises(DirectError) as caught:
        facts(header)
    assert caught.value.reason is Reason.MESSAGE_MALFORMED
    return caught.value.detail


def test_facts_are_what_the_header_says() -> None:
    found = facts(
        b'From: "Dr. Alice, MD" <Alice@A.example>\r\n'
        b"Sender: office@a.example\r\n"
        b"To: bob@b.example, Carol\r\n\t<carol@c.example>\r\n"
        b"Cc: dave@d.example\r\n"
        b"Subject: =?utf-8?q?R=C3=A9f=C3=A9ral?=\r\n"
        b"Message-ID: <1@a.example>\r\n"
        b"Date: Fri, 02 Jan 2026 13:00:00 +0100\r\n"
        b"In-Reply-To: <0@b.example>\r\n"
        b"References: <a@b.example>\r\n <0@b.example>\r\n"
        b"Disposition-Notification-To: alice@a.example\r\n"
        b"Disposition-Notification-Options: X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true\r\n"
        b"Content-Type: multipart/report; report-type=Disposition-Notification; boundary=x\r\n"
    )
    assert str(found.author) == "Alice@a.example"
    assert found.sender == parse_address("office@a.example")
    assert found.to == addresses("bob@b.example", "carol@c.example")
    assert found.cc == addresses("dave@d.example")
    assert found.subject == "Référal"
    assert found.message_id == "<1@a.example>"
    assert found.date == NOW
    assert found.in_reply_to == "<0@b.example>"
    assert found.references == ("<a@b.example>", "<0@b.example>")
    assert found.notification_to == addresses("alice@a.example")
    assert found.notification_options == "X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true"
    assert found.report_type == "disposition-notification"


def test_absent_fields_are_nothing() -> None:
    found = facts(b"From: alice@a.example\r\n")
    assert found == Facts(
        author=found.author,
        sender=None,
        to=(),
        cc=(),
        subject="",
        message_id=None,
        date=None,
        in_reply_to=None,
        references=(),
        notification_to=(),
        notification_options=None,
        report_type=None,
    )


def test_a_message_may_be_all_header() -> None:
    assert facts_of(io.BytesIO(b"From: alice@a.example")).author.local_part == "alice"


def test_only_a_report_has_a_report_type() -> None:
    header = BASE + b"Content-Type: multipart/mixed; report-type=delivery-status; boundary=x\r\n"
    assert facts(header).report_type is None


@pytest.mark.parametrize("date", [b"tomorrow", b"Fri, 99 Foo 2026", b"", b"1" * 300])
def test_a_date_that_does_not_parse_is_none(date: bytes) -> None:
    assert facts(BASE + b"Date: " + date + b"\r\n").date is None


def test_an_unknown_zone_is_utc() -> None:
    date = facts(BASE + b"Date: Fri, 02 Jan 2026 12:00:00 -0000\r\n").date
    assert date == NOW
    assert date is not None
    assert date.utcoffset() == timedelta(0)


def test_an_undecodable_subject_stays_as_it_is() -> None:
    assert facts(BASE + b"Subject: =?klingon?q?x?=\r\n").subject == "=?klingon?q?x?="


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bob@b.example", ["bob@b.example"]),
        ("Bob <bob@b.example>", ["bob@b.example"]),
        ('"<eve@e.example>" <bob@b.example>', ["bob@b.example"]),
        ("eve@e.example (really) <bob@b.example>", ["bob@b.example"]),
        ("bob@b.example (a (nested \\) comment))", ["bob@b.example"]),
        ("bob @ b.example", ["bob@b.example"]),
        ('"b ob"@b.example', ['"b ob"@b.example']),
        ("undisclosed-recipients:;", []),
        ("staff: bob@b.example, Al <al@a.example>;", ["bob@b.example", "al@a.example"]),
        (", bob@b.example,,", ["bob@b.example"]),
        ("<bob@b.example>", ["bob@b.example"]),
    ],
)
def test_address_lists(value: str, expected: list[str]) -> None:
    assert list(map(str, facts(b"From: a@a.example\r\nTo: " + value.encode() + b"\r\n").to)) == (
        expected
    )


@pytest.mark.parametrize(
    "value",
    [
        "bob",
        "<bob@b.example",
        "bob@b.example>",
        "bob@b.example eve@e.example",
        "<bob@b.example> eve@e.example",
        "<bob@b.example> <eve@e.example>",
        "staff: bob@b.example",
        "a: b: bob@b.example;;",
        "(comment bob@b.example",
        "bob@b.example)",
        '"bob@b.example',
        "bob@[192.0.2.1]",
        "<@relay.example:bob@b.example>",
        "(" * 20 + ")" * 20 + "bob@b.example",
        "bob@b.example; eve@e.example",
    ],
)
def test_no_address_list(value: str) -> None:
    refusal(b"From: a@a.example\r\nTo: " + value.encode() + b"\r\n")


@pytest.mark.parametrize(
    "name",
    ["From", "Sender", "To", "Cc", "Subject", "Message-ID", "Date", "In-Reply-To", "References",
     "Reply-To", "Content-Type", "Disposition-Notification-To",
     "Disposition-Notification-Options", "MIME-Version", "Content-Transfer-Encoding"],
)  # fmt: skip
def test_a_doubled_field_is_refused(name: str) -> None:
    value = "text/plain" if name == "Content-Type" else "a@a.example"
    field = f"{name}: {value}\r\n{name.upper()} : {value}\r\n".encode()
    header = field if name == "From" else b"From: a@a.example\r\n" + field
    assert "several" in refusal(header)


def test_two_authors_are_refused() -> None:
    assert "one author" in refusal(b"From: a@a.example, b@b.example\r\nSender: b@b.example\r\n")
    assert "one author" in refusal(b"To: a@a.example\r\n")


SEVERAL = b"From: a@a.example, b@b.example, c@b.example\r\n"


@pytest.mark.parametrize(
    ("vouched", "author"),
    [("b.example", "b@b.example"), ("a.example", "a@a.example"), ("d.example", "a@a.example")],
)
def test_of_several_authors_the_first_who_is_vouched_for_counts(vouched: str, author: str) -> None:
    fields = parse_header(SEVERAL + b"Sender: x@b.example\r\n")
    found = facts_from(fields, lambda address: address.domain == vouched)
    assert str(found.author) == author


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(SEVERAL, id="no-sender"),  # RFC5322 3.6.2
        pytest.param(
            b"From: " + b", ".join([b"a@a.example"] * 21) + b"\r\nSender: b@b.example\r\n",
            id="many",
        ),
    ],
)
def test_several_authors_have_a_sender_and_a_bound(header: bytes) -> None:
    with pytest.raises(DirectError) as caught:
        facts_from(parse_header(header), lambda _: True)
    assert caught.value.reason is Reason.MESSAGE_MALFORMED


def test_two_senders_are_refused() -> None:
    assert "one sender" in refusal(BASE + b"Sender: a@a.example, b@b.example\r\n")


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"From: a@a.example\rBcc: x\r\n", id="carriage-return"),
        pytest.param(b"From: a@a.example\0\r\n", id="nul"),
        pytest.param(b"From a@a.example\r\n", id="no-colon"),
        pytest.param(b" folded: first\r\n", id="folded-first"),
        pytest.param(b"From: a@a.example\r\n" + b"X: y\r\n" * 1001, id="too-many"),
        pytest.param(b"From: a@a.example\r\nX: " + b"y" * 70_000 + b"\r\n", id="too-long"),
    ],
)
def test_no_header(header: bytes) -> None:
    refusal(header)


def test_a_canonical_message_is_only_completed() -> None:
    body = b"Content-Type: text/plain\r\n\r\nHello.\r\n\r\n..\r\n"
    assert prepared(BASE + body) == (
        BASE + b"Content-Type: text/plain\r\n"
        b"Date: Fri, 02 Jan 2026 12:00:00 +0000\r\n"
        b"Message-ID: <new@a.example>\r\n"
        b"MIME-Version: 1.0\r\n\r\nHello.\r\n\r\n..\r\n"
    )


def test_a_complete_message_stays_as_it_is() -> None:
    assert prepared(MESSAGE) == MESSAGE


def test_prepare_tells_the_facts_of_what_it_wrote() -> None:
    out = io.BytesIO()
    told = prepare(
        io.BytesIO(BASE + b"\r\n"), out,
        message_id=NEW_ID, date=NOW.astimezone(timezone(timedelta(hours=-5))),
    )  # fmt: skip
    assert told == facts_of(out)
    assert told.message_id == NEW_ID
    assert told.date == NOW


def test_blind_copies_and_return_path_go() -> None:
    message = (
        b"Return-Path: <x@x.example>\r\n"
        + BASE
        + (b"Bcc: eve@e.example,\r\n mallory@m.example\r\nResent-Bcc: q@q.example\r\n\r\nx\r\n")
    )
    out = prepared(message)
    assert b"eve" not in out
    assert b"mallory" not in out
    assert b"q@q" not in out
    assert b"Return-Path" not in out


def test_raw_utf8_in_the_header_is_refused() -> None:
    with pytest.raises(DirectError, match="not ASCII"):
        prepared("From: a@a.example\r\nSubject: é\r\n\r\n".encode())


def test_line_feeds_become_canonical() -> None:
    out = prepared(MESSAGE.replace(b"\r\n", b"\n"))
    assert out.partition(b"\r\n\r\n")[2] == MESSAGE.partition(b"\r\n\r\n")[2]
    assert out.count(b"\n") == out.count(b"\r\n")


def leaf(content_type: bytes, encoding: bytes, body: bytes) -> bytes:
    return prepared(
        BASE + b"MIME-Version: 1.0\r\nContent-Type: " + content_type + b"\r\n"
        b"Content-Transfer-Encoding: " + encoding + b"\r\n\r\n" + body
    )


@pytest.mark.parametrize(
    ("content_type", "encoding", "body", "expected"),
    [
        (b"text/plain; charset=utf-8", b"8bit", "é\r\nè\r\n".encode(), "quoted-printable"),
        (b"text/plain", b"7bit", b"x" * 2000 + b"\r\n", "quoted-printable"),
        (b"text/plain", b"binary", b"a\0b\r\n", "base64"),
        (b"text/plain", b"7bit", b"a\rb\r\n", "base64"),
        (b"application/xml", b"8bit", "<é/>\n".encode(), "base64"),
        (b"application/pdf", b"binary", bytes(range(256)) * 20, "base64"),
        (b"image/png", b"base64", b"aGVsbG8h" * 300 + b"\r\n", "base64"),
        (b"text/plain", b"quoted-printable", b"=C3=A9" * 300 + b"\n", "quoted-printable"),
    ],
)
def test_only_what_offends_is_encoded_anew(
    content_type: bytes, encoding: bytes, body: bytes, expected: str
) -> None:
    out = leaf(content_type, encoding, body)
    assert is_canonical(out)
    made = parsed(out)
    assert made["content-transfer-encoding"] == expected
    before = parsed(BASE + b"Content-Transfer-Encoding: " + encoding + b"\r\n\r\n" + body)
    was, now = before.get_payload(decode=True), made.get_payload(decode=True)
    assert isinstance(was, bytes)
    assert isinstance(now, bytes)
    if expected == "quoted-printable":
        was, now = was.replace(b"\r\n", b"\n"), now.replace(b"\r\n", b"\n")
    assert now == was


def is_canonical(message: bytes) -> bool:
    lines = message.split(b"\r\n")
    return message.isascii() and all(
        len(line) <= 998 and b"\r" not in line and b"\n" not in line and b"\0" not in line
        for line in lines
    )


MIXED = (
    BASE + b"MIME-Version: 1.0\r\n"
    b"Content-Type: multipart/mixed; boundary=outer\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\n"
    b"preamble\r\n"
    b"--outer\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\n"
    b"caf\xc3\xa9\r\n"
    b"--outer\r\n"
    b"Content-Type: application/pdf\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n"
    b"aGVsbG8=\r\n"
    b"--outer\r\n"
    b"Content-Type: multipart/alternative; boundary=outerinner\r\n\r\n"
    b"--outerinner\r\n\r\n"
    b"plain\r\n"
    b"--outerinner\r\n"
    b"Content-Type: message/rfc822\r\n\r\n"
    b"Subject: forwarded\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    b"na\xc3\xafve\r\n"
    b"--outerinner--\r\n"
    b"--outer--\r\n"
    b"epilogue\r\n"
)


def test_parts_are_encoded_one_by_one() -> None:
    out = prepared(MIXED)
    assert is_canonical(out)
    payloads = [p.get_payload(decode=True) for p in parsed(out).walk() if not p.is_multipart()]
    assert payloads == ["café".encode(), b"hello", b"plain", "naïve".encode()]
    assert b"aGVsbG8=\r\n--outer\r\n" in out
    assert b"8bit" not in out
    assert out.startswith(BASE)
    assert b"\r\npreamble\r\n--outer\r\n" in out
    assert out.endswith(b"--outer--\r\nepilogue\r\n")


def test_what_another_signature_covers_is_left_alone() -> None:
    inner = b"--s\r\n\r\ncaf\xc3\xa9\n\r\n--s--\r\n"
    out = prepared(BASE + b"Content-Type: multipart/signed; boundary=s\r\n\r\n" + inner)
    assert b"caf\xc3\xa9" in out


def test_an_unclosed_multipart_ends_with_its_container() -> None:
    message = MIXED.replace(b"--outerinner--\r\n", b"")
    payloads = [
        p.get_payload(decode=True) for p in parsed(prepared(message)).walk() if not p.is_multipart()
    ]
    assert payloads[-1] == "naïve".encode()


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(
            BASE
            + b"".join(
                b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n)
                for n in range(30)
            )
            + b"\r\n\xff\r\n",
            id="nested-too-deep",
        ),
        pytest.param(
            BASE + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
            + b"--b\r\n\r\n\xff\r\n" * 1001 + b"--b--\r\n",
            id="too-many-parts",
        ),
        pytest.param(
            BASE + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
            b"--b\r\nContent-Type: text/plain; name=\xff\r\n\r\n--b--\r\n",
            id="raw-octets-in-a-part's-header",
        ),
        pytest.param(
            BASE + b"Content-Transfer-Encoding: rot13\r\n\r\n\xff\r\n", id="unknown-encoding"
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_made_canonical_is_refused(message: bytes) -> None:
    with pytest.raises(DirectError) as caught:
        prepared(message)
    assert caught.value.reason is Reason.MESSAGE_MALFORMED


def test_outside_goes_only_what_routing_needs() -> None:
    header = (
        b"Received: from x by y\r\n" + BASE + b"Cc: c@c.example\r\nSubject: secret\r\n"
        b"X-Patient: secret\r\nMessage-ID: <1@a.example>\r\n"
        b"Date: Fri,\r\n 02 Jan 2026 12:00:00 +0000\r\nIn-Reply-To: <0@b.example>\r\n"
        b"References: <0@b.example>\r\nReply-To: r@a.example\r\nContent-Type: text/plain\r\n"
    )
    assert outer_header(facts(header), header) == (
        b"MIME-Version: 1.0\r\n" + BASE + b"Cc: c@c.example\r\nMessage-ID: <1@a.example>\r\n"
        b"Date: Fri,\r\n 02 Jan 2026 12:00:00 +0000\r\nIn-Reply-To: <0@b.example>\r\n"
        b"References: <0@b.example>\r\n"
    )


def test_the_date_of_a_fact_is_aware() -> None:
    found = facts(MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n").date
    assert found == datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
