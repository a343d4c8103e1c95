"""`cert`: our own keys and certificates.

Talks to the database, the data folder and the files it is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from sqlalchemy import Connection

from certs import keys
from certs.address import DirectAddress, parse_address, parse_domain
from certs.cert_files import certificates_in
from certs.errors import DirectError, Reason
from certs.identity import SupportedPrivateKey
from certs.issue import KeyKind
from certs.issuers import sha256_of
from certs.pkcs12 import KeyBundle, load_pkcs12
from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigPath,
    Json,
    Site,
    on_site,
    read_file,
    show,
    table,
)
from gateway.own_ca import OwnCa

__all__ = ["certs"]

certs = typer.Typer(help="Our own keys and certificates.", no_args_is_help=True)

Owner = Annotated[str, typer.Option("--for", help="Address or domain it is bound to.")]


@certs.command("generate")
def generate(
    owner: Owner,
    kind: Annotated[KeyKind, typer.Option(help="Kind of key.")] = KeyKind.RSA_2048,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Days of validity.")] = 730,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Make a key, certified by a CA of our own (data/ca.crt), made at first use.

    Example: direct-gateway cert generate --for dr.rivera@direct.example.org
    """

    async def work(site: Site) -> KeyBundle:
        subject = _subject(owner)
        ca = OwnCa.open(
            site.config.gateway.data,
            kek=site.kek(),
            name=f"{site.config.gateway.hostname} CA",
            now=site.now,
        )
        bundle = ca.issue(subject, kind=kind, days=days, now=site.now)
        await _add(site, bundle, subject, "certificate-generated")
        return bundle

    show(_described(owner, on_site(config, work).certificate), as_json=as_json)


@certs.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="PKCS#12, or PEM certificates with --key.")],
    owner: Owner,
    key: Annotated[Path | None, typer.Option(help="PEM private key, for PEM.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File with the password.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Import a key and its certificate.

    Example: direct-gateway cert import --for direct.example.org domain.p12 --password-file pw
    """
    data = read_file(file)
    key_data = read_file(key) if key else None
    password = (
        read_file(password_file).decode("utf-8", "replace").rstrip("\r\n")
        if password_file
        else None
    )

    async def work(site: Site) -> KeyBundle:
        if key_data is None:
            bundle = load_pkcs12(data, password)
        else:
            bundle = _from_pem(data, key_data, password)
        await _add(site, bundle, _subject(owner), "certificate-imported")
        return bundle

    show(_described(owner, on_site(config, work).certificate), as_json=as_json)


@certs.command("list")
def list_certs(
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """List our certificates, with the days they have left.

    Example: direct-gateway cert list
    """

    async def work(site: Site) -> list[dict[str, object]]:
        found = await site.database.read(keys.list_identities)
        return [
            {
                "for": own.subject,
                "binding": own.binding.value,
                "uses": " ".join(sorted(use.value for use in own.uses)),
                "expires": own.certificate.not_valid_after_utc,
                "days_left": (own.certificate.not_valid_after_utc - site.now).days,
                "retired": own.retired_at,
                "sha256": own.sha256,
            }
            for own in found
        ]

    columns = ("for", "binding", "uses", "expires", "days_left", "sha256")
    table("certificates", columns, on_site(config, work), as_json=as_json)


async def _add(site: Site, bundle: KeyBundle, subject: DirectAddress | str, action: str) -> None:
    kek = site.kek()

    def write(c: Connection) -> None:
        keys.add(c, bundle, subject=subject, kek=kek, now=site.now)
        site.audit(c, action, str(subject), new=sha256_of(bundle.certificate).hex())

    await site.database.write(write)


def _subject(owner: str) -> DirectAddress | str:
    return parse_address(owner) if "@" in owner else parse_domain(owner)


def _from_pem(certificates: bytes, key: bytes, password: str | None) -> KeyBundle:
    leaf, *chain = certificates_in(certificates)
    try:
        private = serialization.load_pem_private_key(key, password.encode() if password else None)
    except (ValueError, TypeError):
        detail = "not a PEM private key, or the password is wrong"
        raise DirectError(Reason.CONFIGURATION_INVALID, detail) from None
    if not isinstance(private, SupportedPrivateKey):
        raise DirectError(Reason.CONFIGURATION_INVALID, "private key is of an unknown kind")
    return KeyBundle(private, leaf, tuple(chain))


def _described(owner: str, certificate: x509.Certificate) -> dict[str, object]:
    return {
        "for": owner,
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "expires": certificate.not_valid_after_utc,
        "sha256": sha256_of(certificate).hex(),
    }
