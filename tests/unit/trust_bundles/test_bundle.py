"""Bundles told apart by structure; only the inner certificates of a signed one are anchors."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.cms import der as write
from certs.cms.algorithms import DATA, SIGNED_DATA
from certs.cms.ber import children
from certs.errors import Reason
from tests.helpers.pki import NOW, Ca, der, pem, reissue
from tests.helpers.trust import ONE, TWO
from trust_bundles.bundle import BUNDLE_OCTETS, NAMESAKES, Bundle, Form, read_bundle
from trust_bundles.bundle_writer import write_p7b, write_p7m, write_pem
from trust_bundles.signature import verify
from trust_bundles.status import BundleError, Status

SIGNER = Ca.create("Signing CA", parent=Ca.create("Publisher Root")).issue(
    domain="bundles.example.org"
)
P7B = write_p7b([ONE, TWO])
P7M = write_p7m([ONE, TWO], SIGNER, now=NOW)


def read(data: bytes) -> Bundle:
    return read_bundle(data, now=NOW)


def refused(data: bytes) -> Status:
    with pytest.raises(BundleError) as caught:
        read(data)
    assert caught.value.reason is Reason.BUNDLE_MALFORMED
    return caught.value.status


@pytest.mark.parametrize(
    ("data", "form"),
    [
        pytest.param(P7B, Form.P7B, id="p7b"),
        pytest.param(P7M, Form.P7M, id="p7m"),
        pytest.param(write_pem([ONE, TWO]), Form.PEM, id="pem"),
        pytest.param(pem(ONE) + b"text\r\n" + pem(TWO), Form.PEM, id="pem-with-text"),
        pytest.param(
            pkcs7.serialize_certificates([ONE, TWO], Encoding.DER), Form.P7B, id="cryptography"
        ),
        pytest.param(
            pkcs7.serialize_certificates([ONE, TWO], Encoding.PEM), Form.P7B, id="pem-of-p7b"
        ),
    ],
)
def test_the_form_is_told_by_structure(data: bytes, form: Form) -> None:
    bundle = read(data)
    assert (bundle.form, set(bundle.anchors)) == (form, {ONE, TWO})
    assert (bundle.envelope is not None) == (form is Form.P7M)


def test_one_certificate_is_a_bundle_of_one() -> None:
    bundle = read(der(ONE))
    assert (bundle.form, bundle.anchors) == (Form.DER, (ONE,))


def test_signers_of_a_signed_bundle_are_no_anchors() -> None:
    """TB-004, T-07."""
    bundle = read(P7M)
    assert bundle.envelope is not None
    assert SIGNER.certificate in bundle.envelope.certificates
    assert SIGNER.chain[0] in bundle.envelope.certificates  # a CA, which an anchor could be
    assert set(bundle.anchors) == {ONE, TWO}


def rebuilt(data: bytes, *, signers: bytes | None = None, content: bytes | None = None) -> bytes:
    """The CMS in `data` with other signerInfos or another content."""
    [info] = children(data)
    _, wrapped = children(info.content)
    [signed_data] = children(wrapped.content)
    version, algorithms, inner, certificates, infos = (
        part.encoded for part in children(signed_data.content)
    )
    if content is not None:
        tag = write.context(0)
        inner = write.sequence(DATA, write.tlv(tag, write.octet_string(content)))
    fields = (version, algorithms, inner, certificates, infos if signers is None else signers)
    return write.sequence(SIGNED_DATA, write.tlv(write.context(0), write.sequence(*fields)))


def test_signed_bundle_without_its_signature_is_no_bundle_of_its_signers() -> None:
    assert refused(rebuilt(P7M, signers=write.set_of(()))) is Status.INVALID_BUNDLE_FORMAT


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"<xml/>", id="text"),
        pytest.param(der(ONE), id="a-certificate"),
        pytest.param(P7M, id="a-signed-bundle"),
        pytest.param(write_p7b([]), id="a-bundle-of-none"),
    ],
)
def test_what_is_signed_must_be_an_unsigned_bundle(content: bytes) -> None:
    assert refused(rebuilt(P7M, content=content)) is Status.INVALID_BUNDLE_FORMAT


def test_metadata_is_shown_without_what_a_terminal_obeys() -> None:
    bundle = read(write_p7b([ONE], "<bundle>caf\u00e9\x1b[2J</bundle>\n"))
    assert bundle.metadata == "<bundle>caf\u00e9\ufffd[2J</bundle>\n"
    assert read(write_p7m([ONE], SIGNER, now=NOW, metadata="<v/>")).metadata == "<v/>"
    assert read(rebuilt(write_p7b([ONE]), content=b"\xff\xfe")).metadata is None


def test_entries_that_may_be_no_anchor_are_reported_and_the_rest_kept() -> None:
    """TB-009."""
    expired = Ca.create("Old", not_after=NOW - timedelta(seconds=1)).certificate
    tomorrow = Ca.create("New", not_before=NOW + timedelta(days=1)).certificate
    leaf = SIGNER.certificate
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    ca = Ca.create("No keyCertSign")
    unable = reissue(ca.certificate, ca, extensions={x509.KeyUsage: usage})
    bundle = read(write_pem([ONE, expired, leaf, ONE, tomorrow, unable]) + b"""
-----BEGIN CERTIFICATE-----
MAA=
-----END CERTIFICATE-----
""")  # fmt: skip
    assert bundle.anchors == (ONE, tomorrow)
    assert [entry.why for entry in bundle.skipped] == [
        "expired",
        "not-a-ca",
        "duplicate",
        "not-a-ca",
        "unreadable",
    ]


def test_namesakes_of_one_anchor_are_few() -> None:
    """They would use up the budget of path building, and hide somebody else's anchor."""
    many = [Ca.create("Namesake", label="namesake").certificate for _ in range(NAMESAKES + 2)]
    bundle = read(write_p7b([*many, TWO]))
    assert len(bundle.anchors) == NAMESAKES + 1
    assert [entry.why for entry in bundle.skipped] == ["too-many-of-this-name"] * 2


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"", Status.EMPTY, id="nothing"),
        pytest.param(b" \r\n", Status.EMPTY, id="blank"),
        pytest.param(write_p7b([]), Status.EMPTY, id="no-certificate"),
        pytest.param(der(SIGNER.certificate), Status.EMPTY, id="no-ca"),
        pytest.param(b"\x30" + bytes(BUNDLE_OCTETS), Status.TOO_BIG, id="huge"),
        pytest.param(P7B[:-1], Status.INVALID_BUNDLE_FORMAT, id="cut-short"),
        pytest.param(P7B + b"\0", Status.INVALID_BUNDLE_FORMAT, id="more-after-the-end"),
        pytest.param(pem(ONE)[:-30], Status.INVALID_BUNDLE_FORMAT, id="pem-cut-short"),
        pytest.param(b"<html>404</html>", Status.INVALID_BUNDLE_FORMAT, id="html"),
        pytest.param(
            pem(ONE).replace(b"CERTIFICATE", b"PRIVATE KEY"),
            Status.INVALID_BUNDLE_FORMAT,
            id="pem-of-a-key",
        ),
    ],
)
def test_what_is_no_bundle_has_its_status(data: bytes, status: Status) -> None:
    assert refused(data) is status


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(P7M) - 1), value=st.integers(0, 255), cut=st.booleans())
def test_a_mutated_bundle_is_read_or_refused_and_signers_are_never_anchors(
    at: int, value: int, cut: bool
) -> None:
    data = P7M[:at] if cut else P7M[:at] + bytes([value]) + P7M[at + 1 :]
    try:
        bundle = read(data)
        signature = verify(bundle.envelope, (), now=NOW)
    except BundleError:
        return
    assert signature is None or not signature.trusted
    assert not set(bundle.anchors) & {SIGNER.certificate, *SIGNER.chain}
