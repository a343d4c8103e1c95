"""What is known of a message once it is open.

Pure: values only.

Standards:
    AS  AS-045 to AS-057 (algorithms, signers, recipients)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from certs.cms.algorithms import ContentEncryption, Digest
from certs.evidence import Revocation

__all__ = ["Algorithms", "Reading", "Unsealed", "VerifiedSigner"]


@dataclass(frozen=True, slots=True)
class Algorithms:
    """What secured a message, in names for people and JSON."""

    digest: str
    signature: str
    content_encryption: str
    key_transport: str


@dataclass(frozen=True, slots=True)
class VerifiedSigner:
    """A signer whose signature verified. Nothing is said of who it is.

    `capabilities` are the content encryptions that it says it can decrypt (RFC8551 2.5.2),
    `signing_time` is when it says it signed.
    """

    certificate: x509.Certificate
    digest: str
    signature: str
    capabilities: frozenset[ContentEncryption] = frozenset()
    signing_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Unsealed:
    """A message that was decrypted and has at least one good signature.

    `recipient` is our certificate whose key opened it. `size` is the inner message's, in octets.
    `compressed`: it was so between encryption and signature. `tolerated` names what was not quite
    by the book. `stapled` are revocation answers that came with the signature, for whoever judges
    it. `signature` is the CMS object as it came, where it does not enclose the message.
    """

    signers: tuple[VerifiedSigner, ...]
    certificates: tuple[x509.Certificate, ...]
    algorithms: Algorithms
    wrapped: bool
    size: int
    recipient: x509.Certificate
    compressed: bool = False
    tolerated: tuple[str, ...] = ()
    stapled: Revocation = field(default_factory=Revocation)
    signature: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read the signed part: which digests (None: as announced), which line ends."""

    digests: frozenset[Digest] | None = None
    canonical: bool = False
