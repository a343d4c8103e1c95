from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from certs.cert_files import FILE_OCTETS, certificates_in
from certs.errors import DirectError, Reason
from tests.helpers.pki import Ca, der, pem

ONE, TWO = (Ca.create(name).certificate for name in ("One", "Two"))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(der(ONE), {ONE}, id="der"),
        pytest.param(pem(ONE) + pem(TWO), {ONE, TWO}, id="pem"),
        pytest.param(b"\n" + pem(ONE), {ONE}, id="pem-after-a-line"),
        pytest.param(pkcs7.serialize_certificates([ONE, TWO], Encoding.DER), {ONE, TWO}, id="p7c"),
        pytest.param(pkcs7.serialize_certificates([ONE], Encoding.PEM), {ONE}, id="p7c-pem"),
    ],
)
def test_each_form_is_read(data: bytes, expected: set[object]) -> None:
    """AS-082, T-26 and R-035."""
    assert set(certificates_in(data)) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"-----BEGIN CERTIFICATE-----\nxx",
        der(ONE)[:-1],
        b"\0" * (FILE_OCTETS + 1),
    ],
)
def test_anything_else_is_unfit(data: bytes) -> None:
    with pytest.raises(DirectError) as caught:
        certificates_in(data)
    assert caught.value.reason is Reason.CERTIFICATE_UNFIT


def test_number_is_bounded() -> None:
    assert len(certificates_in(pem(ONE) * 30)) == 20
