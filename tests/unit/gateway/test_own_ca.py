from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from certs.address import parse_address
from certs.errors import DirectError, Reason
from certs.issue import KeyKind
from certs.policy import CertificatePolicy
from certs.profile import fit_to_encrypt, fit_to_sign
from gateway.own_ca import OwnCa
from tests.helpers.pki import NOW

KEK = bytes(32)
DRJONES = parse_address("drjones@direct.hillside.example")


def opened(folder: Path, kek: bytes = KEK) -> OwnCa:
    return OwnCa.open(folder, keks=[kek], name="Hillside CA", now=NOW)


def test_ca_is_made_once_and_opened_again(tmp_path: Path) -> None:
    made = opened(tmp_path)
    assert made.certificate.subject.rfc4514_string() == "CN=Hillside CA,O=Hillside CA"
    assert opened(tmp_path).certificate == made.certificate


def test_key_is_sealed_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    opened(tmp_path)
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in (tmp_path / "ca.key").read_bytes()


@pytest.mark.parametrize("subject", [DRJONES, "direct.hillside.example"])
def test_certificate_is_below_the_ca_and_fit_for_both_uses(tmp_path: Path, subject: object) -> None:
    ca = opened(tmp_path)
    bundle = ca.issue(subject, kind=KeyKind("p256"), days=30, now=NOW)  # type: ignore[arg-type]
    bundle.certificate.verify_directly_issued_by(ca.certificate)
    fit_to_sign(bundle.certificate, CertificatePolicy())
    fit_to_encrypt(bundle.certificate, CertificatePolicy())
    assert bundle.certificate.not_valid_before_utc < NOW
    assert bundle.certificate.not_valid_after_utc == NOW + timedelta(days=30)


@pytest.mark.parametrize(
    ("spoil", "kek"),
    [
        pytest.param(lambda folder: None, bytes([1]) * 32, id="other-kek"),
        pytest.param(lambda folder: (folder / "ca.crt").unlink(), KEK, id="no-certificate"),
        pytest.param(lambda folder: (folder / "ca.crt").write_bytes(b"x"), KEK, id="not-pem"),
        pytest.param(lambda folder: (folder / "ca.key").write_bytes(b"x"), KEK, id="not-sealed"),
    ],
)
def test_ca_that_cannot_be_read(tmp_path: Path, spoil: object, kek: bytes) -> None:
    opened(tmp_path)
    spoil(tmp_path)  # type: ignore[operator]
    with pytest.raises(DirectError) as caught:
        opened(tmp_path, kek)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID


def test_crash_between_the_two_files_leaves_nothing_half(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").mkdir()  # cannot be written
    with pytest.raises(OSError, match="directory"):
        opened(tmp_path)
    os.rmdir(tmp_path / "ca.crt")
    assert opened(tmp_path).certificate == opened(tmp_path).certificate
