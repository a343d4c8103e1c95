"""The rows that a discovery suite has beside the official cases, with caches off and on.

Requirements 12, `discovery`: the old case 517, mixed record types, mixed case, long labels, many
certificates, IPKIX, and answers that are broken. Real Knot, slapd and Unbound. What is refused or
slow is in `test_name_servers` and `tests/unit/certs/test_directory.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio
from cryptography import x509

from certs.address import parse_address
from certs.cache import CachingDirectory
from certs.directory import open_directory
from certs.errors import Reason
from certs.evidence import Evidence, Level
from tests.helpers.name_servers import unbound
from tests.helpers.pki import NOW, Ca, der
from tests.helpers.servers import Entry, free_port, knot, slapd
from tests.helpers.web import web
from tests.helpers.zones import cert_record, cname_record, srv_record, zone_text

# They share servers, whose start takes longer than all the rows.
pytestmark = pytest.mark.xdist_group("discovery-rows")

ROOT = Ca.create("Root")
DNS, LDAP, LAME = "dns.example.org", "ldap.example.org", "lame.example.org"


def issued(name: str, domain: str = DNS, key: str = "p256") -> x509.Certificate:
    return ROOT.issue(address=f"{name}@{domain}", key=key, label=f"{name} {key}").certificate


MIXED, CASED, ALIAS, DOTTED, ODD, FAR = map(
    issued, ("mixed", "cased", "alias", "first.last", "o'hara+x", "far")
)
MANY = [
    ROOT.issue(address=f"many@{DNS}", key="rsa4096", label=str(n)).certificate for n in range(4)
]
WALKED, SHARED = issued("walked", LDAP), issued("shared", LDAP)
OWN = ROOT.issue(domain=DNS).certificate
ORGANISATION = ROOT.issue(domain=LDAP).certificate
LABEL = "l" * 64  # one octet too many for a label


@dataclass(frozen=True)
class Row:
    """Who is asked for, and what is found where."""

    address: str
    found: frozenset[x509.Certificate]
    level: Level | None = None
    failure: Reason | None = None


ROWS = {
    "mixed-record-types": Row(f"mixed@{DNS}", frozenset({MIXED}), Level.DNS_ADDRESS),
    "only-other-record-types": Row(f"other@{DNS}", frozenset({OWN}), Level.DNS_DOMAIN),
    "record-that-does-not-parse": Row(f"broken@{DNS}", frozenset({OWN}), Level.DNS_DOMAIN),
    "mixed-case": Row(f"CaSeD@{DNS.upper()}", frozenset({CASED}), Level.DNS_ADDRESS),
    "dots-in-the-local-part": Row(f"first.last@{DNS}", frozenset({DOTTED}), Level.DNS_ADDRESS),
    "no-host-name": Row(f"o'hara+x@{DNS}", frozenset({ODD}), Level.DNS_ADDRESS),
    "label-too-long": Row(f"{LABEL}@{DNS}", frozenset({OWN}), Level.DNS_DOMAIN),
    "alias": Row(f"alias@{DNS}", frozenset({ALIAS}), Level.DNS_ADDRESS),
    "truncated": Row(f"many@{DNS}", frozenset(MANY), Level.DNS_ADDRESS),
    "ipkix": Row(f"far@{DNS}", frozenset({FAR}), Level.DNS_ADDRESS),
    "no-climbing": Row(f"mixed@sub.{DNS}", frozenset()),
    "old-517-server-walk": Row(f"walked@{LDAP}", frozenset({WALKED}), Level.LDAP_ADDRESS),
    "two-naming-contexts-one-closed": Row(
        f"shared@{LDAP}", frozenset({SHARED}), Level.LDAP_ADDRESS
    ),
    "entry-without-a-certificate": Row(
        f"bare@{LDAP}", frozenset({ORGANISATION}), Level.LDAP_DOMAIN
    ),
    "nobody-in-ldap": Row(f"nobody@{LDAP}", frozenset({ORGANISATION}), Level.LDAP_DOMAIN),
    "servfail": Row(f"u@{LAME}", frozenset(), failure=Reason.DIRECTORY_UNAVAILABLE),
}


def dns_records(url: str) -> list[str]:
    return [
        cert_record("mixed", b"mQ==", kind=3),
        cert_record("mixed", b"\x01\x02", kind=253),
        cert_record("mixed", MIXED, tag=4711),
        cert_record("other", b"mQ==", kind=3),
        cert_record("broken", b"not a certificate"),
        cert_record("cased", CASED),
        cert_record("first.last", DOTTED),
        cert_record(r"o\039hara\043x", ODD),
        cname_record("alias", "behind"),
        cert_record("behind", ALIAS),
        *[cert_record("many", certificate) for certificate in MANY],
        cert_record("far", url.encode(), kind=4),
        cert_record("@", OWN),
    ]


def ldap_records(empty: int, full: int) -> list[str]:
    """Old case 517: nobody listens at the first, the second has no certificate, the third has."""
    return [
        srv_record("ldap", free_port(), priority=0),
        srv_record("ldap", empty, priority=1),
        srv_record("ldap", full, priority=2),
        "ldap IN A 127.0.0.1",
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def resolver(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[str, int]]:
    folder = tmp_path_factory.mktemp("rows")
    bare = [Entry("walked", f"walked@{LDAP}"), Entry("bare", f"bare@{LDAP}")]
    full = [
        Entry("walked", f"Walked@{LDAP}", [WALKED]),
        Entry("shared", f"shared@{LDAP}", [SHARED]),
        Entry("organisation", LDAP, [ORGANISATION]),
    ]
    async with web() as site:
        site.files["/far"] = der(FAR)
        with ExitStack() as servers:
            _, second = servers.enter_context(slapd(folder / "second", bare))
            _, third = servers.enter_context(slapd(folder / "third", full))
            zones = {
                DNS: zone_text(DNS, dns_records(site.url("/far"))),
                LDAP: zone_text(LDAP, ldap_records(second, third)),
            }
            _, port = servers.enter_context(knot(folder / "knot", zones))
            stubs = dict.fromkeys((DNS, LDAP, LAME), port)
            yield servers.enter_context(unbound(folder / "unbound", stubs))


@pytest.mark.parametrize("cache", ["cache-off", "cache-on"])
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.asyncio(loop_scope="module")
async def test_row(name: str, cache: str, resolver: tuple[str, int]) -> None:
    row = ROWS[name]
    address = parse_address(row.address)
    async with open_directory(resolver=resolver, allow_private=True) as live:
        directory = (
            CachingDirectory(live=live, clock=lambda: NOW, database=None)
            if cache == "cache-on"
            else live
        )
        evidence = [await directory.evidence_for(address) for _ in range(2)]
    for one in evidence:
        assert _seen(one) == (row.found, row.level, row.failure)


def _seen(evidence: Evidence) -> tuple[frozenset[x509.Certificate], Level | None, Reason | None]:
    found = frozenset(one.certificate for one in evidence.found)
    level = evidence.found[0].level if evidence.found else None
    return found, level, evidence.failure
