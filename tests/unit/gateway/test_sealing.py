from __future__ import annotations

import io

import pytest

from certs.errors import DirectError, Reason
from gateway.header import parse_header
from gateway.sealing import Copy, seal_copies
from gateway.unsealed import Algorithms
from tests.helpers.agent import CHEN, GP, RIVERA, identity, mail
from tests.helpers.pki import NOW
from tests.helpers.sealed import unseal

TRACE = b"Received: by gw.hillside.example id 1;\r\n Fri, 02 Jan 2026 12:00:00 +0000\r\n"


def seal(submitted: bytes, *copies: Copy) -> tuple[list[Algorithms | None], bytes]:
    """Seal for each copy; return the algorithms and what was wrapped."""
    clear = io.BytesIO()
    algorithms = seal_copies(
        io.BytesIO(submitted),
        clear,
        copies,
        signers=[identity(RIVERA)],
        message_id="<given@hillside.example>",
        accepted_at=NOW,
        boundary="direct-1",
        trace=TRACE,
        now=NOW,
    )
    return algorithms, clear.getvalue()


def test_every_copy_holds_what_was_wrapped() -> None:
    outs = io.BytesIO(), io.BytesIO()
    algorithms, clear = seal(
        mail(RIVERA, CHEN, GP),
        Copy([identity(CHEN).certificate], outs[0]),
        Copy([identity(GP).certificate], outs[1]),
    )
    for out, reader in zip(outs, (CHEN, GP), strict=True):
        opened = unseal(out.getvalue(), [identity(reader)])
        assert opened.content == clear
        assert opened.unsealed.wrapped
    for made in algorithms:
        assert made is not None
        assert (made.digest, made.content_encryption) == ("sha256", "aes256-cbc")


def test_outer_header_is_the_trace_and_copies_without_the_subject() -> None:
    out = io.BytesIO()
    _, clear = seal(mail(RIVERA, CHEN), Copy([identity(CHEN).certificate], out))
    header = out.getvalue().partition(b"\r\n\r\n")[0] + b"\r\n"
    assert header.startswith(TRACE)
    outer = {field.name: field.raw for field in parse_header(header)}
    inner = {field.name: field.raw for field in parse_header(clear.partition(b"\r\n\r\n")[0])}
    assert "subject" not in outer
    for name in ("from", "to", "message-id", "date"):
        assert outer[name].strip() == inner[name].strip()
    # Of where it came from, the recipient learns what the outside tells.
    assert TRACE not in clear


def test_what_is_missing_is_added_inside_and_outside() -> None:
    out = io.BytesIO()
    submitted = b"From: %s\r\nTo: %s\r\n\r\nHello.\r\n" % (str(RIVERA).encode(), str(CHEN).encode())
    _, clear = seal(submitted, Copy([identity(CHEN).certificate], out))
    for whole in (clear, out.getvalue()):
        header = whole.partition(b"\r\n\r\n")[0]
        assert b"Message-ID: <given@hillside.example>" in header
        assert b"Date: Fri, 02 Jan 2026 12:00:00 +0000" in header


def test_what_cannot_be_made_canonical_is_malformed() -> None:
    with pytest.raises(DirectError) as caught:
        seal(b"no header\r\n\r\n", Copy([identity(CHEN).certificate], io.BytesIO()))
    assert caught.value.reason is Reason.MESSAGE_MALFORMED
