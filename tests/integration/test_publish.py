"""What we publish, served by a real Knot and slapd and found again: hosting cases H1 to H4."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import dns.name
import dns.tsig
import dns.zone
import pytest

from certs.address import parse_address
from certs.directory import open_directory
from certs.errors import DirectError, Reason
from certs.evidence import Evidence, Level
from gateway.dns_update import push_update
from gateway.publish import (
    LdapService,
    Publication,
    ldif,
    nsupdate_script,
    update_message,
    zone_text,
)
from tests.helpers import zones
from tests.helpers.pki import Ca
from tests.helpers.servers import SUFFIX, free_port, knot, slapd

DOMAIN = "direct.example.org"
ROOT = Ca.create("Root")
JONES = parse_address(f"Dr.Jones+x@{DOMAIN}")
OLD, NEW = (
    ROOT.issue(address=str(JONES), key="rsa4096", label=label).certificate
    for label in ("old", "new")
)
OWN = ROOT.issue(domain=DOMAIN).certificate
SECRET = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3I="
KEY = dns.tsig.Key("update.", SECRET, dns.tsig.HMAC_SHA256)


def publication(ldap_port: int = 389) -> Publication:
    return Publication(
        DOMAIN,
        [(JONES, OLD), (JONES, NEW), (DOMAIN, OWN)],
        mail_hosts=("mx1.example.org", "mx2.example.org"),
        ldap=(LdapService(f"ldap.{DOMAIN}", ldap_port),),
        ttl_s=600,
    )


def knot_zone(records: str) -> dict[str, str]:
    return {DOMAIN: zones.zone_text(DOMAIN, ["ldap IN A 127.0.0.1", records])}


async def found(address: str, resolver: tuple[str, int]) -> Evidence:
    async with open_directory(resolver=resolver, allow_private=True) as directory:
        return await directory.evidence_for(parse_address(address))


def certificates(evidence: Evidence) -> set[object]:
    return {one.certificate for one in evidence.found}


async def test_zone_is_found_by_address_and_by_domain(tmp_path: Path) -> None:
    """H1 and H2."""
    with knot(tmp_path, knot_zone(zone_text(publication()))) as resolver:
        by_address = await found(str(JONES), resolver)
        by_domain = await found(f"nobody@{DOMAIN}", resolver)
    assert certificates(by_address) == {OLD, NEW}
    assert certificates(by_domain) == {OWN}
    assert by_domain.found[0].level is Level.DNS_DOMAIN


async def test_ldif_is_found_by_address_and_by_domain(tmp_path: Path) -> None:
    """H3 and H4."""
    port = free_port()
    only_ldap = replace(publication(port), certificates=(), mail_hosts=())
    text = ldif(publication(), suffix=SUFFIX)
    with (
        slapd(tmp_path / "slapd", [], port=port, ldif=text),
        knot(tmp_path / "knot", knot_zone(zone_text(only_ldap))) as resolver,
    ):
        by_address = await found(str(JONES), resolver)
        by_domain = await found(f"nobody@{DOMAIN}", resolver)
    assert certificates(by_address) == {OLD, NEW}
    assert by_address.found[0].level is Level.LDAP_ADDRESS
    assert certificates(by_domain) == {OWN}
    assert by_domain.found[0].level is Level.LDAP_DOMAIN


UPDATES = f"""
key:
  - id: update.
    algorithm: hmac-sha256
    secret: {SECRET}
acl:
  - id: update
    key: update.
    action: update
"""


@pytest.fixture
def updated(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A Knot that takes updates of a zone without records of ours."""
    options = "    acl: update\n    journal-content: changes\n"
    with knot(tmp_path, knot_zone(""), extra=UPDATES, options=options) as server:
        yield server


async def test_update_replaces_what_was_there(updated: tuple[str, int]) -> None:
    """RFC2136."""
    await push_update(update_message(publication()), server=updated, key=KEY)
    assert certificates(await found(str(JONES), updated)) == {OLD, NEW}
    fewer = replace(publication(), certificates=[(JONES, NEW)])
    await push_update(update_message(fewer), server=updated, key=KEY)
    assert certificates(await found(str(JONES), updated)) == {NEW}
    assert certificates(await found(f"nobody@{DOMAIN}", updated)) == {OWN}


async def test_script_for_nsupdate_does_the_same(updated: tuple[str, int], tmp_path: Path) -> None:
    host, port = updated
    script = f"server {host} {port}\nkey hmac-sha256:update. {SECRET}\n"
    script += nsupdate_script(publication())
    run = partial(subprocess.run, ["nsupdate", "-v"], input=script, text=True, timeout=30)
    done = await asyncio.to_thread(run, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert certificates(await found(str(JONES), updated)) == {OLD, NEW}


async def test_update_with_another_key_is_refused(updated: tuple[str, int]) -> None:
    wrong = dns.tsig.Key("update.", "d3Jvbmc=", dns.tsig.HMAC_SHA256)
    with pytest.raises(DirectError) as caught:
        await push_update(update_message(publication()), server=updated, key=wrong)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID


async def test_update_of_another_zone_is_refused(updated: tuple[str, int]) -> None:
    other = Publication("other.example.org", [("other.example.org", OWN)])
    with pytest.raises(DirectError) as caught:
        await push_update(update_message(other), server=updated, key=KEY)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID


async def test_no_server_is_unavailable() -> None:
    with pytest.raises(DirectError) as caught:
        await push_update(update_message(publication()), server=("127.0.0.1", free_port()), key=KEY)
    assert caught.value.reason is Reason.DIRECTORY_UNAVAILABLE


def test_zone_lines_are_read_by_others_too() -> None:
    zone = dns.zone.from_text(zones.zone_text(DOMAIN, [zone_text(publication())]), relativize=False)
    mx = zone.get_rdataset(dns.name.from_text(DOMAIN), "MX")
    assert mx is not None
    assert mx.ttl == 600
    assert sorted(rdata.to_text() for rdata in mx) == ["0 mx1.example.org.", "10 mx2.example.org."]


def test_address_without_a_dns_name_is_for_ldap_only() -> None:
    long = parse_address(f"{'a' * 64}@{DOMAIN}")
    alone = Publication(DOMAIN, [(long, OLD)])
    with pytest.raises(DirectError) as caught:
        zone_text(alone)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID
    assert f"mail: {long}" in ldif(alone, suffix=SUFFIX).replace("\n ", "")


def test_ldif_lines_are_folded() -> None:
    assert max(map(len, ldif(publication(), suffix=SUFFIX).splitlines())) <= 76
