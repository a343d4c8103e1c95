"""Of a message that is refused no plaintext is kept, sent or quoted anywhere (issue 3, point 4)."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from certs.cms.algorithms import ContentEncryption, KeyTransport
from certs.cms.enveloped import Envelope
from certs.errors import Reason
from certs.identity import Identity
from gateway.messages import MessageState
from gateway.tables import all_metadata
from tests.helpers import cms_builder as cms
from tests.helpers.agent import BACKBONE, CHEN, NURSE, RIVERA, Agent, identity, mail, seal
from tests.helpers.pki import Ca
from tests.helpers.sealed import BOUNDARY

SECRET = "PLAINTEXT-7f3a9c-of-the-patient"
CLEAR = mail(CHEN, RIVERA, body=SECRET, more=[f"X-Note: {SECRET}"])
SUBJECT = "Referral of Jane Roe"  # what `mail` writes
READER = identity(RIVERA)
WRAPPER = b"Content-Type: message/rfc822\r\n\r\n"


def encrypted(plaintext: bytes) -> bytes:
    """`plaintext`, whatever it is, encrypted for the reader as our own envelope does it."""
    envelope = Envelope(
        len(plaintext),
        recipients=[READER.certificate],
        cipher=ContentEncryption.AES256_CBC,
        transport=KeyTransport.RSA_OAEP_SHA256,
    )
    return cms.message(b"".join(bytes(piece) for piece in envelope.encrypt([plaintext])))


def signed(signer: Identity, entity: bytes = WRAPPER + CLEAR) -> bytes:
    return cms.detached(entity, signer, None, boundary=BOUNDARY)


CASES: dict[str, tuple[Callable[[], bytes], Reason]] = {
    "unsigned": (lambda: encrypted(WRAPPER + CLEAR), Reason.NOT_SECURED),
    "changed": (
        lambda: encrypted(signed(identity(CHEN)).replace(b"Jane", b"John")),
        Reason.SIGNATURE_INVALID,
    ),
    "untrusted": (
        lambda: seal(CLEAR, Ca.create("Plaintext stranger").issue(address=str(CHEN)), RIVERA),
        Reason.NOT_TRUSTED,
    ),
    "not-bound": (lambda: seal(CLEAR, identity(NURSE), RIVERA), Reason.CERTIFICATE_NOT_BOUND),
    "other-envelope": (
        lambda: seal(mail(CHEN, NURSE, body=SECRET), identity(CHEN), RIVERA),
        Reason.ENVELOPE_MISMATCH,
    ),
    "two-authors": (
        lambda: seal(b"From: a@b.example\r\n" + CLEAR, identity(CHEN), RIVERA),
        Reason.MESSAGE_MALFORMED,
    ),
    "cut-short": (lambda: seal(CLEAR, identity(CHEN), RIVERA)[:-200], Reason.MESSAGE_MALFORMED),
}


def traces(data: bytes) -> bool:
    """Is there any of the plaintext in `data`, as it is or in base64 at any offset?"""
    needles = [SECRET.encode()]
    needles += [base64.b64encode(b"\0" * pad + SECRET.encode())[4:-4] for pad in range(3)]
    needles.append(SUBJECT.encode())
    return any(needle in data for needle in needles)


async def everything(agent: Agent) -> bytes:
    """All that the gateway keeps: each row of each table, each file of the spool."""
    kept: list[bytes] = []

    def read(connection: sa.Connection) -> None:
        for table in all_metadata().sorted_tables:
            for row in connection.execute(sa.select(table)):
                kept.extend(v if isinstance(v, bytes) else str(v).encode() for v in row)

    await agent.database.read(read)
    files = [path for path in Path(agent.spool).rglob("*") if path.is_file()]
    return b"\n".join([*kept, *(path.read_bytes() for path in files)])


async def test_the_search_finds_what_is_kept_of_an_accepted_message(agent: Agent) -> None:
    await agent.receive(CLEAR, RIVERA)
    await agent.run()
    assert traces(await everything(agent))


@pytest.mark.parametrize("case", CASES)
async def test_nothing_of_a_refused_message_is_kept_sent_or_quoted(agent: Agent, case: str) -> None:
    make, reason = CASES[case]
    message = await agent.accept(BACKBONE, make(), CHEN, RIVERA)
    await agent.run()
    found = await agent.message(message)
    assert (found.state, found.reason) == (MessageState.REFUSED, reason)
    assert not traces((found.detail or "").encode())
    assert not traces(await everything(agent))
    assert not agent.peers.sent
    assert await agent.listed() == [found]
