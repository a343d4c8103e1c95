from __future__ import annotations

import email
import email.policy
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from email.message import EmailMessage

import pytest

from certs.address import parse_address
from certs.errors import DirectError, Reason
from fhir_bridge.compose import Attachment, Letter, compose
from fhir_bridge.headers import Mailbox, decode_words
from fhir_bridge.mime import decoded, index

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
ANNA = Mailbox("", parse_address("anna@direct.hillside.example"))
BEN = Mailbox("Ben Ray", parse_address("ben@direct.lakeview.example"))
LETTER = Letter(
    sender=ANNA,
    to=(BEN,),
    cc=(),
    subject="Referral",
    message_id="<1@direct.hillside.example>",
    date=NOW,
    in_reply_to=None,
    references=(),
    priority=None,
    wants_dispatched=False,
    text="Hello\n",
    html=None,
    attachments=(),
)


def written(letter: Letter) -> bytes:
    out = io.BytesIO()
    compose(letter, out, boundary="=_b")
    octets = out.getvalue()
    assert octets.isascii()
    assert b"\n" not in octets.replace(b"\r\n", b"")
    assert max(len(line) for line in octets.split(b"\r\n")) <= 998
    return octets


def parsed(letter: Letter) -> EmailMessage:
    message = email.message_from_bytes(written(letter), policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def attachment(
    octets: bytes,
    content_type: str = "application/pdf",
    title: str | None = "a.pdf",
    content_id: str | None = None,
) -> Attachment:
    def blocks() -> Iterator[bytes]:
        for start in range(0, len(octets), 1000):
            yield octets[start : start + 1000]

    return Attachment(content_type, title, content_id, content_id is not None, blocks)


def test_a_text_is_a_simple_message() -> None:
    message = parsed(LETTER)
    assert (message["From"], message["To"]) == (str(ANNA.address), f"Ben Ray <{BEN.address}>")
    assert (message["Subject"], message["Message-ID"]) == ("Referral", LETTER.message_id)
    assert message["Date"].datetime == NOW
    assert message.get_content_type() == "text/plain"


@pytest.mark.parametrize(
    "subject",
    [
        pytest.param("", id="empty"),
        pytest.param("Überweisung: Grüße 🚑" * 12, id="long-unicode"),
        pytest.param("word " * 60 + "end", id="long-ascii"),
        pytest.param("a" * 300, id="one-long-word"),
        pytest.param("=?utf-8?q?x?=", id="looks-encoded"),
        pytest.param("two  spaces", id="two-spaces"),
    ],
)
def test_any_subject_comes_back(subject: str) -> None:
    file = io.BytesIO(written(replace(LETTER, subject=subject)))
    assert decode_words(index(file).root.header("subject") or "") == subject


@pytest.mark.parametrize("name", ["Wells, Anna", 'Anna "A" Wells', "Änna", "A.B", "=?x?q?y?="])
def test_any_display_name_comes_back(name: str) -> None:
    message = parsed(replace(LETTER, sender=Mailbox(name, ANNA.address)))
    assert message["From"].addresses[0].display_name == name


@pytest.mark.parametrize("text", ["a\r\nBcc: b@x.org", "a\nb", "a\x00"])
def test_a_line_break_never_becomes_a_header(text: str) -> None:
    for letter in (
        replace(LETTER, subject=text),
        replace(LETTER, sender=Mailbox(text, ANNA.address)),
        replace(LETTER, message_id=text),
        replace(LETTER, attachments=(attachment(b"x", content_type=text),)),
        replace(LETTER, attachments=(attachment(b"x", content_id=text),)),
    ):
        with pytest.raises(DirectError) as caught:
            written(letter)
        assert caught.value.reason is Reason.MESSAGE_MALFORMED


def test_what_cannot_be_a_header_is_refused() -> None:
    for bad in ("<" + "a" * 2000 + "@x>", "<é@x>"):
        with pytest.raises(DirectError):
            written(replace(LETTER, message_id=bad))


@pytest.mark.parametrize(
    "text",
    ["Hello", "Hello\n", "Grüße\n", "Grüße", "x" * 2000, "=3D\n", " \n", "tab\t\nx", "a\n\nb", ""],
)
@pytest.mark.parametrize("attached", [False, True], ids=["alone", "with-attachment"])
def test_a_text_comes_back_exactly(text: str, attached: bool) -> None:
    letter = replace(LETTER, text=text, attachments=(attachment(b"x"),) if attached else ())
    file = io.BytesIO(written(letter))
    part = next(index(file).root.leaves())
    octets = b"".join(decoded(file, part))
    assert octets.decode().replace("\r\n", "\n") == text


@pytest.mark.parametrize("size", [0, 1, 56, 57, 58, 57 * 1024 + 1, 300_000])
def test_an_attachment_comes_back_exactly(size: int) -> None:
    octets = bytes(n % 253 for n in range(size))
    file = io.BytesIO(written(replace(LETTER, attachments=(attachment(octets),))))
    part = list(index(file).root.leaves())[1]
    assert b"".join(decoded(file, part)) == octets
    assert (part.disposition, part.filename, part.content_type) == (
        "attachment",
        "a.pdf",
        "application/pdf",
    )


@pytest.mark.parametrize(
    "title", ["plain.pdf", "é.pdf", 'q"uote\\.pdf', "../../x", "日本語" * 40 + ".xml", "a;b='c'"]
)
def test_a_file_name_comes_back_exactly(title: str) -> None:
    file = io.BytesIO(written(replace(LETTER, attachments=(attachment(b"x", title=title),))))
    assert list(index(file).root.leaves())[1].filename == title


def test_an_attached_message_is_not_encoded() -> None:
    inner = written(LETTER)
    mail = attachment(inner, content_type="message/rfc822", title=None)
    octets = written(replace(LETTER, attachments=(mail,)))
    assert inner in octets


@pytest.mark.parametrize("inner", [b"a\nb", b"\xe9", b"x" * 1200, b"a\rb", b"\x00"])
def test_an_attached_message_that_is_not_seven_bit_is(inner: bytes) -> None:
    mail = attachment(inner, content_type="message/rfc822", title=None)
    file = io.BytesIO(written(replace(LETTER, attachments=(mail,))))
    part = list(index(file).root.leaves())[1]
    assert part.encoding == "base64"
    assert b"".join(decoded(file, part)) == inner


def test_html_is_the_alternative_and_its_images_are_related_to_it() -> None:
    letter = replace(
        LETTER,
        html="<img src='cid:i@x'>",
        attachments=(attachment(b"png", "image/png", None, "i@x"), attachment(b"pdf")),
    )
    message = parsed(letter)
    assert [part.get_content_type() for part in message.walk()] == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "multipart/related",
        "text/html",
        "image/png",
        "application/pdf",
    ]


def test_html_alone_is_html_alone() -> None:
    assert parsed(replace(LETTER, text=None, html="<p>")).get_content_type() == "text/html"


@pytest.mark.parametrize(
    ("priority", "fields"),
    [
        ("urgent", {"Importance": "high", "X-Priority": "2"}),
        ("asap", {"X-Priority": "1", "Priority": "urgent"}),
        ("routine", {}),
    ],
)
def test_priority_becomes_what_mail_programs_know(priority: str, fields: dict[str, str]) -> None:
    message = parsed(replace(LETTER, priority=priority))
    known = ("Importance", "X-Priority", "Priority")
    assert {name: message[name] for name in known if name in message} == fields


def test_references_keep_the_root_and_the_nearest() -> None:
    ids = tuple(f"<{n}@x.example>" for n in range(50))
    message = parsed(replace(LETTER, in_reply_to=ids[-1], references=ids))
    kept = message["References"].split()
    assert (len(kept), kept[0], kept[-1]) == (20, ids[0], ids[-1])
    assert message["In-Reply-To"] == ids[-1]


def test_dispatched_notices_are_asked_for() -> None:
    message = parsed(replace(LETTER, wants_dispatched=True))
    assert message["Disposition-Notification-To"] == str(ANNA.address)
    assert "FINAL-DESTINATION-DELIVERY=optional,true" in str(
        message["Disposition-Notification-Options"]
    )
