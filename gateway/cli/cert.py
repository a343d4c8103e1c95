"""`cert`: our own keys and certificates, made, requested, imported, exported and listed.

Talks to the database, the data folder, the PKCS#11 token and the files it is given.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection

from certs import keys, pending
from certs.address import DirectAddress, parse_address, parse_domain
from certs.errors import DirectError, Reason
from certs.ids import new_id
from certs.issue import KeyKind, Use, generate_key, signing_request
from certs.issuers import sha256_of
from certs.keys import HeldKey, OwnIdentity
from certs.pkcs12 import write_pkcs12
from certs.requests import read_request, request_by
from gateway.cli.asking import PasswordFile, confirm, password_of
from gateway.cli.cert_input import certificates_of, key_bundle_of
from gateway.cli.common import (
    DEFAULT_CONFIG,
    Change,
    ConfigPath,
    Json,
    Site,
    Yes,
    change,
    fail,
    on_site,
    read_file,
    show,
    table,
    write_out,
)
from gateway.expiry import warning
from gateway.key_access import key_access
from gateway.own_ca import OwnCa

__all__ = ["certs"]

certs = typer.Typer(help="Our own keys and certificates.", no_args_is_help=True)

Owner = Annotated[str, typer.Option("--for", help="Address or domain it is bound to.")]
Uses = Annotated[
    list[Use] | None,
    typer.Option("--use", help="sign or encrypt, for separate keys; default: both."),
]
Days = Annotated[int, typer.Option(min=1, max=3650, help="Days of validity.")]
Kind = Annotated[KeyKind, typer.Option(help="Kind of key.")]
InToken = Annotated[bool, typer.Option("--in-token", help="Make the key in the PKCS#11 token.")]
Sha256 = Annotated[
    str, typer.Argument(metavar="SHA256", help="Fingerprint, or how it begins, as `list` prints.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="File to write; default: print.")]


@certs.command("new")
def new(
    owner: Owner,
    kind: Kind = KeyKind.RSA_2048,
    days: Days = 730,
    use: Uses = None,
    in_token: InToken = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Make a key, certified by a CA of our own (data/ca.crt), made at first use.

    Example: direct-gateway cert new --for dr.rivera@direct.example.org
    """
    uses = frozenset(use or Use)

    def work(c: Connection, site: Site) -> Change:
        subject = _subject(owner)
        ca = _own_ca(site)
        if in_token:
            with key_access(site.config) as access:
                label = f"direct-gateway {new_id(site.now)}"
                public = access.token().generate(kind, label).public_key()
            certificate = ca.certify(public, subject, days=days, now=site.now, uses=uses)
            held = HeldKey(new_id(site.now), public, None, label)
            keys.keep(c, held, certificate, (), subject=subject, now=site.now, uses=uses)
        else:
            bundle = ca.issue(subject, kind=kind, days=days, now=site.now, uses=uses)
            certificate = bundle.certificate
            keys.add(c, bundle, subject=subject, kek=site.kek(), now=site.now, uses=uses)
        return _kept(owner, certificate)

    change(config, "certificate-made", owner, work, as_json=as_json)


@certs.command("csr")
def csr(
    owner: Owner,
    kind: Kind = KeyKind.RSA_2048,
    in_token: InToken = False,
    out: Out = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Make a key and a request (PKCS#10) for a CA; `cert import` takes what the CA sends.

    Example: direct-gateway cert csr --for direct.example.org --out domain.csr
    """

    def work(c: Connection, site: Site) -> Change:
        subject = _subject(owner)
        if in_token:
            with key_access(site.config) as access:
                label = f"direct-gateway {new_id(site.now)}"
                key = access.token().generate(kind, label)
                request = request_by(
                    lambda data: key.sign(data, hashes.SHA256()), key.public_key(), subject
                )
            pending.add_pending_in_token(c, label, key.public_key(), subject=subject, now=site.now)
        else:
            made = generate_key(kind)
            request = signing_request(made, subject)
            pending.add_pending(c, made, subject=subject, kek=site.kek(), now=site.now)
        pem = request.public_bytes(Encoding.PEM)
        if out is not None:
            write_out(out, pem)
        sha256 = keys.public_sha256(request.public_key())
        text = pem.decode() if out is None else None
        return Change({"for": owner, "public_key": sha256, "file": out, "pem": text}, new=sha256)

    change(config, "key-made", owner, work, as_json=as_json)


@certs.command("issue")
def issue(
    request: Annotated[Path, typer.Argument(help="Certificate request (PKCS#10), PEM or DER.")],
    days: Days = 730,
    use: Uses = None,
    out: Out = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Issue a certificate from our own CA for somebody's request, such as a neighbour's.

    Example: direct-gateway cert issue neighbour.csr --days 365 --out neighbour.pem
    """
    data = read_file(request)

    def work(_: Connection, site: Site) -> Change:
        key, subject = read_request(data)
        uses = frozenset(use or Use)
        certificate = _own_ca(site).certify(key, subject, days=days, now=site.now, uses=uses)
        pem = certificate.public_bytes(Encoding.PEM)
        if out is not None:
            write_out(out, pem)
        text = pem.decode() if out is None else None
        shown = {**_described(str(subject), certificate), "file": out, "pem": text}
        return Change(shown, new=sha256_of(certificate).hex())

    change(config, "certificate-issued", str(request), work, as_json=as_json)


@certs.command("ca")
def ca(out: Out = None, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Print the certificate of our own CA: the anchor that a peer adds.

    Example: direct-gateway cert ca --out our-ca.pem
    """

    async def work(site: Site) -> x509.Certificate:
        if not (site.config.gateway.data / "ca.crt").exists():
            raise DirectError(Reason.RESOURCE_NOT_FOUND, "no CA yet: `cert new` makes it")
        return _own_ca(site).certificate

    _print(on_site(config, work), out, as_json=as_json)


@certs.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="PKCS#12, or certificates as PEM, DER or PKCS#7.")],
    owner: Owner,
    key: Annotated[Path | None, typer.Option(help="Private key, PEM.")] = None,
    token_key: Annotated[str, typer.Option(help="Label of its key in the token.")] = "",
    use: Uses = None,
    password_file: PasswordFile = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Import a certificate with its key, or for a key that `cert csr` made or the token has.

    Example: direct-gateway cert import domain.p12 --for direct.example.org --password-file pw
    """
    data = read_file(file)
    certificates = certificates_of(data)
    bundle = key_bundle_of(data, certificates, key, password_file)
    uses = frozenset(use) if use else None

    def work(c: Connection, site: Site) -> Change:
        subject, now = _subject(owner), site.now
        if bundle is not None:
            keys.add(c, bundle, subject=subject, kek=site.kek(), now=now, uses=uses)
            return _kept(owner, bundle.certificate)
        leaf, *chain = certificates
        if token_key:
            with key_access(site.config) as access:
                public = access.token().key(token_key).public_key()
            held = HeldKey(new_id(now), public, None, token_key)
        else:
            held = pending.take_pending(c, leaf)
        keys.keep(c, held, leaf, chain, subject=subject, now=now, uses=uses)
        return _kept(owner, leaf)

    change(config, "certificate-imported", owner, work, as_json=as_json)


@certs.command("export")
def export(
    sha256: Sha256,
    out: Out = None,
    p12: Annotated[bool, typer.Option("--p12", help="With the private key, as PKCS#12.")] = False,
    password_file: PasswordFile = None,
    yes: Yes = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Print a certificate with its chain as PEM; or write it with its key, once confirmed.

    Example: direct-gateway cert export 3fd1 --p12 --out domain.p12 --password-file pw --yes
    """
    if not p12:

        async def work(site: Site) -> OwnIdentity:
            return await site.database.read(lambda c: keys.find(c, sha256))

        own = on_site(config, work)
        _print(own.certificate, out, *own.chain, as_json=as_json)
        return
    if out is None or out.exists():
        fail("a private key goes into a new file: say --out FILE")
    confirm("The private key leaves the gateway. Export it?", yes=yes)
    password = password_of(password_file, "Password of the PKCS#12 file", twice=True)
    made: list[bytes] = []

    def take(c: Connection, site: Site) -> Change:
        own = keys.find(c, sha256)
        bundle = keys.export(c, own.sha256, keks=site.keks())
        made.append(write_pkcs12(bundle, password=password, name=own.subject))
        return Change({"for": own.subject, "sha256": own.sha256, "file": out}, old=own.sha256)

    async def write(_: Site) -> None:  # no key is out that the audit trail does not tell of
        write_out(out, made[0], secret=True)

    change(config, "private-key-exported", sha256, take, after=write, as_json=as_json)


@certs.command("list")
def list_certs(
    owner: Annotated[str, typer.Option("--for", help="Only of this address or domain.")] = "",
    within: Annotated[
        int | None, typer.Option(help="Only in use and expiring within so many days.")
    ] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """List our certificates: what each does now, and the days it has left.

    Example: direct-gateway cert list --within 30
    """

    async def work(site: Site) -> list[dict[str, object]]:
        names = [getattr(_subject(owner), "key", owner.lower())] if owner else None
        found = await site.database.read(lambda c: keys.list_identities(c, names))
        wanted = (own for own in found if within is None or _expires(own, site, within))
        return [_row(own, site) for own in wanted]

    columns = ("for", "binding", "uses", "state", "expires", "days_left", "warning", "sha256")
    table("certificates", columns, on_site(config, work), as_json=as_json)


@certs.command("pending")
def list_pending(config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """List the keys that wait for their certificate.

    Example: direct-gateway cert pending
    """

    async def work(site: Site) -> list[dict[str, object]]:
        found = await site.database.read(pending.list_pending)
        return [
            {
                "for": one.subject,
                "public_key": one.public_sha256,
                "key": "token" if one.token_label else "database",
                "made": one.created_at,
            }
            for one in found
        ]

    columns = ("for", "public_key", "key", "made")
    table("pending keys", columns, on_site(config, work), as_json=as_json)


def _subject(owner: str) -> DirectAddress | str:
    return parse_address(owner) if "@" in owner else parse_domain(owner)


def _own_ca(site: Site) -> OwnCa:
    name = f"{site.config.gateway.hostname} CA"
    return OwnCa.open(site.config.gateway.data, keks=site.keks(), name=name, now=site.now)


def _kept(owner: str, certificate: x509.Certificate) -> Change:
    return Change(_described(owner, certificate), new=sha256_of(certificate).hex())


def _described(owner: str, certificate: x509.Certificate) -> dict[str, Any]:
    return {
        "for": owner,
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "expires": certificate.not_valid_after_utc,
        "sha256": sha256_of(certificate).hex(),
    }


def _print(
    certificate: x509.Certificate, out: Path | None, *chain: x509.Certificate, as_json: bool
) -> None:
    pem = b"".join(one.public_bytes(Encoding.PEM) for one in (certificate, *chain))
    if out is not None:
        write_out(out, pem)
    elif not as_json:
        typer.echo(pem.decode(), nl=False)
        return
    sha256 = sha256_of(certificate).hex()
    shown = {"sha256": sha256, "file": out, "pem": None if out else pem.decode()}
    show(shown, as_json=as_json)


def _expires(own: OwnIdentity, site: Site, days: int) -> bool:
    end = own.certificate.not_valid_after_utc
    return not own.is_retired(site.now) and end <= site.now + timedelta(days=days)


def _row(own: OwnIdentity, site: Site) -> dict[str, object]:
    end = own.certificate.not_valid_after_utc
    within = None if own.is_retired(site.now) else warning(end, site.now)
    return {
        "for": own.subject,
        "binding": own.binding.value,
        "uses": " ".join(sorted(use.value for use in own.uses)),
        "state": _state(own, site),
        "expires": end,
        "days_left": (end - site.now).days,
        "warning": within,
        "key": "token" if own.token_label else "database",
        "publish_at": own.publish_at,
        "sign_from": own.sign_from,
        "sign_until": own.sign_until,
        "retired": own.retired_at,
        "sha256": own.sha256,
    }


def _state(own: OwnIdentity, site: Site) -> str:
    now = site.now
    if own.is_retired(now):
        return "retired"
    if not own.is_valid(now):
        return "expired" if own.certificate.not_valid_after_utc < now else "not yet valid"
    does = ["signs"] if own.signs(now) else []
    does += ["published"] if own.is_published(now) else []
    return ", ".join(does) or "waits"
