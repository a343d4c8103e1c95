"""certs.kek."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from certs.errors import DirectError, Reason
from certs.kek import KekKind, KekSource, parse_source, read_kek, read_keks
from tests.helpers.environment import environment

KEK = os.urandom(32)


def secret(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("content", [KEK, KEK.hex().encode() + b"\n"], ids=["raw", "hexadecimal"])
def test_key_encryption_key_is_read_raw_or_hexadecimal(tmp_path: Path, content: bytes) -> None:
    assert read_kek(secret(tmp_path / "kek", content)) == KEK


@pytest.mark.parametrize("content", [b"", b"short", b"z" * 64, None])
def test_unreadable_key_encryption_key_is_said_so(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        secret(tmp_path / "kek", content)
    with pytest.raises(DirectError) as caught:
        read_kek(tmp_path / "kek")
    assert caught.value.reason is Reason.CONFIGURATION_INVALID


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602])
def test_key_that_everybody_may_read_is_refused_and_the_remedy_named(
    tmp_path: Path, mode: int
) -> None:
    with pytest.raises(DirectError) as caught:
        read_kek(secret(tmp_path / "kek", KEK, mode))
    assert "chmod o-rwx" in caught.value.detail
    assert read_kek(secret(tmp_path / "kek", KEK, 0o640)) == KEK


def test_both_open_while_a_file_is_rotated(tmp_path: Path) -> None:
    secret(tmp_path / "kek", KEK)
    source = parse_source("file:kek", folder=tmp_path)
    assert source == parse_source("kek", folder=tmp_path)
    assert read_keks(source) == [KEK]
    following = os.urandom(32)
    secret(tmp_path / "kek.new", following)
    assert read_keks(source) == [KEK, following]


def test_credential_is_where_systemd_puts_it(tmp_path: Path) -> None:
    secret(tmp_path / "kek", KEK, 0o400)
    with environment(CREDENTIALS_DIRECTORY=str(tmp_path)):
        assert read_keks(parse_source("credential:kek", folder=Path("/nowhere"))) == [KEK]
    with environment(CREDENTIALS_DIRECTORY=None), pytest.raises(DirectError) as caught:
        parse_source("credential:kek", folder=tmp_path)
    assert "LoadCredential" in caught.value.detail


def test_token_opens_what_it_sealed(tmp_path: Path) -> None:
    source = parse_source("token:gateway", folder=tmp_path)
    assert source == KekSource(KekKind.HSM, tmp_path / "kek.gateway", "gateway")
    secret(source.path, b"sealed")
    assert read_keks(source, lambda sealed, label: KEK if label == "gateway" else sealed) == [KEK]
    with pytest.raises(DirectError):
        read_keks(source)
    with pytest.raises(DirectError):
        read_keks(source, lambda sealed, label: b"short")


@pytest.mark.parametrize("text", ["vault:kek", "token:", "credential:../etc/shadow", "token:a/b"])
def test_source_that_is_none_of_these_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DirectError) as caught:
        parse_source(text, folder=tmp_path)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID
