"""What a domain demands of certificates and algorithms.

Pure: values only, no decisions.

Standards:
    AS  Applicability Statement v1.2 and v1.3 (ANSI/DS 2019-01-100-2021), section 2.8
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = [
    "CIPHERS",
    "DIGESTS",
    "KEYS",
    "CertificatePolicy",
    "Profile",
    "RevocationMode",
    "loosest",
]

# The algorithms of the standards, by the names of `certs.cms.algorithms`; SHA-1 and triple DES
# are allowed apart, as the legacies that they are.
KEYS: Final = frozenset({"rsa", "p256", "p384", "p521", "ed25519", "x25519"})
DIGESTS: Final = frozenset({"sha256", "sha384", "sha512"})
CIPHERS: Final = frozenset(
    {"aes128-cbc", "aes192-cbc", "aes256-cbc", "aes128-gcm", "aes192-gcm", "aes256-gcm"}
)


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

    `keys` are kinds of public keys in certificates, `digests` of signatures on certificates and
    messages, `ciphers` of content. `required_policies` are demanded of the whole path.
    `inflated_octets` bounds what a compressed message may become; 0 refuses compressed messages.
    """

    profile: Profile = Profile.AS_1_3
    minimum_rsa_bits: int = 2048
    keys: frozenset[str] = KEYS
    digests: frozenset[str] = DIGESTS
    ciphers: frozenset[str] = CIPHERS
    allow_sha1: bool = False
    allow_3des: bool = False
    accept_unwrapped: bool = True
    inflated_octets: int = 0
    required_policies: frozenset[str] = frozenset()
    require_key_separation: bool = False
    revocation: RevocationMode = RevocationMode.SOFT_FAIL


def loosest(policies: Iterable[CertificatePolicy]) -> CertificatePolicy:
    """Return what at least one of `policies` allows: a message is opened once for all.

    Each of its recipients is then judged by its own policy.
    """
    some = tuple(dict.fromkeys(policies)) or (CertificatePolicy(),)
    if len(some) == 1:
        return some[0]
    lenient = any(one.revocation is RevocationMode.SOFT_FAIL for one in some)
    older = any(one.profile is Profile.AS_1_2 for one in some)
    demanded = {one.required_policies for one in some}
    return CertificatePolicy(
        profile=Profile.AS_1_2 if older else Profile.AS_1_3,
        minimum_rsa_bits=min(one.minimum_rsa_bits for one in some),
        keys=frozenset().union(*(one.keys for one in some)),
        digests=frozenset().union(*(one.digests for one in some)),
        ciphers=frozenset().union(*(one.ciphers for one in some)),
        allow_sha1=any(one.allow_sha1 for one in some),
        allow_3des=any(one.allow_3des for one in some),
        accept_unwrapped=any(one.accept_unwrapped for one in some),
        inflated_octets=max(one.inflated_octets for one in some),
        required_policies=demanded.pop() if len(demanded) == 1 else frozenset(),
        require_key_separation=all(one.require_key_separation for one in some),
        revocation=RevocationMode.SOFT_FAIL if lenient else RevocationMode.HARD_FAIL,
    )
