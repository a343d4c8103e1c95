from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from certs.errors import DirectError, Reason
from gateway.tls import server_context, unverified_context, verifying_context
from tests.helpers.tls import server_certificate


def test_a_server_speaks_tls_1_2_and_up_with_aead_and_forward_secrecy_only(tmp_path: Path) -> None:
    context = server_context(*server_certificate("b").write(tmp_path))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    for cipher in context.get_ciphers():
        assert cipher["aead"], cipher["name"]
        assert cipher["kea"] in ("kx-any", "kx-ecdhe", "kx-dhe"), cipher["name"]
        assert cipher["auth"] != "auth-null", cipher["name"]


@pytest.mark.parametrize("broken", ["missing", "no-pem", "another-key"])
def test_a_certificate_that_cannot_be_used_is_a_bad_configuration(
    broken: str, tmp_path: Path
) -> None:
    certificate, key = server_certificate("b").write(tmp_path)
    if broken == "missing":
        certificate.unlink()
    elif broken == "no-pem":
        certificate.write_text("nonsense")
    else:
        key.write_bytes(server_certificate("c").key_pem)
    with pytest.raises(DirectError) as caught:
        server_context(certificate, key)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID


def test_an_unverified_client_takes_any_certificate() -> None:
    context = unverified_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_verifying_client_demands_one_of_the_right_name(tmp_path: Path) -> None:
    anchors, _ = server_certificate("b").write(tmp_path)
    for context in (verifying_context(), verifying_context(anchors)):
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(verifying_context(anchors).get_ca_certs()) == 1
