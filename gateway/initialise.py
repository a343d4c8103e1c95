"""What a new installation starts with: folder, key file, TLS certificate, database.

Talks to the file system and the database. Nothing that exists is overwritten.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.config import Config
from gateway.database import SqlDatabase

__all__ = ["initialise", "write_secret"]

KEK_OCTETS: Final = 32
TLS_LIFE: Final = timedelta(days=825)


async def initialise(config: Config, now: datetime) -> None:
    """Make what is missing in the data folder, and bring the database to the present schema.

    Raises:
        DirectError: INTERNAL; the database cannot be made.
        OSError: the folder or a file cannot be written.
    """
    data = config.gateway.data
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (data / "kek").exists():
        write_secret(data / "kek", os.urandom(KEK_OCTETS))
    if not (data / "tls.key").exists():
        _make_tls(data, config.gateway.hostname, now)
    async with SqlDatabase.open(config.database_url) as database:
        await database.migrate()


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read; it must not exist yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _make_tls(folder: Path, hostname: str, now: datetime) -> None:
    """Make a self-signed certificate, which opportunistic TLS on the backbone needs no more of."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + TLS_LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(hostname)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    # The key last: where it is there, all is there, whenever the power fails.
    (folder / "tls.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    write_secret(
        folder / "tls.key",
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
