"""What a domain demands of certificates and algorithms.

Pure: values only, no decisions.

Standards:
    AS  Applicability Statement v1.2 and v1.3 (ANSI/DS 2019-01-100-2021), section 2.8
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["CertificatePolicy", "Profile", "RevocationMode"]


class Profile(Enum):
    """Which edition of the Applicability Statement binds (K-11)."""

    AS_1_2 = "as-1.2"
    AS_1_3 = "as-1.3"


class RevocationMode(Enum):
    """What to do where revocation cannot be learnt (K-06)."""

    SOFT_FAIL = "soft-fail"
    HARD_FAIL = "hard-fail"


@dataclass(frozen=True, slots=True)
class CertificatePolicy:
    """The demands of one domain. `minimum_rsa_bits` is in bits.

    `inflated_octets` bounds what a compressed message may become; 0 refuses compressed messages.
    """

    profile: Profile = Profile.AS_1_3
    minimum_rsa_bits: int = 2048
    allow_sha1: bool = False
    allow_3des: bool = False
    accept_unwrapped: bool = True
    inflated_octets: int = 0
    required_policies: frozenset[str] = frozenset()
    require_key_separation: bool = False
    revocation: RevocationMode = RevocationMode.SOFT_FAIL
