"""Paths as in x509-limbo's RFC 5280, pathological and CVE groups, by our own generator.

The suite itself is on no package index, so its situations are made here, as far as they are about
mail. Each case says what it is in its name. What matters beside the outcome is that each case ends.
`LENIENT` are those that limbo refuses by rules that RFC5280 lays on CAs and not on us.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from asn1crypto import x509 as asn1_x509  # type: ignore[import-untyped]  # ships no types
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from certs.address import parse_address
from certs.errors import Reason
from certs.evidence import Evidence, Found, Level
from certs.policy import CertificatePolicy, Profile
from tests.helpers.pki import NOW, Ca, der, reissue, resign_sha1, session_key
from trust_bundles.decision import Decision, decide
from trust_bundles.policy import Purpose
from trust_bundles.verdicts import VerdictCache

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
    "path-length-exceeded": lambda: refused(below_middle(path_length=0)),
    "path-length-not-used-up-by-a-self-issued-ca": lambda: self_issued(),
    "expired-intermediate": lambda: refused(
        Chain(PLAIN, (aged_middle(not_after=NOW - DAY),)), Reason.CERTIFICATE_EXPIRED
    ),
    "intermediate-of-the-future": lambda: refused(
        Chain(PLAIN, (aged_middle(not_before=NOW + DAY),)), Reason.CERTIFICATE_EXPIRED
    ),
    "expired-anchor": lambda: refused(
        anchored(Ca.create("Root", not_after=NOW - DAY).certificate), Reason.CERTIFICATE_EXPIRED
    ),
    "unknown-critical-extension-in-anchor": lambda: refused(
        anchored(
            reissue(ROOT.certificate, ROOT, extensions={type(UNKNOWN): UNKNOWN}, critical=True)
        ),
        Reason.CERTIFICATE_UNFIT,
    ),
    "anchor-without-basic-constraints": lambda: refused(
        anchored(reissue(ROOT.certificate, ROOT, extensions={x509.BasicConstraints: None}))
    ),
    "intermediate-without-basic-constraints": lambda: refused(
        Chain(PLAIN, (without(MIDDLE, ROOT, x509.BasicConstraints),))
    ),
    "anchor-of-version-1": lambda: anchored(altered(ROOT.certificate, ROOT, _version_1)),
    "intermediate-of-version-1": lambda: refused(
        Chain(PLAIN, (altered(MIDDLE.certificate, ROOT, _version_1),))
    ),
    "leaf-of-version-1-with-extensions": lambda: refused(
        Chain(altered(PLAIN, MIDDLE, _version_1_only)), Reason.CERTIFICATE_UNFIT
    ),
    "nameless-ca": lambda: refused(nameless_ca()),
    "extension-twice": lambda: refused(
        Chain(altered(PLAIN, MIDDLE, _extension_twice)), Reason.CERTIFICATE_NOT_BOUND
    ),
    "signature-algorithms-differ": lambda: refused(Chain(altered(PLAIN, MIDDLE, _other_algorithm))),
    "intermediate-signed-with-sha1": lambda: refused(sha1_intermediate()),
    "intermediate-with-a-weak-key": lambda: refused(weak_intermediate()),
    "explicit-policy-without-policies": lambda: refused(
        Chain(PLAIN, (altered_middle(x509.PolicyConstraints(0, None)),))
    ),
    "explicit-policy-that-is-not-critical": lambda: refused(
        Chain(PLAIN, (altered_middle(x509.PolicyConstraints(0, None), critical=False),))
    ),
    "no-key-identifiers": lambda: Chain(
        without(PLAIN, MIDDLE, x509.AuthorityKeyIdentifier),
        (without(MIDDLE, ROOT, x509.SubjectKeyIdentifier),),
    ),
    "authority-key-identifier-of-another": lambda: Chain(
        altered_leaf(x509.AuthorityKeyIdentifier(b"x" * 20, None, None))
    ),
    "seven-intermediates": lambda: deep(7),
    "eight-intermediates": lambda: refused(deep(8)),
    "nineteen-intermediates": lambda: refused(deep(19)),
    "mailbox-with-a-nul": lambda: refused(
        mailbox(f"{ADDRESS}\0.evil.example"), Reason.CERTIFICATE_NOT_BOUND
    ),
    "mailbox-without-local-part": lambda: refused(
        mailbox(f"@{ADDRESS.domain}"), Reason.CERTIFICATE_NOT_BOUND
    ),
    "punycode-constraint-of-600-octets": lambda: constrained(
        excluded=[MAIL(f"xn--{'a' * 600}.example.org")]
    ),
    "explicit-curve-parameters": lambda: refused(
        Chain(PLAIN, (explicit_curve(), MIDDLE.certificate), (explicit_curve(),))
    ),
    "serial-of-twenty-octets": lambda: serial(2**159 - 1),
    "serial-of-one": lambda: serial(1),
    "long-subject": lambda: named(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"part {n}") for n in range(500)])
    ),
}

LENIENT: dict[str, Callable[[], Chain]] = {
    # RFC5280 4.2.1.6: with an empty subject the alternative name is to be marked critical.
    "empty-subject": lambda: named(x509.Name([])),
    "critical-authority-key-identifier": lambda: Chain(
        altered_leaf(
            PLAIN.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value,
            critical=True,
        )
    ),
    "serial-of-nought": lambda: Chain(altered(PLAIN, MIDDLE, _serial(0))),
    "negative-serial": lambda: Chain(altered(PLAIN, MIDDLE, _serial(-5))),
    "serial-of-26-octets": lambda: Chain(altered(PLAIN, MIDDLE, _serial(2**200))),
    "ca-without-key-usage": lambda: Chain(PLAIN, (without(MIDDLE, ROOT, x509.KeyUsage),)),
}
ALL = CASES | LENIENT


def decided(chain: Chain) -> Decision:
    found = (Found(chain.leaf, Level.MESSAGE),)
    evidence = Evidence(ADDRESS, found, intermediates=tuple(chain.intermediates))
    # The older profile allows several names in one certificate, and so the worse attacks.
    policy = CertificatePolicy(profile=Profile.AS_1_2)
    return decide(ADDRESS, evidence, chain.anchors, purpose=Purpose.SIGN, now=NOW, policy=policy)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("name", ALL)
def test_chain(name: str) -> None:
    chain = ALL[name]()
    decision = decided(chain)
    assert decision.reason is chain.reason, decision.detail


@pytest.mark.parametrize(
    ("seconds", "of_end", "reason"),
    [
        pytest.param(-1, False, Reason.CERTIFICATE_EXPIRED, id="a-second-before-notBefore"),
        pytest.param(0, False, None, id="notBefore"),
        pytest.param(0, True, None, id="notAfter"),
        pytest.param(0.5, True, Reason.CERTIFICATE_EXPIRED, id="half-a-second-after-notAfter"),
    ],
)
def test_validity_includes_both_ends(seconds: float, of_end: bool, reason: Reason | None) -> None:
    """RFC5280 4.1.2.5, for the leaf and for what a cache kept of it."""
    edge = PLAIN.not_valid_after_utc if of_end else PLAIN.not_valid_before_utc
    evidence = Evidence(
        ADDRESS, (Found(PLAIN, Level.MESSAGE),), intermediates=(MIDDLE.certificate,)
    )
    cache = VerdictCache()
    for now in (edge, edge + timedelta(seconds=seconds)):
        decision = decide(
            ADDRESS, evidence, [ROOT.certificate], purpose=Purpose.SIGN, now=now, cache=cache
        )
    assert decision.reason is reason


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"chains after x509-limbo: {len(CASES)}, and {len(LENIENT)} where we are lenient"]
    for name, make in ALL.items():
        chain = make()
        wanted, got = (
            reason.code if reason else "accepted"
            for reason in (chain.reason, decided(chain).reason)
        )
        note = "lenient" if name in LENIENT else "ok" if wanted == got else "MISS"
        lines.append(f"  {name:45} {wanted:22} {got:22} {note}")
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert not [line for line in lines if line.endswith("MISS")]


DAY: Final = timedelta(days=1)
P256_GENERATOR: Final = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
Change = Callable[[asn1_x509.Certificate], None]


def altered(certificate: x509.Certificate, ca: Ca, change: Change) -> x509.Certificate:
    """`certificate` with a change that the library refuses to make, signed by `ca`."""
    parsed = asn1_x509.Certificate.load(der(certificate))
    change(parsed)
    body = parsed["tbs_certificate"].dump(force=True)
    assert isinstance(ca.key, ec.EllipticCurvePrivateKey)
    parsed["signature_value"] = ca.key.sign(body, ec.ECDSA(hashes.SHA256()))
    return x509.load_der_x509_certificate(parsed.dump(force=True))


def _version_1(parsed: asn1_x509.Certificate) -> None:
    _version_1_only(parsed)
    del parsed["tbs_certificate"]["extensions"]


def _version_1_only(parsed: asn1_x509.Certificate) -> None:
    parsed["tbs_certificate"]["version"] = "v1"


def _extension_twice(parsed: asn1_x509.Certificate) -> None:
    extensions = parsed["tbs_certificate"]["extensions"]
    extensions.append(extensions[0].copy())


def _other_algorithm(parsed: asn1_x509.Certificate) -> None:
    parsed["signature_algorithm"] = {"algorithm": "sha384_ecdsa"}


def _serial(number: int) -> Change:
    def change(parsed: asn1_x509.Certificate) -> None:
        parsed["tbs_certificate"]["serial_number"] = number

    return change


def without(
    what: Ca | x509.Certificate, ca: Ca, kind: type[x509.ExtensionType]
) -> x509.Certificate:
    certificate = what.certificate if isinstance(what, Ca) else what
    return reissue(
        certificate,
        ca,
        extensions={kind: None},
        public_key=what.key if isinstance(what, Ca) else None,
    )


def anchored(anchor: x509.Certificate) -> Chain:
    return Chain(PLAIN, anchors=(anchor,))


def aged_middle(**dates: datetime) -> x509.Certificate:
    return Ca.create("Middle", parent=ROOT, **dates).certificate  # type: ignore[arg-type]


def mailbox(name: str) -> Chain:
    return Chain(altered_leaf(x509.SubjectAlternativeName([MAIL(name)])))


def below_middle(*, path_length: int) -> Chain:
    low = Ca.create("Low", parent=MIDDLE)
    middle = altered_middle(x509.BasicConstraints(True, path_length))
    return Chain(low.issue(address=str(ADDRESS)).certificate, (low.certificate, middle))


def self_issued() -> Chain:
    key = session_key("p256", "rolled over")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    rolled = reissue(MIDDLE.certificate, MIDDLE, public_key=key)
    middle = altered_middle(x509.BasicConstraints(True, 0))
    return Chain(Ca(rolled, key).issue(address=str(ADDRESS)).certificate, (rolled, middle))


def nameless_ca() -> Chain:
    key = session_key("p256", "nameless")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    ca = reissue(MIDDLE.certificate, ROOT, subject=x509.Name([]), public_key=key)
    return Chain(reissue(PLAIN, Ca(ca, key)), (ca,))


def sha1_intermediate() -> Chain:
    root = Ca.create("RSA root", key="rsa2048")
    middle = Ca.create("SHA-1", parent=root)
    assert isinstance(root.key, rsa.RSAPrivateKey)
    leaf = middle.issue(address=str(ADDRESS)).certificate
    return Chain(leaf, (resign_sha1(middle.certificate, root.key),), (root.certificate,))


def weak_intermediate() -> Chain:
    key = session_key("rsa1024", "weak")
    assert isinstance(key, rsa.RSAPrivateKey)
    weak = reissue(
        MIDDLE.certificate, ROOT, public_key=key, subject=Ca.create("Weak").certificate.subject
    )
    return Chain(reissue(PLAIN, Ca(weak, key)), (weak,))


def deep(intermediates: int) -> Chain:
    ca, chain = ROOT, []
    for number in range(intermediates):
        ca = Ca.create(f"Level {number}", parent=ca)
        chain.append(ca.certificate)
    return Chain(ca.issue(address=str(ADDRESS)).certificate, chain)


def explicit_curve() -> x509.Certificate:
    """CVE-2020-0601: a key over a curve spelled out in full, with a generator of the forger's."""
    with TemporaryDirectory() as folder:
        key = f"{folder}/key.pem"
        make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout"]
        subprocess.run([*make, "-param_enc", "explicit", "-out", key], check=True, timeout=30)
        sign = ["openssl", "req", "-x509", "-new", "-key", key, "-subj", "/O=Root/CN=Root"]
        made = subprocess.run(
            [*sign, "-outform", "DER"], check=True, capture_output=True, timeout=30
        )
    point = ROOT.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert P256_GENERATOR in made.stdout
    return x509.load_der_x509_certificate(made.stdout.replace(P256_GENERATOR, point))


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
