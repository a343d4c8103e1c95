from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from io import BytesIO

import pytest

from certs.address import parse_address
from certs.errors import DirectError, Reason
from gateway.dsn import Action, Dsn, DsnRecipient, Outcome, build, parse
from gateway.message import facts_of
from tests.helpers.pki import NOW

ANNA = parse_address("anna@direct.a.example")
JONES = parse_address("DrJones@direct.b.example")
SMITH = parse_address("drsmith@direct.c.example")
HEADER = (
    "From: anna@direct.a.example\r\nTo: DrJones@direct.b.example\r\n"
    "Message-ID: <1@a.example>\r\nSubject: x\r\n"
)
NO_TRUST = Outcome(JONES, "5.7.1", "No trust between the two parties")
REMOTE = Outcome(SMITH, "4.2.2", "452 4.2.2 Mailbox full", remote="mx.c.example")


def built(*outcomes: Outcome, header: str = HEADER, envelope_id: str | None = None) -> bytes:
    return build(
        original=facts_of(BytesIO(header.encode("latin-1") + b"\r\n")),
        original_header=header.encode("latin-1"),
        outcomes=outcomes or (NO_TRUST, REMOTE),
        reporting_mta="mx.a.example",
        postmaster=parse_address("postmaster@direct.a.example"),
        message_id="<2@a.example>",
        boundary="=_b",
        now=NOW,
        envelope_id=envelope_id,
    )


def read(message: bytes) -> EmailMessage:
    parsed = message_from_bytes(message, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    assert not parsed.defects
    return parsed


def test_the_header_of_a_report() -> None:
    report = read(built())
    assert report["From"] == "postmaster@direct.a.example"
    assert report["To"] == "anna@direct.a.example"
    assert report["Message-ID"] == "<2@a.example>"
    assert report["References"] == "<1@a.example>"
    assert report["Auto-Submitted"] == "auto-replied"
    assert report["MIME-Version"] == "1.0"
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"


def test_the_machine_part_is_exactly_this() -> None:
    _, rest = built(envelope_id="QQ1").decode().split("message/delivery-status\r\n\r\n")
    assert rest.split("\r\n--=_b")[0] == (
        "Reporting-MTA: dns; mx.a.example\r\n"
        "Original-Envelope-Id: QQ1\r\n"
        "X-Original-Message-ID: <1@a.example>\r\n"
        "\r\n"
        "Final-Recipient: rfc822;DrJones@direct.b.example\r\n"
        "Action: failed\r\n"
        "Status: 5.7.1\r\n"
        "\r\n"
        "Final-Recipient: rfc822;drsmith@direct.c.example\r\n"
        "Action: failed\r\n"
        "Status: 5.2.2\r\n"
        "Remote-MTA: dns; mx.c.example\r\n"
        "Diagnostic-Code: smtp; 452 4.2.2 Mailbox full\r\n"
    )


@pytest.mark.parametrize(
    ("action", "status", "subject", "words"),
    [
        (Action.FAILED, "5.4.7", "Delivery failed", "could not be delivered to"),
        (Action.DELAYED, "4.4.7", "Delivery delayed", "could not be delivered yet"),
        (Action.RELAYED, "2.4.7", "Accepted", "accepted by the system of"),
        (Action.DELIVERED, "2.4.7", "Delivered", "was delivered to"),
    ],
)
def test_subject_words_and_class_of_the_status_agree_with_the_action(
    action: Action, status: str, subject: str, words: str
) -> None:
    message = built(Outcome(JONES, "5.4.7", "so", action=action))
    assert f"\r\nAction: {action.value}\r\nStatus: {status}\r\n".encode() in message
    assert read(message)["Subject"].startswith(subject)
    assert words in next(iter(read(message).iter_parts())).get_content()


def test_what_the_sender_called_the_recipient_comes_back_and_when_we_give_up() -> None:
    message = built(
        Outcome(
            JONES, "4.4.1", "so", action=Action.DELAYED, original="rfc822;dr@old.example", until=NOW
        )
    )
    assert (
        b"\r\n\r\nOriginal-Recipient: rfc822;dr@old.example\r\n"
        b"Final-Recipient: rfc822;DrJones@direct.b.example\r\n"
        b"Action: delayed\r\nStatus: 4.4.1\r\n"
        b"Will-Retry-Until: Fri, 02 Jan 2026 12:00:00 +0000\r\n"
    ) in message


def test_the_text_says_which_recipient_and_why() -> None:
    text = next(iter(read(built()).iter_parts())).get_content()
    assert "DrJones@direct.b.example" in text
    assert "No trust between the two parties" in text
    assert "mx.c.example said: 452 4.2.2 Mailbox full" in text


def test_only_the_header_is_returned() -> None:
    *_, returned = read(built()).iter_parts()
    assert returned.get_content_type() == "text/rfc822-headers"
    assert returned.get_content() == HEADER


def test_what_is_not_ascii_in_the_returned_header_is_masked() -> None:
    message = built(header=HEADER.replace("Subject: x", "Subject: \xfc"))
    assert message.isascii()
    assert b"Subject: ?\r\n" in message


@pytest.mark.parametrize("status", ["", "5", "6.0.0", "5.1.1 \r\nX: y", "x"])
def test_a_status_that_is_none_becomes_5_0_0(status: str) -> None:
    assert b"\r\nStatus: 5.0.0\r\n" in built(Outcome(JONES, status, "no"))


def test_the_words_of_a_peer_cannot_add_fields() -> None:
    message = built(Outcome(JONES, "5.0.0", "no\r\nStatus: 2.0.0\r\n\r\n--=_b--", remote="x\r\ny"))
    (recipient,) = parse(BytesIO(message)).recipients
    assert recipient.status == "5.0.0"
    assert b"\r\nStatus: 2.0.0" not in message


def test_without_a_message_id_there_is_none_to_name() -> None:
    message = built(header="From: anna@direct.a.example\r\nTo: DrJones@direct.b.example\r\n")
    assert b"X-Original-Message-ID" not in message
    assert parse(BytesIO(message)).original_message_id is None


def test_reads_what_it_builds() -> None:
    assert parse(BytesIO(built())) == Dsn(
        "<1@a.example>",
        (DsnRecipient(JONES, "failed", "5.7.1"), DsnRecipient(SMITH, "failed", "5.2.2")),
    )
    assert all(recipient.failed for recipient in parse(BytesIO(built())).recipients)


# A report as Postfix writes it, shortened.
FOREIGN = b"""\
From: MAILER-DAEMON@mx.c.example (Mail Delivery System)
Subject: Undelivered Mail Returned to Sender
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
	boundary="4F.1/mx.c.example"

This is a MIME-encapsulated message.

--4F.1/mx.c.example
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

Sorry.

--4F.1/mx.c.example
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.c.example
Arrival-Date: Fri,  2 Jan 2026 12:00:00 +0000 (UTC)

Final-Recipient: rfc822; drsmith@direct.c.example
Original-Recipient: rfc822;drsmith@direct.c.example
Action: failed
Status: 5.1.1 (no such user)
Diagnostic-Code: X-Postfix; unknown user


Final-Recipient: x-local; 17
Original-Recipient: rfc822;drjones@direct.b.example
Action: Delayed (for now)
Status: nonsense

--4F.1/mx.c.example
Content-Description: Undelivered Message
Content-Type: message/rfc822

From: anna@direct.a.example
message-id: <1@a.example>

Body
--4F.1/mx.c.example--
"""


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"], ids=["crlf", "lf"])
def test_reads_a_peers_report(line_end: bytes) -> None:
    dsn = parse(BytesIO(FOREIGN.replace(b"\n", line_end)))
    assert dsn == Dsn(
        "<1@a.example>",
        (DsnRecipient(SMITH, "failed", "5.1.1"), DsnRecipient(JONES, "delayed", None)),
    )
    assert [recipient.failed for recipient in dsn.recipients] == [True, False]


def test_a_report_without_its_machine_part_is_malformed() -> None:
    with pytest.raises(DirectError) as caught:
        parse(BytesIO(FOREIGN.replace(b"message/delivery-status", b"text/html")))
    assert caught.value.reason is Reason.MESSAGE_MALFORMED
