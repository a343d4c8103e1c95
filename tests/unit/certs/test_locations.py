from __future__ import annotations

from cryptography import x509

from certs.issue import Locations
from certs.locations import crl_urls, issuer_urls, ocsp_urls
from tests.helpers.pki import Ca, reissue

ROOT = Ca.create("Root")


def uri(url: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(url)


def test_each_kind_is_told_apart() -> None:
    where = Locations(("http://c/1", "https://c/2"), ("http://o",), ("http://i",))
    cert = ROOT.issue(domain="d.example.org", locations=where).certificate
    assert crl_urls(cert) == ("http://c/1", "https://c/2")
    assert ocsp_urls(cert) == ("http://o",)
    assert issuer_urls(cert) == ("http://i",)


def test_certificate_that_names_none_has_none() -> None:
    cert = ROOT.issue(domain="d.example.org").certificate
    assert crl_urls(cert) == ocsp_urls(cert) == issuer_urls(cert) == ()


def test_other_schemes_are_left_out_and_the_number_is_bounded() -> None:
    """T-43."""
    crls = ("ldap://c", "file:///etc/passwd", *(f"HTTP://c/{n}" for n in range(9)))
    cert = ROOT.issue(domain="d.example.org", locations=Locations(crls)).certificate
    assert crl_urls(cert) == ("HTTP://c/0", "HTTP://c/1", "HTTP://c/2", "HTTP://c/3")


def test_delta_list_is_named_too() -> None:
    """RFC5280 4.2.1.15."""
    where = Locations(("http://c/all",))
    point = x509.DistributionPoint([uri("http://c/delta")], None, None, None)
    cert = reissue(
        ROOT.issue(domain="d.example.org", locations=where).certificate,
        ROOT,
        extensions={x509.FreshestCRL: x509.FreshestCRL([point])},
    )
    assert set(crl_urls(cert)) == {"http://c/all", "http://c/delta"}
