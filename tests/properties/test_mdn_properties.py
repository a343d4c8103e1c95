from __future__ import annotations

import contextlib
from io import BytesIO

from hypothesis import given
from hypothesis import strategies as st

from certs.address import DirectAddress, parse_address
from certs.errors import DirectError
from gateway.dsn import Action, Outcome
from gateway.dsn import build as build_dsn
from gateway.dsn import parse as parse_dsn
from gateway.mdn import Disposition, Mdn, build
from gateway.mdn import parse as parse_mdn
from gateway.message import Facts, facts_of
from tests.helpers.pki import NOW

ATOM = st.text("abcXYZ019!#$%&'*+-/=?^_`{|}~", min_size=1, max_size=10)
LOCAL_PART = st.lists(ATOM, min_size=1, max_size=3).map(".".join)
LABEL = st.text("abc019", min_size=1, max_size=8)
DOMAIN = st.lists(LABEL, min_size=2, max_size=4).map(".".join)
ADDRESS = st.builds(lambda local, domain: parse_address(f"{local}@{domain}"), LOCAL_PART, DOMAIN)
MESSAGE_ID = st.builds("<{}@{}>".format, LOCAL_PART, DOMAIN)
WORDS = st.text(max_size=400)


def facts(author: DirectAddress, message_id: str) -> Facts:
    return facts_of(BytesIO(f"From: <{author}>\r\nMessage-ID: {message_id}\r\n\r\n".encode()))


@given(st.sampled_from(Disposition), ADDRESS, ADDRESS, MESSAGE_ID, st.booleans(), WORDS)
def test_an_mdn_says_what_was_built(
    disposition: Disposition,
    author: DirectAddress,
    recipient: DirectAddress,
    message_id: str,
    final_destination: bool,
    text: str,
) -> None:
    message = build(
        disposition=disposition,
        original=facts(author, message_id),
        recipient=recipient,
        message_id="<2@b.example>",
        boundary="=_boundary",
        now=NOW,
        reporting_ua="mx.b.example; direct-gateway",
        final_destination=final_destination,
        text=text,
    )
    assert parse_mdn(BytesIO(message)) == Mdn(disposition, recipient, message_id, final_destination)


STATUS = st.builds("{}.{}.{}".format, st.sampled_from("45"), st.integers(0, 7), st.integers(0, 30))
OUTCOME = st.builds(
    Outcome, ADDRESS, STATUS, WORDS, st.none() | WORDS, st.sampled_from(Action), st.none() | WORDS
)
CLASSES = {"failed": "5", "delayed": "4", "relayed": "2", "delivered": "2"}


@given(ADDRESS, MESSAGE_ID, st.lists(OUTCOME, min_size=1, max_size=5))
def test_a_dsn_says_what_was_built(
    author: DirectAddress, message_id: str, outcomes: list[Outcome]
) -> None:
    message = build_dsn(
        original=facts(author, message_id),
        original_header=b"Message-ID: <other@x.example>\r\n",
        outcomes=outcomes,
        reporting_mta="mx.a.example",
        postmaster=parse_address("postmaster@a.example"),
        message_id="<2@a.example>",
        boundary="=_boundary",
        now=NOW,
    )
    dsn = parse_dsn(BytesIO(message))
    assert dsn.original_message_id == message_id
    assert [r.recipient for r in dsn.recipients] == [o.recipient for o in outcomes]
    assert [r.action for r in dsn.recipients] == [o.action.value for o in outcomes]
    assert [r.status for r in dsn.recipients] == [
        f"{CLASSES[o.action.value]}{o.status[1:]}" for o in outcomes
    ]
    assert [r.failed for r in dsn.recipients] == [o.action is Action.FAILED for o in outcomes]


@given(st.binary(max_size=600))
def test_any_octets_are_a_notice_or_malformed(noise: bytes) -> None:
    head = b'Content-Type: multipart/report; boundary="b"\r\n\r\n--b\r\n'
    for message in (noise, head + noise, head + b"Content-Type: message/delivery-status\r\n\r\n"):
        for parse in (parse_mdn, parse_dsn):
            with contextlib.suppress(DirectError):
                parse(BytesIO(message + noise))
