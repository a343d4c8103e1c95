from __future__ import annotations

import ssl

import pytest

from certs.dns_client import DnsClient
from certs.errors import DirectError, Reason
from certs.ldap_client import LdapClient
from gateway.dns_responder import DnsResponder
from gateway.domain_check import Seen, Sts, View, Wanted
from gateway.domain_view import PublicView
from gateway.mta_sts import Mode, StsPolicy
from gateway.mx import MxResolver
from tests.helpers.servers import free_port
from tests.helpers.zones import zone_of

DOMAIN = "d.example.org"
ALLOWS = StsPolicy(Mode.TESTING, ("mx.d.example.org",), 86400)
POLICY = b"version: STSv1\nmode: testing\nmx: mx.d.example.org\nmax_age: 86400\n"


class PolicyHost:
    """Serves one policy, or nothing where there is none."""

    def __init__(self, policy: bytes | None) -> None:
        self._policy = policy

    async def get(
        self, url: str, *, limit_octets: int, deadline_s: float, redirects: int, media_type: str
    ) -> bytes:
        assert (url, redirects) == (f"https://mta-sts.{DOMAIN}/.well-known/mta-sts.txt", 0)
        if self._policy is None:
            raise DirectError(Reason.DIRECTORY_UNAVAILABLE, "HTTP 404")
        return self._policy


async def view(*records: str, policy: bytes | None = None, addresses: tuple[str, ...] = ()) -> View:
    zones = zone_of(DOMAIN, ["mx IN A 127.0.0.1", *records])
    responder = DnsResponder(zones)
    where = await responder.start()
    client = DnsClient(resolver=where, allow_private=True, authority_port=where[1])
    ldap = LdapClient()
    seen = PublicView(
        dns=client,
        ldap=ldap,
        http=PolicyHost(policy),
        mail=MxResolver(dns=client, port=free_port()),
        hostname="check.example.org",
        verifying=ssl.create_default_context(),
    )
    try:
        return await seen.of(Wanted(DOMAIN, dict.fromkeys((DOMAIN, *addresses), frozenset()), ()))
    finally:
        ldap.close()
        await responder.stop()


@pytest.mark.parametrize(
    ("text", "policy", "expected"),
    [
        pytest.param("v=STSv1; id=1", POLICY, Sts(True, ALLOWS), id="policy"),
        pytest.param("v=STSv1; id=1", None, Sts(True, failure="HTTP 404"), id="no-policy"),
        pytest.param(
            "v=STSv1; id=1", b"<html>", Sts(True, failure="MTA-STS policy: bad mode"), id="web-page"
        ),
        pytest.param("v=STSv1;", POLICY, Sts(True, failure="TXT record is not valid"), id="no-id"),
        pytest.param("something else", POLICY, Sts(), id="not-announced"),
    ],
)
async def test_mta_sts(text: str, policy: bytes | None, expected: Sts) -> None:
    assert (await view(f'_mta-sts IN TXT "{text}"', policy=policy)).sts == expected


async def test_mail_host_that_is_down_is_seen_as_such() -> None:
    seen = await view("@ IN MX 10 mx")
    (server,) = seen.tls["mx.d.example.org"]
    assert server.address == "127.0.0.1"
    assert server.failure is not None


async def test_null_mx_is_a_failure() -> None:
    assert (await view("@ IN MX 0 .")).mail_hosts == Seen(failure=f"{DOMAIN} has a null MX")


async def test_address_that_is_no_dns_name_is_not_asked_for() -> None:
    """CD-021."""
    long = f"{'a' * 64}@{DOMAIN}"
    seen = await view(addresses=(long,))
    assert list(seen.certificates) == [DOMAIN]
    assert [subject for subject, _ in seen.by_tcp] == [DOMAIN]


async def test_only_tls_reporting_records_are_shown() -> None:
    seen = await view('_smtp._tls IN TXT "v=TLSRPTv1; rua=mailto:a@b"', '_smtp._tls IN TXT "x"')
    assert seen.tls_report == Seen(("v=TLSRPTv1; rua=mailto:a@b",))
