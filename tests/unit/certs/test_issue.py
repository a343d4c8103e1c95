from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certs.address import parse_address
from certs.binding import Binding, binding_of
from certs.errors import DirectError, Reason
from certs.issue import (
    KeyKind,
    Locations,
    Use,
    Validity,
    end_entity_certificate,
    generate_key,
    signing_request,
)
from tests.helpers.pki import NOW, Ca, session_key

ADDRESS = parse_address("drjones@direct.example.org")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (KeyKind.RSA_2048, rsa.RSAPrivateKey),
        (KeyKind.P256, ec.EllipticCurvePrivateKey),
        (KeyKind.P384, ec.EllipticCurvePrivateKey),
        (KeyKind.ED25519, ed25519.Ed25519PrivateKey),
    ],
)
def test_generated_key_is_of_the_kind_asked(kind: KeyKind, expected: type) -> None:
    assert isinstance(generate_key(kind), expected)


def test_root_signs_itself_and_may_sign_certificates_and_crls() -> None:
    root = Ca.create("Root").certificate
    root.verify_directly_issued_by(root)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature


def test_intermediate_names_its_issuers_key_and_path_length() -> None:
    root = Ca.create("Root")
    middle = Ca.create("Middle", parent=root, path_length=0).certificate
    middle.verify_directly_issued_by(root.certificate)
    constraints = middle.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    key_id = middle.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    own = root.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert key_id.key_identifier == own.digest


def test_address_bound_certificate_names_the_address_only_in_the_alternative_name() -> None:
    certificate = Ca.create().issue(address=str(ADDRESS)).certificate
    assert binding_of(certificate, ADDRESS) is Binding.ADDRESS
    assert not certificate.subject.get_attributes_for_oid(x509.NameOID.EMAIL_ADDRESS)


def test_domain_bound_certificate_names_the_domain() -> None:
    certificate = Ca.create().issue(domain=ADDRESS.domain).certificate
    assert binding_of(certificate, ADDRESS) is Binding.DOMAIN


@pytest.mark.parametrize(
    ("key", "uses", "asserted"),
    [
        ("rsa2048", frozenset(Use), {"digital_signature", "key_encipherment"}),
        ("rsa2048", frozenset({Use.SIGN}), {"digital_signature"}),
        ("rsa2048", frozenset({Use.ENCRYPT}), {"key_encipherment"}),
        ("p256", frozenset(Use), {"digital_signature", "key_agreement"}),
        ("ed25519", frozenset({Use.SIGN}), {"digital_signature"}),
    ],
)
def test_key_usage_says_what_the_key_can_do(
    key: str, uses: frozenset[Use], asserted: set[str]
) -> None:
    certificate = Ca.create().issue(domain="d.example", key=key, uses=uses).certificate
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    names = ("digital_signature", "key_encipherment", "key_agreement", "key_cert_sign")
    assert {name for name in names if getattr(usage, name)} == asserted


def test_a_key_that_only_signs_is_not_certified_for_encryption() -> None:
    ca = Ca.create()
    with pytest.raises(DirectError) as caught:
        end_entity_certificate(
            session_key("ed25519", "x").public_key(),
            ADDRESS,
            issuer=ca.issuer,
            validity=Validity(NOW, NOW + timedelta(days=1)),
        )
    assert caught.value.reason is Reason.CERTIFICATE_UNFIT


def test_locations_become_distribution_points_and_access_descriptions() -> None:
    where = Locations(("http://c/crl",), ("http://o",), ("http://i/ca.der",))
    certificate = Ca.create().issue(domain="d.example", locations=where).certificate
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert [p.full_name[0].value for p in points if p.full_name] == ["http://c/crl"]
    assert [a.access_location.value for a in access] == ["http://o", "http://i/ca.der"]


def test_a_long_address_still_fits_the_subject() -> None:
    address = f"{'a' * 64}@{'b' * 40}.example.org"
    certificate = Ca.create().issue(address=address).certificate
    assert binding_of(certificate, parse_address(address)) is Binding.ADDRESS


def test_signing_request_carries_the_alternative_name() -> None:
    key = generate_key(KeyKind.P256)
    request = signing_request(key, ADDRESS)
    assert request.is_signature_valid
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.RFC822Name) == [str(ADDRESS)]
