"""A change of trust that is only tried: what `trust replay --with` says in one word.

Talks to the database and to the files it is given.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection

from certs.address import parse_domain
from certs.cert_files import certificates_in
from certs.errors import DirectError, Reason
from gateway.cli.common import Site, actor, read_file
from gateway.cli.trust_terms import bundle_in
from gateway.replay import Change
from trust_bundles import bundles, policies, store, versions
from trust_bundles.bundle import read_bundle
from trust_bundles.policy import Direction
from trust_bundles.versions import Arrival

__all__ = ["change_of"]


def change_of(connection: Connection, site: Site, text: str, owner: str) -> Change:
    """Return the change that `text` names; it is read here and made only where it is called.

    Raises:
        DirectError: RESOURCE_NOT_FOUND, CONFIGURATION_INVALID, BUNDLE_MALFORMED; it names nothing
            that can be done.
    """
    kind, colon, what = text.partition(":")
    name, equals, file = text.partition("=")
    if colon and kind in _KINDS:
        return _KINDS[kind](site, what, owner)
    if equals:
        return _content(site, name, Path(file))
    return _staged(connection, site, text)


def _staged(connection: Connection, site: Site, name: str) -> Change:
    number = bundles.get_bundle(connection, name).staged
    if number is None:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, f"bundle {name} has no staged version")
    anchors = read_bundle(versions.content_of(connection, name, number), now=site.now).anchors

    def work(c: Connection) -> None:
        versions.approve(c, name, number, anchors, actor=actor(), now=site.now)

    return work


def _content(site: Site, name: str, file: Path) -> Change:
    data, read = bundle_in(file)
    arrival = Arrival(data, read, None, "file", actor())

    def work(c: Connection) -> None:
        settings = bundles.get_bundle(c, name).settings
        bundles.change_bundle(c, name, replace(settings, needs_approval=False), site.now)
        versions.install(c, name, arrival, now=site.now, allow_older=True)

    return work


def _no_bundle(_: Site, name: str, __: str) -> Change:
    return lambda c: bundles.enable_bundle(c, name, enabled=False)


def _anchor(site: Site, file: str, owner: str) -> Change:
    certificates = certificates_in(read_file(Path(file)))

    def work(c: Connection) -> None:
        for certificate in certificates:
            store.add_anchor(
                c,
                certificate=certificate,
                domain_or_address=_owner(owner),
                directions=list(Direction),
                now=site.now,
            )

    return work


def _no_anchor(_: Site, sha256: str, owner: str) -> Change:
    def work(c: Connection) -> None:
        store.change_anchor(c, sha256, owner or None, enabled=False)

    return work


def _policy(site: Site, file: str, owner: str) -> Change:
    text = read_file(Path(file)).decode("utf-8", errors="replace")
    domain = parse_domain(_owner(owner))
    return lambda c: _set(c, domain, text, site)


def _set(c: Connection, domain: str, text: str, site: Site) -> None:
    policies.set_policy(c, domain, text, actor=actor(), now=site.now)


def _owner(owner: str) -> str:
    if not owner:
        raise DirectError(Reason.CONFIGURATION_INVALID, "say whose it is to be: --for DOMAIN")
    return owner


_KINDS = {
    "no-bundle": _no_bundle,
    "anchor": _anchor,
    "no-anchor": _no_anchor,
    "policy": _policy,
}
