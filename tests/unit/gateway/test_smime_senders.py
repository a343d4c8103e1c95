"""Who signed, who wrote, who sent: refusals that need both the signature and the header.

The tricks are those of "Johnny, you are fired" (USENIX Security 2019), class "identity", and of
AS-029. Each goes through `examine`, which is what `inspect` and the incoming pipeline do.
"""

from __future__ import annotations

import io
from typing import Any

import pytest

from certs.address import parse_address
from certs.identity import Identity
from certs.policy import CertificatePolicy
from gateway.cli.inspect import examine
from tests.helpers import cms_builder as cms
from tests.helpers.pki import NOW, Ca
from tests.helpers.sealed import BOUNDARY, identity
from trust_bundles.anchors import Anchors

ROOT = Ca.create("Senders root")
ALICE = ROOT.issue(address="alice@a.example")
MALLORY = ROOT.issue(address="mallory@m.example")
BOB = identity("rsa2048", "bob")
FROM_ALICE = "From: Alice <alice@a.example>\r\n"
TO_BOB = "To: bob@b.example\r\n"
BODY = "Subject: Referral\r\nMessage-ID: <1@a.example>\r\n\r\nText.\r\n"


def report(
    header: str,
    *,
    signer: Identity = ALICE,
    mail_from: str | None = None,
    recipient: str = "bob@b.example",
    outer: bytes = b"From: alice@a.example\r\nTo: bob@b.example\r\nMIME-Version: 1.0\r\n",
    wrapped: bool = True,
) -> dict[str, Any]:
    entity = (header + BODY).encode()
    if wrapped:
        entity = b"Content-Type: message/rfc822\r\n\r\n" + entity
    key = bytes(range(32))
    plaintext = cms.detached(entity, signer)
    sent = cms.enveloped(plaintext, [cms.key_transport(key, BOB)], key)
    return examine(
        io.BytesIO(cms.message(sent, outer=outer)),
        identity=BOB,
        anchors=Anchors([ROOT.certificate]),
        recipient=parse_address(recipient),
        sender=parse_address(mail_from) if mail_from else None,
        now=NOW,
        policy=CertificatePolicy(),
    )


def test_an_honest_message_is_accepted() -> None:
    found = report(FROM_ALICE + TO_BOB)
    assert found["accepted"]
    assert found["wrapped"]
    assert found["message"]["from"] == "alice@a.example"
    assert found["signer"]["binding"] == "address-bound"


@pytest.mark.parametrize(
    "author",
    [
        pytest.param('From: "alice@a.example" <mallory@m.example>\r\n', id="display-name"),
        pytest.param("From: alice@a.example (x) <mallory@m.example>\r\n", id="words-before"),
        pytest.param("From: mallory@m.example (alice@a.example)\r\n", id="comment"),
        pytest.param(
            'From: "Alice <alice@a.example>" <mallory@m.example>\r\n', id="brackets-in-quotes"
        ),
    ],
)
def test_a_display_name_is_nobody(author: str) -> None:
    # Alice's signature does not make mallory's mail hers.
    assert report(author + TO_BOB)["reason"] == "certificate-not-bound"
    # Mallory's is hers, and says so.
    found = report(author + TO_BOB, signer=MALLORY)
    assert found["message"]["from"] == "mallory@m.example"


def test_the_sender_field_does_not_stand_in_for_the_author() -> None:
    header = FROM_ALICE + "Sender: mallory@m.example\r\n" + TO_BOB
    found = report(header, signer=MALLORY, mail_from="mallory@m.example")
    assert found["reason"] == "certificate-not-bound"
    # The author's own signature holds whoever sent it (AS-029 allows From or Sender).
    assert report(header, mail_from="mallory@m.example")["accepted"]


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("From: mallory@m.example\r\n" + FROM_ALICE + TO_BOB, id="duplicate-from"),
        pytest.param("From: alice@a.example, mallory@m.example\r\n" + TO_BOB, id="two-authors"),
        pytest.param("From: alice@a.example\r\nfrom : b@b.example\r\n" + TO_BOB, id="odd-spelling"),
        pytest.param(TO_BOB, id="no-author"),
        pytest.param("From: <>\r\n" + TO_BOB, id="empty-author"),
        pytest.param(FROM_ALICE + TO_BOB + "To: carol@c.example\r\n", id="duplicate-to"),
        pytest.param(FROM_ALICE + TO_BOB + "Subject: other\r\n", id="duplicate-subject"),
    ],
)
@pytest.mark.parametrize("signer", [ALICE, MALLORY], ids=["alice", "mallory"])
def test_an_ambiguous_header_is_refused_whoever_signed(header: str, signer: Identity) -> None:
    assert report(header, signer=signer)["reason"] == "message-malformed"


def test_the_outer_header_decides_nothing() -> None:
    # AS-023
    outer = b"From: mallory@m.example\r\nTo: eve@e.example\r\nSubject: other\r\n"
    found = report(FROM_ALICE + TO_BOB, outer=outer)
    assert found["accepted"]
    assert found["message"]["subject"] == "Referral"


def test_an_unwrapped_message_is_the_outer_authors() -> None:
    # AS-022: nothing else names an author then.
    entity = "Content-Type: text/plain\r\n"
    outer = b"From: mallory@m.example\r\nTo: bob@b.example\r\nMIME-Version: 1.0\r\n"
    assert report(entity, wrapped=False, outer=outer)["reason"] == "certificate-not-bound"


@pytest.mark.parametrize(
    ("mail_from", "recipient"),
    [
        pytest.param("mallory@m.example", "bob@b.example", id="another-sender"),
        pytest.param("alice@a.example", "carol@c.example", id="forwarded-to-carol"),
    ],
)
def test_an_envelope_that_does_not_match(mail_from: str, recipient: str) -> None:
    # AS-029: what was signed for bob and encrypted again for carol is refused.
    found = report(FROM_ALICE + TO_BOB, mail_from=mail_from, recipient=recipient)
    assert found["reason"] == "envelope-mismatch"


def test_a_copy_recipient_is_a_recipient() -> None:
    assert report(FROM_ALICE + "Cc: Bob <BOB@b.example>\r\n")["accepted"]


def test_a_signer_of_no_anchor() -> None:
    stranger = Ca.create("Another root").issue(address="alice@a.example")
    assert report(FROM_ALICE + TO_BOB, signer=stranger)["reason"] == "not-trusted"


def test_a_signer_that_has_expired() -> None:
    late = ROOT.expired(address="alice@a.example")
    assert report(FROM_ALICE + TO_BOB, signer=late)["reason"] == "certificate-expired"


def test_one_trusted_signer_among_strangers_in_any_order() -> None:
    # AS-057, T-44
    stranger = Ca.create("Another root").issue(address="alice@a.example", key="p384")
    entity = ("Content-Type: message/rfc822\r\n\r\n" + FROM_ALICE + TO_BOB + BODY).encode()
    for signers in ([stranger, ALICE], [ALICE, stranger]):
        data = cms.signed_data(
            [cms.signer_info(signer, entity) for signer in signers],
            [signer.certificate for signer in signers],
        )
        plaintext = cms.multipart_signed(entity, data, boundary=BOUNDARY)
        found = examine(
            io.BytesIO(cms.sealed(plaintext, BOB)),
            identity=BOB,
            anchors=Anchors([ROOT.certificate]),
            recipient=parse_address("bob@b.example"),
            sender=None,
            now=NOW,
            policy=CertificatePolicy(),
        )
        assert found["accepted"], found["detail"]
