"""Sealed messages for tests: identities of every kind of key, and `seal` and `unseal` on bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

from cryptography import x509

from certs.identity import Identity
from certs.policy import CertificatePolicy
from gateway import smime
from gateway.seal_options import SealOptions
from gateway.unsealed import Unsealed
from tests.helpers.pki import NOW, Ca

__all__ = ["BOUNDARY", "MESSAGE", "OUTER", "Opened", "ca", "identity", "seal", "unseal"]

BOUNDARY = "=_direct_7f3a"
OUTER = b"MIME-Version: 1.0\r\nFrom: alice@a.example\r\nTo: bob@b.example\r\n"
MESSAGE = (
    b"From: Alice <alice@a.example>\r\n"
    b"To: bob@b.example\r\n"
    b"Subject: Referral\r\n"
    b"Message-ID: <1@a.example>\r\n"
    b"Date: Fri, 02 Jan 2026 12:00:00 +0000\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: text/plain\r\n"
    b"\r\n"
    b"Please see the patient.\r\n"
)
DEFAULTS = SealOptions()
POLICY = CertificatePolicy()


class Opened:
    """What `unseal` returned, and what it wrote."""

    def __init__(self, unsealed: Unsealed, content: bytes) -> None:
        self.unsealed = unsealed
        self.content = content


@cache
def ca() -> Ca:
    return Ca.create("Sealed messages root")


@cache
def identity(kind: str, name: str = "alice") -> Identity:
    """An identity with a key of `kind`: "rsa2048", "p256", "p384", "ed25519" or "x25519"."""
    return ca().issue(address=f"{name}@{kind}.example", key=kind)


def seal(
    content: bytes = MESSAGE,
    *,
    signers: Sequence[Identity] | None = None,
    recipients: Sequence[x509.Certificate] | None = None,
    options: SealOptions = DEFAULTS,
) -> bytes:
    out = io.BytesIO()
    smime.seal(
        io.BytesIO(content),
        out,
        outer=OUTER,
        signers=[identity("p256")] if signers is None else signers,
        recipients=[identity("p256", "bob").certificate] if recipients is None else recipients,
        boundary=BOUNDARY,
        now=NOW,
        options=options,
    )
    return out.getvalue()


def unseal(
    message: bytes,
    identities: Sequence[Identity] | None = None,
    policy: CertificatePolicy = POLICY,
) -> Opened:
    out = io.BytesIO()
    ours = [identity("p256", "bob")] if identities is None else identities
    unsealed = smime.unseal(io.BytesIO(message), out, identities=ours, policy=policy)
    return Opened(unsealed, out.getvalue())
