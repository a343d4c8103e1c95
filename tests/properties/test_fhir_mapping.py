"""The round trips that fhir.md 3.6 promises, for any message (rules 2 to 5)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

from fhir.resources.R4B import get_fhir_model_class
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.address import parse_address
from fhir_bridge.binary_rows import BinaryRow
from fhir_bridge.compose import Ancestry, Attachment, Letter, compose
from fhir_bridge.handover import letter_of
from fhir_bridge.headers import Mailbox, decode_words, mailboxes, parameters
from fhir_bridge.inbound import InboundView, view
from fhir_bridge.mime import decoder, index
from fhir_bridge.outbound import draft_of
from fhir_bridge.outcome import FhirError
from fhir_bridge.resources import check, dump, load
from fhir_bridge.terms import Terms, extension_value
from fhir_bridge.trust import Trust

TERMS = Terms()
NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
BEN = parse_address("ben@direct.lakeview.example")
TRUST = Trust("trusted", None, None, None, None, None, None, NOW)
CHECKED = settings(max_examples=60, deadline=None)

# FHIR strings: no controls but tab and line feed, no surrogates; a header has neither of these.
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\n\t"))
LINE = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=120).map(
    lambda text: " ".join(text.split())
)
LOCAL = st.from_regex(r"[a-z][a-z0-9]{0,10}", fullmatch=True)
MAILBOX = st.builds(
    lambda name, local: Mailbox(name, parse_address(f"{local}@direct.hillside.example")),
    LINE,
    LOCAL,
)
TYPES = st.sampled_from(["application/pdf", "text/xml; charset=utf-8", "image/png", "x/y"])


def attachment(content_type: str, title: str, octets: bytes) -> Attachment:
    def blocks() -> Iterator[bytes]:
        for start in range(0, len(octets), 100):
            yield octets[start : start + 100]

    return Attachment(content_type, title or None, None, False, blocks)


ATTACHMENTS = st.lists(st.tuples(TYPES, LINE, st.binary(max_size=500)), max_size=4)
LETTERS = st.builds(
    Letter,
    sender=MAILBOX,
    to=st.lists(MAILBOX, min_size=1, max_size=4).map(tuple),
    cc=st.lists(MAILBOX, max_size=3).map(tuple),
    subject=LINE,
    message_id=LOCAL.map(lambda local: f"<{local}@direct.hillside.example>"),
    date=st.integers(-720, 720).map(lambda m: NOW.astimezone(timezone(timedelta(minutes=m)))),
    in_reply_to=st.none() | LOCAL.map(lambda local: f"<{local}@x.example>"),
    references=st.lists(LOCAL.map(lambda local: f"<{local}@x.example>"), max_size=5).map(tuple),
    priority=st.sampled_from([None, "urgent", "asap"]),
    wants_dispatched=st.booleans(),
    text=TEXT,
    html=st.none(),
    attachments=st.just(()),
)


def written(letter: Letter) -> bytes:
    out = io.BytesIO()
    compose(letter, out, boundary="=_3f1c2f6e7a0e4b53")
    return out.getvalue()


def seen(message: bytes) -> InboundView:
    return view(
        io.BytesIO(message),
        message_uuid=UUID(int=1),
        mailbox=BEN,
        body_key="k",
        received_at=NOW,
        trust=TRUST,
        terms=TERMS,
    )


def octets_of(message: bytes, row: BinaryRow) -> bytes:
    return b"".join(decoder(row.encoding, iter([message[row.offset : row.offset + row.length]])))


@CHECKED
@given(letter=LETTERS, attached=ATTACHMENTS)
def test_what_is_sent_is_what_is_received(
    letter: Letter, attached: list[tuple[str, str, bytes]]
) -> None:
    parts = tuple(attachment(*each) for each in attached)
    message = written(replace(letter, attachments=parts))
    made = seen(message)
    found = made.communication
    get_fhir_model_class("Communication").model_validate(found)
    assert found.get("topic", {}).get("text", "") == letter.subject[:1000]
    assert datetime.fromisoformat(found["sent"]) == letter.date
    assert found["sender"]["identifier"]["value"] == f"mailto:{letter.sender.address}"
    assert found["sender"].get("display", "") == letter.sender.name
    named = [r["identifier"]["value"] for r in found["recipient"]]
    assert named[:-1] == [f"mailto:{m.address}" for m in (*letter.to, *letter.cc)]
    assert found.get("priority") == letter.priority
    texts = [p["contentString"] for p in found.get("payload", ()) if "contentString" in p]
    assert texts == ([letter.text] if letter.text and letter.text.strip() else [])
    rows = made.binaries[:-1]
    assert [octets_of(message, row) for row in rows] == [octets for _, _, octets in attached]
    assert [row.filename or "" for row in rows] == [title[:255] for _, title, _ in attached]
    assert octets_of(message, made.binaries[-1]) == message


def sent_on(made: InboundView, message: bytes) -> bytes:
    """What goes out when a client sends `made` as it is, from the author's own mailbox."""
    draft = draft_of(made.communication, directory={}, terms=TERMS)
    by_id = {f"Binary/{row.id}": row for row in made.binaries}
    letter = letter_of(
        draft,
        message_id="<again@direct.hillside.example>",
        date=NOW,
        ancestry=Ancestry(),
        binaries={c.at: by_id[c.url] for c in draft.contents if c.url},
        files={"k": io.BytesIO(message)},
    )
    return written(letter)


def lossless(message: bytes) -> dict[str, Any]:
    """The elements of class L of fhir.md 3.3, with the octets of what is attached."""
    made = seen(message)
    found = made.communication
    rows = {f"Binary/{row.id}": octets_of(message, row) for row in made.binaries}
    payload = []
    for each in found.get("payload", ()):
        [part] = each["extension"]
        about = {p["url"]: next(v for k, v in p.items() if k != "url") for p in part["extension"]}
        attachment = {**each.get("contentAttachment", {})}
        octets = rows.get(attachment.pop("url", ""))
        role = {k: about.get(k) for k in ("role", "content-id", "derived")}
        payload.append((each.get("contentString"), attachment, octets, role))
    return {
        "sender": found["sender"]["identifier"],
        "recipient": [
            (
                extension_value(r, TERMS.extension("recipient-role")),
                r["identifier"],
                r.get("display"),
            )
            for r in found["recipient"]
        ],
        "topic": found.get("topic"),
        "priority": found.get("priority"),
        "payload": payload,
    }


@CHECKED
@given(
    letter=LETTERS,
    attached=ATTACHMENTS,
    html=st.none() | TEXT.filter(lambda text: bool(text.strip())),
    image=st.none() | st.binary(min_size=1, max_size=200),
)
def test_what_is_received_and_sent_on_is_the_same(
    letter: Letter,
    attached: list[tuple[str, str, bytes]],
    html: str | None,
    image: bytes | None,
) -> None:
    """Rules 2 and 3: in, as FHIR, and out again."""
    parts = [attachment(*each) for each in attached]
    if html is not None and image is not None:
        blocks = attachment("image/png", "i.png", image).blocks
        parts.insert(0, Attachment("image/png", "i.png", "image@x", True, blocks))
    # Who is named twice gets one message, and stands in it once.
    to = {mailbox.address: mailbox for mailbox in (*letter.to, Mailbox("", BEN))}
    cc = {mailbox.address: mailbox for mailbox in letter.cc if mailbox.address not in to}
    named = replace(letter, to=tuple(to.values()), cc=tuple(cc.values()))
    message = written(replace(named, html=html, attachments=tuple(parts)))
    if "payload" not in seen(message).communication:
        return  # there is nothing to send
    assert lossless(sent_on(seen(message), message)) == lossless(message)


@CHECKED
@given(html=TEXT.filter(lambda text: bool(text.strip())))
def test_html_alone_is_sent_on_as_html_alone(html: str) -> None:
    """What was made from it is not sent back (class D)."""
    letter = Letter(
        sender=Mailbox("", parse_address("anna@direct.hillside.example")),
        to=(Mailbox("", BEN),), cc=(), subject="", message_id="<1@direct.hillside.example>",
        date=NOW, in_reply_to=None, references=(), priority=None, wants_dispatched=False,
        text=None, html=html, attachments=(),
    )  # fmt: skip
    message = written(letter)
    again = sent_on(seen(message), message)
    assert b"text/plain" not in again
    assert lossless(again) == lossless(message)


@CHECKED
@given(letter=LETTERS)
def test_the_same_message_maps_to_the_same_json(letter: Letter) -> None:
    message = written(letter)
    assert dump(seen(message).communication) == dump(seen(message).communication)


@settings(max_examples=200, deadline=None)
@given(message=st.binary(max_size=2000))
def test_any_octets_map_to_a_valid_resource(message: bytes) -> None:
    get_fhir_model_class("Communication").model_validate(seen(message).communication)


HEADERS = st.lists(
    st.tuples(
        st.sampled_from([
            "From", "To", "Cc", "Subject", "Date", "Message-ID", "References", "In-Reply-To",
            "Reply-To", "Content-Type", "Content-Disposition", "Content-Transfer-Encoding",
            "Content-ID", "X-Priority",
        ]),
        st.binary(max_size=80) | st.sampled_from([
            b"multipart/mixed; boundary=b", b"message/rfc822", b"text/html; charset=utf-7",
            b"base64", b"quoted-printable", b"<a@b>", b"a@b.example", b"=?utf-8?q?=41?=",
            b"attachment; filename*0*=x'y'%zz; filename*1=q",
        ]),
    ),
    max_size=8,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    blocks=st.lists(
        st.tuples(HEADERS, st.binary(max_size=100) | st.just(b"--b\r\n") | st.just(b"--b--\r\n")),
        min_size=1,
        max_size=5,
    )
)
def test_any_mime_maps_to_a_valid_resource(
    blocks: list[tuple[list[tuple[str, bytes]], bytes]],
) -> None:
    message = b"".join(
        b"".join(name.encode() + b": " + value + b"\r\n" for name, value in headers)
        + b"\r\n"
        + body
        for headers, body in blocks
    )
    made = seen(message)
    get_fhir_model_class("Communication").model_validate(made.communication)
    for part in index(io.BytesIO(message)).root.leaves():
        assert 0 <= part.offset <= part.offset + part.length <= len(message)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=200))
def test_header_values_never_raise(text: str) -> None:
    decode_words(text)
    mailboxes(text)
    parameters(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.sampled_from(
        ["completed", "Patient", "Patient/1", "#x", "2026-01-02", "urn:x"]
    ),
    lambda children: st.lists(children, max_size=3)
    | st.dictionaries(
        st.sampled_from([
            "resourceType", "id", "status", "payload", "contentString", "contentAttachment",
            "reference", "sender", "recipient", "contained", "extension", "url", "valueString",
            "meta", "identifier", "system", "value", "sent", "_sent",
        ]),
        children,
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(elements=st.dictionaries(st.sampled_from([
    "status", "payload", "sender", "recipient", "contained", "extension", "meta", "identifier",
    "sent", "_sent", "topic", "partOf", "id", "text",
]), JSON, max_size=5))  # fmt: skip
def test_any_json_is_valid_or_refused(elements: dict[str, object]) -> None:
    body = json.dumps({"resourceType": "Communication", **elements}).encode()
    with suppress(FhirError):
        resource = load(body)
        check(resource)
        dump(resource)


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=200))
def test_any_octets_are_json_or_refused(body: bytes) -> None:
    with suppress(FhirError):
        dump(load(body))
