"""Paths as in x509-limbo's RFC 5280, pathological and CVE groups, by our own generator.

Each case says what it is in its name. What matters beside the outcome is that every case ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from certs.address import parse_address
from certs.errors import Reason
from certs.evidence import Evidence, Found, Level
from certs.policy import CertificatePolicy, Profile
from tests.helpers.pki import NOW, Ca, reissue
from trust_bundles.decision import decide
from trust_bundles.policy import Purpose

ADDRESS = parse_address("drjones@direct.example.org")
ROOT = Ca.create("Root")
MIDDLE = Ca.create("Middle", parent=ROOT)
PLAIN = MIDDLE.issue(address=str(ADDRESS)).certificate
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
MAIL = x509.RFC822Name


@dataclass(frozen=True)
class Chain:
    """A leaf, what comes with it, and what is trusted. `reason` None: to be accepted."""

    leaf: x509.Certificate
    intermediates: Sequence[x509.Certificate] = (MIDDLE.certificate,)
    anchors: Sequence[x509.Certificate] = (ROOT.certificate,)
    reason: Reason | None = None


def altered_leaf(value: x509.ExtensionType, *, critical: bool = False) -> x509.Certificate:
    return reissue(PLAIN, MIDDLE, extensions={type(value): value}, critical=critical)


def altered_middle(value: x509.ExtensionType, *, critical: bool = True) -> x509.Certificate:
    return reissue(
        MIDDLE.certificate,
        ROOT,
        extensions={type(value): value},
        critical=critical,
        public_key=MIDDLE.key,
    )


def constrained(*permitted: x509.GeneralName, excluded: Sequence[x509.GeneralName] = ()) -> Chain:
    value = x509.NameConstraints(list(permitted) or None, list(excluded) or None)
    return Chain(PLAIN, (altered_middle(value),))


def refused(chain: Chain, reason: Reason = Reason.NOT_TRUSTED) -> Chain:
    return Chain(chain.leaf, chain.intermediates, chain.anchors, reason)


def cycle(length: int) -> Chain:
    """CAs that certify each other in a ring, and never reach a root."""
    ring = [Ca.create(f"Ring {number}") for number in range(length)]
    certified = [
        reissue(ca.certificate, ring[number - 1], public_key=ca.key)
        for number, ca in enumerate(ring)
    ]
    return Chain(ring[0].issue(address=str(ADDRESS)).certificate, certified)


def detour() -> Chain:
    """CVE-2024-0567: a ring beside the way to the root."""
    ring = cycle(3)
    cross = reissue(MIDDLE.certificate, Ca.create("Ring 0"), public_key=MIDDLE.key)
    return Chain(PLAIN, (cross, *ring.intermediates, MIDDLE.certificate))


def many_names(count: int) -> Chain:
    """A thousand names under a thousand constraints."""
    hosts = [x509.DNSName(f"h{number}.example.org") for number in range(count)]
    value = x509.SubjectAlternativeName([MAIL(str(ADDRESS)), *hosts])
    constraints = x509.NameConstraints([x509.DNSName("example.org"), *hosts], hosts)
    return Chain(altered_leaf(value), (altered_middle(constraints),))


def serial(number: int) -> Chain:
    return Chain(reissue(PLAIN, MIDDLE, serial=number))


def signed_by_a_leaf() -> Chain:
    key = Ca.create("Leaf that signs").key
    signer = reissue(PLAIN, MIDDLE, public_key=key)
    leaf = Ca(signer, key).issue(address=str(ADDRESS)).certificate
    return Chain(leaf, (signer, MIDDLE.certificate))


def tampered() -> Chain:
    other = Ca.create("Middle", label="another key").issue(address=str(ADDRESS)).certificate
    return Chain(other)


def expired_beside_valid() -> Chain:
    stale = Ca.create("Middle", parent=ROOT, not_after=NOW - timedelta(days=1)).certificate
    return Chain(PLAIN, (stale, MIDDLE.certificate))


def named(subject: x509.Name) -> Chain:
    return Chain(reissue(PLAIN, MIDDLE, subject=subject))


CASES: dict[str, Callable[[], Chain]] = {
    "plain": lambda: Chain(PLAIN),
    "no-intermediate": lambda: refused(Chain(PLAIN, ())),
    "wrong-signature": lambda: refused(tampered()),
    "issued-by-a-leaf": lambda: refused(signed_by_a_leaf()),
    "expired-intermediate-beside-a-valid-one": expired_beside_valid,
    "cycle-of-two": lambda: refused(cycle(2)),
    "cycle-of-nineteen": lambda: refused(cycle(19)),
    "cycle-beside-the-path": detour,
    "self-signed-leaf": lambda: refused(
        Chain(Ca.create("Own").issue(address=str(ADDRESS)).certificate, ())
    ),
    "unknown-critical-extension-in-leaf": lambda: refused(
        Chain(altered_leaf(UNKNOWN, critical=True)), Reason.CERTIFICATE_UNFIT
    ),
    "unknown-critical-extension-in-ca": lambda: refused(Chain(PLAIN, (altered_middle(UNKNOWN),))),
    "unknown-extension": lambda: Chain(
        altered_leaf(UNKNOWN), (altered_middle(UNKNOWN, critical=False),)
    ),
    "ca-without-basic-constraints": lambda: refused(
        Chain(PLAIN, (altered_middle(x509.BasicConstraints(False, None)),))
    ),
    "ca-may-not-sign-certificates": lambda: refused(
        Chain(PLAIN, (altered_middle(_usage(key_cert_sign=False)),))
    ),
    "path-length-of-nought-suffices": lambda: Chain(
        PLAIN, (altered_middle(x509.BasicConstraints(True, 0)),)
    ),
    "permitted-mailbox": lambda: constrained(MAIL("drjones@direct.example.org")),
    "permitted-host": lambda: constrained(MAIL("direct.example.org")),
    "permitted-subdomains": lambda: constrained(MAIL(".example.org")),
    "permitted-other-mailbox": lambda: refused(constrained(MAIL("nurse@direct.example.org"))),
    "permitted-parent-host-only": lambda: refused(constrained(MAIL("example.org"))),
    "excluded-host": lambda: refused(constrained(excluded=[MAIL("direct.example.org")])),
    "excluded-other-host": lambda: constrained(excluded=[MAIL("other.example.org")]),
    "permitted-and-excluded": lambda: refused(
        constrained(MAIL(".example.org"), excluded=[MAIL("direct.example.org")])
    ),
    "permitted-other-directory-name": lambda: refused(
        constrained(_directory("Nobody"), MAIL(".example.org"))
    ),
    "name-constraints-bomb": lambda: refused(many_names(1000)),
    "serial-of-twenty-octets": lambda: serial(2**159 - 1),
    "serial-of-one": lambda: serial(1),
    "empty-subject": lambda: named(x509.Name([])),
    "long-subject": lambda: named(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"part {n}") for n in range(500)])
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_chain(name: str) -> None:
    chain = CASES[name]()
    found = (Found(chain.leaf, Level.MESSAGE),)
    evidence = Evidence(ADDRESS, found, intermediates=tuple(chain.intermediates))
    # The older profile allows several names in one certificate, and so the worse attacks.
    policy = CertificatePolicy(profile=Profile.AS_1_2)
    decision = decide(
        ADDRESS, evidence, chain.anchors, purpose=Purpose.SIGN, now=NOW, policy=policy
    )
    assert decision.reason is chain.reason, decision.detail


def _usage(*, key_cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def _directory(name: str) -> x509.DirectoryName:
    return x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
