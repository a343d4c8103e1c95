"""What a new installation starts with: folder, key file, TLS certificate, database.

Talks to the file system and the database. Nothing that exists is overwritten.
"""

from __future__ import annotations

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
from gateway.files import write_secret
from gateway.key_access import key_access, make_kek

__all__ = ["initialise"]

TLS_LIFE: Final = timedelta(days=825)


async def initialise(config: Config, now: datetime) -> None:
    """Make what is missing in the data folder, and bring the database to the present schema.

    Raises:
        DirectError: INTERNAL; the database cannot be made, or the token is away.
            CONFIGURATION_INVALID; the credential or the token of the configuration is not there.
        OSError: the folder or a file cannot be written.
    """
    data = config.gateway.data
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with key_access(config) as access:
        make_kek(config, access)
    if not (data / "tls.key").exists():
        _make_tls(data, config.gateway.hostname, now)
    async with SqlDatabase.open(config.database_url) as database:
        await database.migrate()


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
