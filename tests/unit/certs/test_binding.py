from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from certs.address import DirectAddress, parse_address
from certs.binding import Binding, binding_of
from certs.errors import DirectError, Reason
from certs.policy import Profile
from tests.helpers.pki import Ca, reissue

DRJONES = parse_address("DrJones@direct.example.org")
ROOT = Ca.create("Root")
PLAIN = ROOT.issue(address=str(DRJONES)).certificate
MAIL, DNS = x509.RFC822Name, x509.DNSName


def certificate(*names: x509.GeneralName, email: str | None = None) -> x509.Certificate:
    """A certificate of these alternative names; `email` is its subject's emailAddress."""
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, "whoever")]
    if email is not None:
        parts.append(x509.NameAttribute(NameOID.EMAIL_ADDRESS, email))
    value = x509.SubjectAlternativeName(list(names)) if names else None
    return reissue(
        PLAIN, ROOT, subject=x509.Name(parts), extensions={x509.SubjectAlternativeName: value}
    )


def bound(
    cert: x509.Certificate, address: DirectAddress = DRJONES, profile: Profile = Profile.AS_1_3
) -> Binding | Reason:
    try:
        return binding_of(cert, address, profile)
    except DirectError as error:
        return error.reason


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize(
    ("name", "binding"),
    [
        pytest.param(MAIL("drjones@direct.example.org"), Binding.ADDRESS, id="address"),
        pytest.param(MAIL("DRJONES@DIRECT.EXAMPLE.ORG"), Binding.ADDRESS, id="in-capitals"),
        pytest.param(DNS("direct.example.org"), Binding.DOMAIN, id="domain"),
        pytest.param(DNS("DIRECT.example.ORG"), Binding.DOMAIN, id="domain-in-capitals"),
    ],
)
def test_bound(name: x509.GeneralName, binding: Binding, profile: Profile) -> None:
    """AS-003, AS-004 and AS-016."""
    assert bound(certificate(name), profile=profile) is binding


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize(
    "names",
    [
        pytest.param([], id="no-subject-alt-name"),
        pytest.param([MAIL("nurse@direct.example.org")], id="another-mailbox"),
        pytest.param([MAIL("drjones@example.org")], id="parent-domain-mailbox"),
        pytest.param([MAIL("drjones@x.direct.example.org")], id="subdomain-mailbox"),
        pytest.param([MAIL("direct.example.org")], id="domain-as-mailbox"),
        pytest.param([DNS("example.org")], id="parent-domain"),
        pytest.param([DNS("x.direct.example.org")], id="subdomain"),
        pytest.param([DNS("foo.other.example")], id="another-host"),
        pytest.param([DNS("*.example.org")], id="wildcard"),
        pytest.param([DNS("*.direct.example.org")], id="wildcard-below"),
        pytest.param([DNS("direct.example.org.")], id="final-dot"),
        pytest.param([DNS("drjones.direct.example.org")], id="dns-name-of-the-address"),
        pytest.param(
            [MAIL("nurse@direct.example.org"), DNS("direct.example.org")],
            id="mailbox-of-another-beside-the-domain",
        ),
        pytest.param(
            [x509.UniformResourceIdentifier("mailto:drjones@direct.example.org")], id="uri"
        ),
    ],
)
def test_not_bound(names: list[x509.GeneralName], profile: Profile) -> None:
    """AS-003, AS-004, AS-008 and T-10."""
    assert bound(certificate(*names), profile=profile) is Reason.CERTIFICATE_NOT_BOUND


@pytest.mark.parametrize("email", ["drjones@direct.example.org", "direct.example.org"])
def test_subject_alone_binds_nobody(email: str) -> None:
    """AS-006 and T-10."""
    for profile in Profile:
        assert bound(certificate(email=email), profile=profile) is Reason.CERTIFICATE_NOT_BOUND


@pytest.mark.parametrize(
    ("email", "agrees"),
    [
        ("DrJones@direct.example.org", True),
        ("direct.example.org", True),
        ("nurse@direct.example.org", False),
    ],
)
def test_legacy_address_in_the_subject_must_agree_in_the_older_profile(
    email: str, agrees: bool
) -> None:
    """AS-005 and AS-006: the newer profile does not look at it."""
    cert = certificate(MAIL(str(DRJONES)), email=email)
    older = Binding.ADDRESS if agrees else Reason.CERTIFICATE_NOT_BOUND
    assert bound(cert, profile=Profile.AS_1_2) is older
    assert bound(cert, profile=Profile.AS_1_3) is Binding.ADDRESS


@pytest.mark.parametrize(
    "more", [MAIL("nurse@direct.example.org"), DNS("direct.example.org"), DNS("other.example.org")]
)
def test_certificate_holds_one_identity_in_the_newer_profile(more: x509.GeneralName) -> None:
    """AS-007."""
    cert = certificate(MAIL(str(DRJONES)), more)
    assert bound(cert, profile=Profile.AS_1_3) is Reason.CERTIFICATE_NOT_BOUND
    assert bound(cert, profile=Profile.AS_1_2) is Binding.ADDRESS


def test_same_name_twice_is_one_identity() -> None:
    cert = certificate(MAIL("drjones@direct.example.org"), MAIL("DrJones@direct.example.org"))
    assert bound(cert) is Binding.ADDRESS
