from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from certs.crl import CRL_OCTETS, Crl, read_crl
from certs.crl_entries import read_entries, serial_contents
from certs.crl_scope import ALL_REASONS
from certs.errors import DirectError, Reason
from certs.issue import Locations
from tests.helpers.pki import NOW, Ca, large_crl, reissue

ROOT = Ca.create("Root")
URL = "http://ca.example.org/crl"
LEAF = ROOT.issue(domain="d.example.org", locations=Locations(crls=(URL,))).certificate


def crl(*extensions: tuple[x509.ExtensionType, bool], revoked: list[int] | None = None) -> Crl:
    parsed = ROOT.crl(revoked or [LEAF.serial_number], extensions=extensions)
    return read_crl(parsed.public_bytes(Encoding.DER))


def scope(**limits: object) -> tuple[x509.ExtensionType, bool]:
    fields: dict[str, object] = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(**{**fields, **limits}), True  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
def test_list_knows_its_entries(encoding: Encoding) -> None:
    listed = read_crl(ROOT.crl([5, LEAF]).public_bytes(encoding))
    assert listed.revokes(5)
    assert listed.revokes(LEAF.serial_number)
    assert not listed.revokes(6)


def test_empty_list_revokes_nothing() -> None:
    listed = read_crl(ROOT.crl().public_bytes(Encoding.DER))
    assert not listed.revokes(1)
    assert listed.reasons_for(LEAF) == ALL_REASONS


def test_signature_is_asked_of_the_issuer() -> None:
    """AS-086."""
    listed = crl()
    assert listed.signed_by(ROOT.certificate)
    assert listed.signed_by(ROOT.certificate)
    assert not listed.signed_by(Ca.create("Root", label="other key").certificate)
    assert not listed.signed_by(LEAF)


def test_freshness() -> None:
    listed = crl()
    assert listed.fresh_at(NOW)
    assert not listed.fresh_at(NOW + timedelta(days=1))
    assert not listed.fresh_at(NOW - timedelta(days=1))


@pytest.mark.parametrize(
    ("limits", "covers"),
    [
        pytest.param({"only_contains_user_certs": True}, True, id="user-certificates"),
        pytest.param({"only_contains_ca_certs": True}, False, id="ca-certificates"),
        pytest.param({"full_name": [x509.UniformResourceIdentifier(URL)]}, True, id="same-point"),
        pytest.param(
            {"full_name": [x509.UniformResourceIdentifier("http://x/")]}, False, id="other-point"
        ),
        pytest.param({"indirect_crl": True}, True, id="indirect"),
        pytest.param({"only_contains_attribute_certs": True}, False, id="attributes"),
    ],
)
def test_scope_is_obeyed(limits: dict[str, object], covers: bool) -> None:
    """RFC5280 6.3.3 (b)."""
    assert bool(crl(scope(**limits)).reasons_for(LEAF)) is covers


def test_scope_of_ca_certificates() -> None:
    middle = Ca.create("Middle", parent=ROOT).certificate
    assert crl(scope(only_contains_ca_certs=True)).reasons_for(middle)
    assert not crl(scope(only_contains_user_certs=True)).reasons_for(middle)


def with_point(point: x509.DistributionPoint) -> x509.Certificate:
    value = x509.CRLDistributionPoints([point])
    return reissue(LEAF, ROOT, extensions={x509.CRLDistributionPoints: value})


def test_point_may_be_named_relative_to_the_issuer() -> None:
    relative = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, "CRL1")])
    listed = crl(scope(relative_name=relative))
    assert listed.reasons_for(with_point(x509.DistributionPoint(None, relative, None, None)))
    whole = x509.DirectoryName(x509.Name([*ROOT.certificate.subject.rdns, relative]))
    assert listed.reasons_for(with_point(x509.DistributionPoint([whole], None, None, None)))
    assert not listed.reasons_for(LEAF)


def test_point_without_a_name_is_known_by_its_issuer() -> None:
    """RFC5280 6.3.3 (b) (2) (i)."""
    name = x509.DirectoryName(ROOT.certificate.subject)
    listed = crl(scope(full_name=[name]))
    assert listed.reasons_for(with_point(x509.DistributionPoint(None, None, None, [name])))
    assert not listed.reasons_for(LEAF)


def test_list_of_some_reasons_says_which() -> None:
    some = frozenset({x509.ReasonFlags.key_compromise})
    assert crl(scope(only_some_reasons=some)).reasons_for(LEAF) == some


def test_unknown_critical_extension_makes_it_unusable() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert not crl((unknown, True)).reasons_for(LEAF)
    assert crl((unknown, False)).reasons_for(LEAF)


def test_delta_list_knows_its_base() -> None:
    delta = crl((x509.DeltaCRLIndicator(1), True))
    assert (delta.scope.base, delta.scope.number) == (1, 1)
    assert crl().scope.base is None


@pytest.mark.parametrize(
    "data", [b"", b"not a list", b"-----BEGIN X509 CRL-----\nxx", b"\0" * (CRL_OCTETS + 1)]
)
def test_what_is_no_list_is_an_unknown_answer(data: bytes) -> None:
    with pytest.raises(DirectError) as caught:
        read_crl(data)
    assert caught.value.reason is Reason.REVOCATION_UNKNOWN


def entry(serial: int, *extensions: tuple[x509.ExtensionType, bool]) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder(serial, NOW)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.build()


def listed(*entries: x509.RevokedCertificate) -> x509.CertificateRevocationList:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ROOT.certificate.subject)
        .last_update(NOW)
        .next_update(NOW + timedelta(days=1))
    )
    for one in entries:
        builder = builder.add_revoked_certificate(one)
    return builder.sign(ROOT.key, hashes.SHA256())


REASON = x509.CRLReason(x509.ReasonFlags.key_compromise), False
SINCE = x509.InvalidityDate(NOW.replace(tzinfo=None)), False
REMOVED = x509.CRLReason(x509.ReasonFlags.remove_from_crl), False
ODD = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00")


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([entry(1), entry(2**159 - 1), entry(255)], id="plain"),
        pytest.param([entry(1, REASON), entry(2, SINCE), entry(3, REASON, SINCE)], id="usual"),
        pytest.param([entry(1), entry(2, (ODD, False)), entry(3)], id="unusual"),
    ],
)
def test_entries_are_those_that_the_library_reads(entries: list[x509.RevokedCertificate]) -> None:
    serials = {one.serial_number for one in entries}
    read = read_crl(listed(*entries).public_bytes(Encoding.DER))
    assert {n for n in (1, 2, 3, 4, 255, 256, 2**159 - 1) if read.revokes(n)} == serials
    assert read.reasons_for(LEAF) == ALL_REASONS


def test_entry_removed_from_the_list_is_not_revoked() -> None:
    """AS-086."""
    read = read_crl(listed(entry(1, REMOVED), entry(2)).public_bytes(Encoding.DER))
    assert not read.revokes(1)
    assert read.removes(1)
    assert read.revokes(2)
    assert not read.removes(2)


def test_entries_of_another_issuer_in_an_indirect_list_are_not_ours() -> None:
    other = x509.CertificateIssuer([x509.DirectoryName(x509.Name([]))]), True
    mine = x509.CertificateIssuer([x509.DirectoryName(ROOT.certificate.subject)]), True
    read = read_crl(
        listed(entry(1), entry(2, other), entry(3), entry(4, mine)).public_bytes(Encoding.DER)
    )
    assert [n for n in range(1, 5) if read.revokes(n)] == [1, 4]


def test_unknown_critical_entry_extension_makes_it_unusable() -> None:
    read = read_crl(listed(entry(1, (ODD, True))).public_bytes(Encoding.DER))
    assert not read.reasons_for(LEAF)


@pytest.mark.parametrize("serial", [0, 1, 127, 128, 255, 256, -1, -128, -129, 2**159])
def test_serial_contents_are_two_complement(serial: int) -> None:
    contents = serial_contents(serial)
    assert contents[0] == len(contents) - 1
    assert int.from_bytes(contents[1:], signed=True) == serial


def test_large_list_is_read_whole() -> None:
    """Issue 4: two hundred thousand entries; the time is in `bench`."""
    read = read_crl(large_crl(ROOT, 200_000))
    assert read.signed_by(ROOT.certificate)
    assert all(map(read.revokes, (2**152, 2**152 + 199_999)))
    assert not read.revokes(2**152 + 200_000)


def test_entries_without_contents() -> None:
    assert read_entries(b"", listed()).revoked == frozenset()
