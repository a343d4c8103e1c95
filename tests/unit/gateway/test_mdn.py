from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from io import BytesIO

import pytest

from certs.address import parse_address
from certs.errors import DirectError, Reason
from gateway.mdn import Disposition, build, parse, wants_dispatched
from gateway.message import Facts, facts_of
from tests.helpers.pki import NOW

ANNA = parse_address("anna@direct.a.example")
JONES = parse_address("DrJones@direct.b.example")
FIELD = "X-DIRECT-FINAL-DESTINATION-DELIVERY"


def original(**fields: str) -> Facts:
    header = {"From": str(ANNA), "To": str(JONES), "Message_ID": "<1@a.example>", **fields}
    lines = (f"{name.replace('_', '-')}: {value}\r\n" for name, value in header.items() if value)
    return facts_of(BytesIO("".join(lines).encode() + b"\r\n"))


def built(
    disposition: Disposition = Disposition.PROCESSED,
    *,
    facts: Facts | None = None,
    final_destination: bool = False,
    text: str | None = None,
) -> bytes:
    return build(
        disposition=disposition,
        original=facts or original(),
        recipient=JONES,
        message_id="<2@b.example>",
        boundary="=_b",
        now=NOW,
        reporting_ua="mx.b.example; direct-gateway",
        final_destination=final_destination,
        text=text,
    )


def read(message: bytes) -> EmailMessage:
    parsed = message_from_bytes(message, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    assert not parsed.defects
    return parsed


def machine_part(message: bytes) -> str:
    _, machine = read(message).iter_parts()
    assert machine.get_content_type() == "message/disposition-notification"
    return message.decode().split("disposition-notification\r\n\r\n")[1].split("\r\n--=_b--")[0]


def test_the_header_of_a_notice() -> None:
    notice = read(built())
    assert notice["From"] == "DrJones@direct.b.example"
    assert notice["To"] == "anna@direct.a.example"
    assert notice["Message-ID"] == "<2@b.example>"
    assert notice["Date"] == "Fri, 02 Jan 2026 12:00:00 +0000"
    assert notice["MIME-Version"] == "1.0"
    assert notice["In-Reply-To"] == notice["References"] == "<1@a.example>"
    assert notice["Auto-Submitted"] == "auto-replied"
    assert notice.get_content_type() == "multipart/report"
    assert notice.get_param("report-type") == "disposition-notification"
    # AS-092: a notice asks for no notice.
    assert "Disposition-Notification-To" not in notice


def test_the_text_comes_first_and_names_recipient_and_message() -> None:
    text, _ = read(built()).iter_parts()
    assert text.get_content_type() == "text/plain"
    assert "DrJones@direct.b.example" in text.get_content()
    assert "<1@a.example>" in text.get_content()


@pytest.mark.parametrize("disposition", Disposition)
def test_the_machine_part_is_exactly_this(disposition: Disposition) -> None:
    assert machine_part(built(disposition)) == (
        "Reporting-UA: mx.b.example; direct-gateway\r\n"
        "Final-Recipient: rfc822;DrJones@direct.b.example\r\n"
        "Original-Message-ID: <1@a.example>\r\n"
        f"Disposition: automatic-action/MDN-sent-automatically;{disposition.value}\r\n"
    )


def test_the_final_destination_field_is_a_field_of_the_machine_part_only() -> None:
    message = built(Disposition.DISPATCHED, final_destination=True)
    assert machine_part(message).endswith(f"\r\n{FIELD}:\r\n")
    assert message.count(FIELD.encode()) == 1
    assert FIELD not in read(message)


def test_without_a_message_id_there_is_none_to_name() -> None:
    message = built(facts=original(Message_ID=""))
    assert b"Original-Message-ID" not in message
    assert "References" not in read(message)


def test_the_text_may_be_given_and_is_one_line() -> None:
    text, _ = read(built(Disposition.FAILED, text="The mailbox is full.\r\nFrom: x")).iter_parts()
    assert text.get_content().splitlines()[0] == "The mailbox is full.  From: x"


@pytest.mark.parametrize(
    ("notification_to", "to"),
    [
        pytest.param("", "anna@direct.a.example", id="not-asked"),
        pytest.param("Anna@direct.a.example", "Anna@direct.a.example", id="author"),
        pytest.param("x@evil.example", "anna@direct.a.example", id="somebody-else"),
        pytest.param(
            "anna@direct.a.example, x@evil.example", "anna@direct.a.example", id="several"
        ),
    ],
)
def test_a_notice_goes_to_the_author_only(notification_to: str, to: str) -> None:
    facts = original(Disposition_Notification_To=notification_to)
    assert read(built(facts=facts))["To"] == to


def test_every_line_is_ascii_and_ends_in_crlf() -> None:
    message = built(Disposition.DISPATCHED, final_destination=True)
    assert message.isascii()
    assert message.count(b"\r\n") == message.count(b"\n") == message.count(b"\r")


# --- requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        f"{FIELD}=optional,true",
        f"{FIELD}=required,true",
        f"{FIELD.lower()}=OPTIONAL,TRUE",
        f" {FIELD} = optional , true ",
        f"other=optional,x; {FIELD}=optional,true",
        f"{FIELD}=optional,true;",
    ],
)
def test_recognises_a_request(options: str) -> None:
    assert wants_dispatched(options)


@pytest.mark.parametrize(
    "options",
    [
        None,
        "",
        FIELD,
        f"{FIELD}=",
        f"{FIELD}=true",
        f"{FIELD}=optional",
        f"{FIELD}=optional,false",
        f"{FIELD}=maybe,true",
        f"{FIELD}=optional,true,false",
        "X-XXXX-FINAL-X-DELXXXX=optioXXX,tXX",
        f"x{FIELD}=optional,true",
        f"other={FIELD}=optional,true",
    ],
)
def test_anything_like_a_request_is_none(options: str | None) -> None:
    assert not wants_dispatched(options)


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("disposition", Disposition)
@pytest.mark.parametrize("final_destination", [False, True])
def test_reads_what_it_builds(disposition: Disposition, *, final_destination: bool) -> None:
    mdn = parse(BytesIO(built(disposition, final_destination=final_destination)))
    assert mdn.disposition is disposition
    assert mdn.final_recipient == JONES
    assert mdn.original_message_id == "<1@a.example>"
    assert mdn.final_destination is final_destination


def foreign(
    fields: str,
    *,
    head: str = "MIME-Version: 1.0\r\n",
    kind: str = "message/disposition-notification",
) -> BytesIO:
    return BytesIO(
        (
            f"{head}Content-Type: multipart/report; report-type=disposition-notification;"
            ' boundary="x y"\r\n\r\npreamble\r\n--x y\r\n\r\nHello\r\n--x y  \r\n'
            f"Content-Type: {kind}\r\n\r\n{fields}\r\n--x y--\r\nepilogue\r\n"
        ).encode("latin-1")
    )


@pytest.mark.parametrize(
    ("value", "disposition"),
    [
        ("automatic-action/MDN-sent-automatically;processed", Disposition.PROCESSED),
        ("automatic-action/MDN-sent-automatically; processed", Disposition.PROCESSED),
        ("Automatic-Action / mdn-sent-automatically ; PROCESSED", Disposition.PROCESSED),
        ("automatic-action/MDN-sent-automatically;\r\n\tprocessed", Disposition.PROCESSED),
        ("automatic-action/MDN-sent-automatically;dispatched", Disposition.DISPATCHED),
        ("manual-action/MDN-sent-manually;displayed", Disposition.PROCESSED),
        ("manual-action/MDN-sent-manually;deleted", Disposition.PROCESSED),
        ("automatic-action/MDN-sent-automatically;failed", Disposition.FAILED),
        ("automatic-action/MDN-sent-automatically;failure", Disposition.FAILED),
        ("automatic-action/MDN-sent-automatically;denied", Disposition.FAILED),
        ("automatic-action/MDN-sent-automatically;error", Disposition.FAILED),
        ("automatic-action/MDN-sent-automatically;processed/error", Disposition.FAILED),
        ("automatic-action/MDN-sent-automatically;processed/x, y", Disposition.PROCESSED),
        ("processed", Disposition.PROCESSED),
        ("automatic-action/MDN-sent-automatically;unheard-of", None),
        ("automatic-action/MDN-sent-automatically;", None),
        ("", None),
        (";;;///,,,", None),
    ],
)
def test_reads_dispositions_as_peers_write_them(
    value: str, disposition: Disposition | None
) -> None:
    assert parse(foreign(f"Disposition: {value}\r\n")).disposition is disposition


def test_a_notice_without_a_disposition_says_nothing() -> None:
    mdn = parse(foreign("Final-Recipient: rfc822;a@b.example\r\n"))
    assert mdn.disposition is None
    assert mdn.final_recipient == parse_address("a@b.example")


def test_field_names_are_read_in_any_case_between_blank_lines_and_noise() -> None:
    mdn = parse(
        foreign(
            "\r\n\r\nFINAL-RECIPIENT : RFC822 ; <a@b.example>\r\n\r\nthis is no field\r\n\r\n"
            "original-message-id:\r\n <1@a.example>\r\n  \r\n"
            "disposition: a/b;processed\r\nX-Direct-Final-Destination-Delivery: \r\n"
        )
    )
    assert mdn.final_recipient == parse_address("a@b.example")
    assert mdn.original_message_id == "<1@a.example>"
    assert mdn.disposition is Disposition.PROCESSED
    assert mdn.final_destination


@pytest.mark.parametrize(
    "value",
    ["", "rfc822;", "rfc822;nobody", "utf-8;a@b.example", "rfc822;a@b.example, c@d.example"],
)
def test_a_recipient_that_does_not_parse_is_none(value: str) -> None:
    assert parse(foreign(f"Final-Recipient: {value}\r\n")).final_recipient is None


def test_of_a_repeated_field_the_first_counts() -> None:
    mdn = parse(foreign("Disposition: a/b;failed\r\nDisposition: a/b;processed\r\n"))
    assert mdn.disposition is Disposition.FAILED


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("base64", "RGlzcG9zaXRpb246IGEvYjtwcm9jZXNzZWQNCg==\r\n"),
        ("quoted-printable", "Disposition:=20a/b;proc=\r\nessed\r\n"),
    ],
)
def test_an_encoded_machine_part_is_read(encoding: str, content: str) -> None:
    kind = f"message/disposition-notification\r\nContent-Transfer-Encoding: {encoding}"
    assert parse(foreign(content, kind=kind)).disposition is Disposition.PROCESSED


def test_bare_line_feeds_are_read() -> None:
    message = foreign("Disposition: a/b;processed\r\n").getvalue().replace(b"\r\n", b"\n")
    assert parse(BytesIO(message)).disposition is Disposition.PROCESSED


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"From: a@b.example\r\n\r\nHello\r\n", id="no-multipart"),
        pytest.param(b"Content-Type: multipart/report\r\n\r\n\r\n", id="no-boundary"),
        pytest.param(foreign("", kind="text/plain").getvalue(), id="no-machine-part"),
        pytest.param(foreign("", kind="(").getvalue(), id="bad-part-header"),
        pytest.param(
            foreign(
                "AAA",
                kind="message/disposition-notification\r\nContent-Transfer-Encoding: base64",
            ).getvalue(),
            id="encoding-breaks-off",
        ),
    ],
)
def test_what_is_no_notice_is_malformed(message: bytes) -> None:
    with pytest.raises(DirectError) as caught:
        parse(BytesIO(message))
    assert caught.value.reason is Reason.MESSAGE_MALFORMED
