"""Submissions made canonical: nothing is lost, and what is canonical stays."""

from __future__ import annotations

import io
from email import message_from_bytes
from email.message import Message

from hypothesis import given, settings
from hypothesis import strategies as st

from certs.errors import DirectError
from gateway.mailboxes import parse_mailboxes
from gateway.message import facts_of, prepare
from tests.helpers.pki import NOW

HEADER = b"From: a@a.example\r\nTo: b@b.example\r\nMIME-Version: 1.0\r\n"


def prepared(message: bytes) -> bytes:
    out = io.BytesIO()
    prepare(io.BytesIO(message), out, message_id="<new@a.example>", date=NOW)
    return out.getvalue()


@st.composite
def leaves(draw: st.DrawFn) -> bytes:
    """A leaf with any octets under a label that lets them be."""
    kind = draw(st.sampled_from(["text/plain; charset=utf-8", "application/pdf", "image/png"]))
    content = draw(st.binary(max_size=1500) | st.text(max_size=600).map(str.encode))
    # Neither a boundary of ours, nor a line end that the boundary would take for its own.
    content = content.replace(b"--", b"- ").rstrip(b"\r")
    head = f"Content-Type: {kind}\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    return head.encode() + content


@st.composite
def entities(draw: st.DrawFn, depth: int = 0) -> bytes:
    if depth == 3 or draw(st.booleans()):
        return draw(leaves())
    if draw(st.booleans()):
        inner = draw(entities(depth + 1))
        return b"Content-Type: message/rfc822\r\n\r\n" + b"Subject: inner\r\n" + inner
    parts = draw(st.lists(entities(depth + 1), min_size=1, max_size=3))
    line = b"--level%d" % depth
    body = b"".join(line + b"\r\n" + part + b"\r\n" for part in parts)
    head = b"Content-Type: multipart/mixed; boundary=level%d\r\n\r\n" % depth
    return head + body + line + b"--\r\n"


def contents(message: Message) -> list[bytes]:
    found = []
    for part in message.walk():
        payload = part.get_payload(decode=True)
        if isinstance(payload, bytes) and not part.is_multipart():
            found.append(payload)
    return found


def is_canonical(message: bytes) -> bool:
    lines = message.split(b"\r\n")
    return message.isascii() and all(
        len(line) <= 998 and not set(line) & set(b"\r\n\0") for line in lines
    )


def same_text(octets: bytes) -> bytes:
    return octets.replace(b"\r\n", b"\n").rstrip(b"\n")


@settings(deadline=None)
@given(entities())
def test_every_leaf_keeps_its_content(entity: bytes) -> None:
    out = prepared(HEADER + entity)
    assert is_canonical(out)
    before, after = contents(message_from_bytes(HEADER + entity)), contents(message_from_bytes(out))
    assert list(map(same_text, after)) == list(map(same_text, before))


@settings(deadline=None)
@given(entities())
def test_what_is_canonical_stays(entity: bytes) -> None:
    once = prepared(HEADER + entity)
    assert prepared(once) == once


@given(st.binary(max_size=400))
def test_any_octets_are_a_message_or_an_error(data: bytes) -> None:
    for header in (b"", HEADER):
        try:
            assert facts_of(io.BytesIO(header + data)).author
        except DirectError:
            continue


@given(st.text(max_size=80))
def test_any_text_is_an_address_list_or_an_error(text: str) -> None:
    try:
        for mailbox in parse_mailboxes(text):
            assert parse_mailboxes(str(mailbox)) == (mailbox,)
    except DirectError:
        return
