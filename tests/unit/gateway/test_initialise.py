from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509

from certs.kek import read_kek
from gateway import domains
from gateway.config import Config, Gateway
from gateway.database import SqlDatabase
from gateway.files import write_secret
from gateway.initialise import initialise
from tests.helpers.pki import NOW


def config(folder: Path) -> Config:
    return Config(gateway=Gateway(hostname="gw.hillside.example", data=folder))


async def test_everything_a_start_needs_is_made(tmp_path: Path) -> None:
    here = config(tmp_path / "deep" / "data")
    await initialise(here, NOW)
    data = here.gateway.data
    assert data.stat().st_mode & 0o777 == 0o700
    assert len(read_kek(data / "kek")) == 32
    for secret in ("kek", "tls.key"):
        assert (data / secret).stat().st_mode & 0o777 == 0o600
    ssl.create_default_context().load_cert_chain(data / "tls.crt", data / "tls.key")
    certificate = x509.load_pem_x509_certificate((data / "tls.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gw.hillside.example"]
    async with SqlDatabase.open(here.database_url) as database:
        assert await database.read(domains.list_domains) == []


async def test_nothing_that_exists_is_overwritten(tmp_path: Path) -> None:
    here = config(tmp_path)
    await initialise(here, NOW)
    before = {name: (tmp_path / name).read_bytes() for name in ("kek", "tls.key", "tls.crt")}
    await initialise(here, NOW)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


async def test_crash_between_the_two_tls_files_leaves_nothing_half(tmp_path: Path) -> None:
    (tmp_path / "tls.crt").mkdir()  # cannot be written
    with pytest.raises(OSError, match="directory"):
        await initialise(config(tmp_path), NOW)
    (tmp_path / "tls.crt").rmdir()
    await initialise(config(tmp_path), NOW)
    ssl.create_default_context().load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")


def test_secret_is_never_written_over(tmp_path: Path) -> None:
    write_secret(tmp_path / "secret", b"one")
    with pytest.raises(FileExistsError):
        write_secret(tmp_path / "secret", b"two")
    assert (tmp_path / "secret").read_bytes() == b"one"
