"""Our own certificates from the key store into messages: separate uses, and several at a time."""

from __future__ import annotations

import io
import os
from functools import partial
from typing import Any

import pytest

from certs import keys
from certs.address import parse_address
from certs.identity import Identity
from certs.issue import Use
from certs.pkcs12 import KeyBundle
from certs.policy import CertificatePolicy
from certs.ports import Database
from certs.stored_keys import StoredKeys
from gateway.cli.inspect import examine
from tests.helpers.pki import NOW, Ca, private_key_of
from tests.helpers.sealed import identity, seal, unseal
from trust_bundles.anchors import Anchors

KEK = os.urandom(32)
ROOT = Ca.create("Own root")
MIDDLE = Ca.create("Own middle", parent=ROOT)
NEXT_ROOT = Ca.create("Own next root")
ALICE = parse_address("alice@a.example")
BOB = identity("p256", "bob")
MESSAGE = b"From: alice@a.example\r\nTo: bob@b.example\r\nSubject: s\r\n\r\nText.\r\n"
SIGN, ENCRYPT = frozenset({Use.SIGN}), frozenset({Use.ENCRYPT})


async def store(database: Database, *held: Identity) -> StoredKeys:
    for one in held:
        bundle = KeyBundle(private_key_of(one), one.certificate, one.chain)
        await database.write(partial(keys.add, bundle=bundle, subject=ALICE, kek=KEK, now=NOW))
    return StoredKeys(database=database, keks=lambda: [KEK])


@pytest.mark.parametrize("encryption_key", ["rsa2048", "p384", "x25519"])
async def test_signing_and_encryption_certificates_are_separate(
    sqlite_database: Database, encryption_key: str
) -> None:
    signs = ROOT.issue(address=str(ALICE), key="p256", uses=SIGN, label="signs")
    opens = ROOT.issue(address=str(ALICE), key=encryption_key, uses=ENCRYPT, label="opens")
    stored = await store(sqlite_database, signs, opens)
    signers = await stored.signing(ALICE, NOW)
    assert [one.certificate for one in signers] == [signs.certificate]
    ours = unseal(seal(MESSAGE, signers=signers), [BOB]).unsealed
    assert [one.certificate for one in ours.signers] == [signs.certificate]
    assert opens.certificate not in ours.certificates
    reply = seal(MESSAGE, signers=[BOB], recipients=[opens.certificate])
    assert unseal(reply, await stored.decrypting([ALICE])).content == MESSAGE


def judged(message: bytes, policy: CertificatePolicy, *anchors: Ca) -> dict[str, Any]:
    """What a recipient that trusts `anchors` makes of the message."""
    return examine(
        io.BytesIO(message),
        identity=BOB,
        anchors=Anchors([ca.certificate for ca in anchors]),
        recipient=parse_address("bob@b.example"),
        sender=None,
        now=NOW,
        policy=policy,
    )


async def test_in_a_rollover_all_valid_certificates_sign_and_each_is_enough(
    sqlite_database: Database,
) -> None:
    old = MIDDLE.issue(address=str(ALICE), key="rsa2048", label="old")
    new = NEXT_ROOT.issue(address=str(ALICE), key="ed25519", label="new")
    gone = ROOT.expired(address=str(ALICE))
    stored = await store(sqlite_database, old, new, gone)
    message = seal(MESSAGE, signers=await stored.signing(ALICE, NOW))
    opened = unseal(message, [BOB]).unsealed
    assert {one.certificate for one in opened.signers} == {old.certificate, new.certificate}
    assert MIDDLE.certificate in opened.certificates
    # AS-057: a peer may know the new authority already, still only the old one, or both.
    for anchors in ([ROOT], [NEXT_ROOT], [ROOT, NEXT_ROOT]):
        assert judged(message, CertificatePolicy(), *anchors)["accepted"]
    nobody = Ca.create("Nobody's root")
    assert judged(message, CertificatePolicy(), nobody)["reason"] == "not-trusted"


@pytest.mark.parametrize(("bits", "reason"), [(2048, "certificate-unfit"), (1024, None)])
def test_a_short_rsa_key_is_believed_only_by_explicit_policy(bits: int, reason: str | None) -> None:
    short = ROOT.issue(address=str(ALICE), key="rsa1024", label="short")
    message = seal(MESSAGE, signers=[short])
    report = judged(message, CertificatePolicy(minimum_rsa_bits=bits), ROOT)
    assert report["reason"] == reason
