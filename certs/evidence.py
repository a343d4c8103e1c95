"""What was fetched about an address's certificates, before anybody judges it.

Pure: values only. `certs.directory` gathers evidence; `trust_bundles.decision` judges it.

Standards:
    CD  Certificate Discovery for Direct v4.1, section 2
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from cryptography import x509
from cryptography.x509 import ocsp

from certs.address import DirectAddress
from certs.crl import Crl
from certs.errors import Reason

__all__ = ["Evidence", "Found", "Level", "Revocation", "Step"]


class Level(Enum):
    """Where a certificate came from. The first four are CD-002's order."""

    DNS_ADDRESS = "dns-address"
    DNS_DOMAIN = "dns-domain"
    LDAP_ADDRESS = "ldap-address"
    LDAP_DOMAIN = "ldap-domain"
    MESSAGE = "message"  # carried in a signature


@dataclass(frozen=True, slots=True)
class Step:
    """One query of discovery. `took_ms` is in milliseconds."""

    level: Level
    query: str
    server: str
    outcome: str  # "found", "empty", "failed: ...", "skipped: ..."
    certificates: int
    took_ms: float


@dataclass(frozen=True, slots=True)
class Found:
    """One certificate and the level that yielded it."""

    certificate: x509.Certificate
    level: Level


@dataclass(frozen=True, slots=True)
class Revocation:
    """Revocation answers fetched for a chain, unjudged, and when they were fetched."""

    crls: tuple[Crl, ...] = ()
    ocsp_responses: tuple[ocsp.OCSPResponse, ...] = ()
    unreachable: tuple[str, ...] = ()  # what should have answered and did not
    fetched_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known about the certificates of `address`.

    `failure` is set where nothing was found and some level failed technically: the same question
    may have an answer later (CD-006).
    """

    address: DirectAddress
    found: tuple[Found, ...]
    steps: tuple[Step, ...] = ()
    intermediates: tuple[x509.Certificate, ...] = ()
    revocation: Revocation = Revocation()
    failure: Reason | None = None
