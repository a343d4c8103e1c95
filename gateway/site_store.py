"""The things of a site in the database: what is there, and each step that changes it.

Talks to the database through the connection it is handed, and to the file of a new user's password.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.address import parse_address
from certs.errors import DirectError
from certs.kek import read_secret
from certs.policy import Profile
from fhir_bridge import client_control
from fhir_bridge import clients as api_clients
from fhir_bridge.backend_clients import add_backend_client, keys_of
from gateway import domain_control, domains
from gateway.site_file import Thing
from gateway.site_plan import Act, Step
from trust_bundles import bundles, policies, store
from trust_bundles.bundles import Settings
from trust_bundles.policy import Direction, Period

__all__ = ["Made", "carry_out", "present"]

PASSWORD_OCTETS: Final = 18


@dataclass(frozen=True, slots=True)
class Made:
    """A secret that was made with a thing; it is shown once."""

    kind: str
    name: str
    secret: str


def present(connection: sa.Connection) -> list[Thing]:
    """Return all things of the site, each kind in order."""
    return [
        *(_domain(connection, one) for one in domains.list_domains(connection)),
        *(_address(one) for one in domains.list_addresses(connection)),
        *(_user(one) for one in domain_control.list_edge_users(connection)),
        *(_client(connection, one) for one in api_clients.list_clients(connection)),
        *(_bundle(connection, one) for one in bundles.list_bundles(connection)),
        *(_anchor(one) for one in store.list_anchors(connection)),
    ]


def carry_out(
    connection: sa.Connection, step: Step, *, folder: Path, actor: str, now: datetime
) -> Made | None:
    """Take one step; return the secret that was made with a new user or client.

    `folder` is where relative paths in the declaration count from.

    Raises:
        DirectError: as the store functions do; with the thing it is about.
    """
    context = _Context(connection, folder, actor, now)
    thing = step.thing
    try:
        return _KINDS[thing.kind](context, step)
    except DirectError as error:
        detail = f"{thing.kind} {thing.key}: {error.detail}"
        raise DirectError(error.reason, detail) from None


@dataclass(frozen=True, slots=True)
class _Context:
    c: sa.Connection
    folder: Path
    actor: str
    now: datetime


def _domain(connection: sa.Connection, one: domains.Domain) -> Thing:
    text = policies.text_of(connection, one.name)
    policy = {"policy": text} if text is not None else {}
    return Thing(
        "domain", one.name, {"profile": one.profile.value, "enabled": one.enabled, **policy}
    )


def _do_domain(context: _Context, step: Step) -> None:
    c, name, values = context.c, step.thing.key, step.thing.values
    if step.act is Act.REMOVE:
        domain_control.remove_domain(c, name)
        store.forget_owner(c, name)
        return
    profile = Profile(values["profile"])
    if step.act is Act.ADD:
        domains.add_domain(c, name, context.now, profile=profile)
    domain_control.change_domain(c, name, profile=profile, enabled=values["enabled"])
    if "policy" in values:
        policies.set_policy(c, name, values["policy"], actor=context.actor, now=context.now)
    elif step.before is not None and "policy" in step.before.values:
        policies.remove_policy(c, name)


def _address(one: domains.LocalAddress) -> Thing:
    return Thing("address", one.address.key, {"enabled": one.enabled, **one.settings})


def _do_address(context: _Context, step: Step) -> None:
    c, address = context.c, parse_address(step.thing.key)
    if step.act is Act.REMOVE:
        domain_control.remove_address(c, address)
        client_control.forget_mailbox(c, address)
        store.forget_owner(c, address.key)
        return
    settings = dict(step.thing.values)
    enabled = settings.pop("enabled")
    if step.act is Act.ADD:
        domains.add_address(c, address, context.now, settings=settings)
    domain_control.change_address(c, address, enabled=enabled, settings=settings)


def _user(one: domain_control.EdgeUser) -> Thing:
    return Thing("user", one.name, {"addresses": sorted(one.may_send), "enabled": one.enabled})


def _do_user(context: _Context, step: Step) -> Made | None:
    c, thing = context.c, step.thing
    if step.act is Act.REMOVE:
        domain_control.remove_edge_user(c, thing.key)
        return None
    addresses = [parse_address(text) for text in thing.values["addresses"]]
    made = None
    if step.act is Act.ADD:
        password, made = _password(context, thing)
        domains.add_edge_user(c, thing.key, domains.hash_password(password), addresses, context.now)
    domain_control.change_edge_user(
        c, thing.key, enabled=thing.values["enabled"], may_send=addresses
    )
    return made


def _password(context: _Context, thing: Thing) -> tuple[str, Made | None]:
    file = thing.aside.get("password_file")
    if file:
        data = read_secret(context.folder / file)
        return data.decode("utf-8", "replace").partition("\n")[0].rstrip("\r"), None
    password = secrets.token_urlsafe(PASSWORD_OCTETS)
    return password, Made("user", thing.key, password)


def _client(connection: sa.Connection, one: api_clients.Client) -> Thing:
    jwks = keys_of(connection, one.id)
    values = {
        "mailboxes": sorted(one.mailboxes),
        "scopes": one.scopes.text,
        "enabled": not one.disabled,
        **({"jwks": jwks} if jwks else {}),
    }
    return Thing("client", one.name, values)


def _do_client(context: _Context, step: Step) -> Made | None:
    c, name, values = context.c, step.thing.key, step.thing.values
    if step.act is Act.REMOVE:
        client_control.remove_client(c, name)
        return None
    mailboxes = [parse_address(text) for text in values["mailboxes"]]
    jwks, scopes = values.get("jwks"), values["scopes"]
    made = None
    if step.act is Act.ADD and jwks:
        add_backend_client(c, name, mailboxes, jwks, context.now, scopes=scopes)
    elif step.act is Act.ADD:
        token = api_clients.add_client(c, name, mailboxes, context.now, scopes=scopes)
        made = Made("client", name, token)
    client_control.change_client(
        c,
        name,
        mailboxes=mailboxes,
        scopes=scopes,
        jwks=jwks,
        disabled=not values["enabled"],
    )
    return made


def _bundle(connection: sa.Connection, one: bundles.StoredBundle) -> Thing:
    settings = one.settings
    texts = {"url": settings.url, "signers": settings.signers, "tls_ca": settings.tls_ca}
    uses = {
        use.owner: sorted(way.value for way in use.directions)
        for use in bundles.list_uses(connection, name=one.name)
    }
    values = {
        **{name: text for name, text in texts.items() if text},
        "every_s": round(settings.interval.total_seconds()),
        "approve": settings.needs_approval,
        "enabled": one.enabled,
        "for": dict(sorted(uses.items())),
    }
    return Thing("bundle", one.name, values)


def _do_bundle(context: _Context, step: Step) -> None:
    c, name, values = context.c, step.thing.key, step.thing.values
    if step.act is Act.REMOVE:
        bundles.remove_bundle(c, name)
        return
    settings = Settings(
        url=values.get("url"),
        interval=timedelta(seconds=values["every_s"]),
        signers=values.get("signers"),
        tls_ca=values.get("tls_ca"),
        needs_approval=values["approve"],
    )
    if step.act is Act.ADD:
        bundles.add_bundle(c, name, settings, context.now)
    else:
        bundles.change_bundle(c, name, settings, context.now)
    bundles.enable_bundle(c, name, enabled=values["enabled"])
    used: Mapping[str, Any] = step.before.values["for"] if step.before else {}
    for owner in used:
        if owner not in values["for"]:
            bundles.detach(c, name, owner)
    for owner, ways in values["for"].items():
        bundles.attach(c, name, owner, frozenset(Direction(way) for way in ways), context.now)


def _anchor(one: store.StoredAnchor) -> Thing:
    bounds = {"begins": one.period.begins, "ends": one.period.ends}
    values = {
        "for": one.owner,
        "certificate": one.certificate.public_bytes(Encoding.PEM).decode(),
        "directions": sorted(way.value for way in one.directions),
        "enabled": one.enabled,
        **{name: time.isoformat() for name, time in bounds.items() if time is not None},
    }
    return Thing("anchor", f"{one.owner} {one.sha256}", values)


def _do_anchor(context: _Context, step: Step) -> None:
    values = step.thing.values
    owner, _, sha256 = step.thing.key.partition(" ")
    if step.act is Act.REMOVE:
        store.remove_anchor(context.c, sha256, owner)
        return
    store.add_anchor(
        context.c,
        certificate=x509.load_pem_x509_certificate(values["certificate"].encode()),
        domain_or_address=owner,
        directions=frozenset(Direction(way) for way in values["directions"]),
        now=context.now,
        period=Period(_time(values.get("begins")), _time(values.get("ends"))),
    )
    store.change_anchor(context.c, sha256, owner, enabled=values["enabled"])


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


_KINDS: Final[Mapping[str, Callable[[_Context, Step], Made | None]]] = {
    "domain": _do_domain,
    "address": _do_address,
    "user": _do_user,
    "client": _do_client,
    "bundle": _do_bundle,
    "anchor": _do_anchor,
}
