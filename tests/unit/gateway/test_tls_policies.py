from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import dns.name
import dns.rdata
import pytest
from dns.rdataclass import IN
from dns.rdatatype import RdataType

from certs.dns_client import DnsAnswer
from certs.errors import DirectError, Reason
from gateway.dane import Tlsa
from gateway.tls_policies import PublishedPolicies
from gateway.tls_policy import OPPORTUNISTIC, Demand, Source, TlsPolicy
from tests.helpers.pki import NOW

POLICY = b"version: STSv1\nmode: enforce\nmx: mx.b.example\nmax_age: 86400\n"
ENFORCED = TlsPolicy(Demand.VERIFY, Source.MTA_STS)
MINUTES = timedelta(minutes=1)


@dataclass
class World:
    """DNS, the policy host, and the clock; all may be changed, and count what they are asked."""

    identity: str | None = "1"
    policy: bytes | None = POLICY
    now: datetime = NOW
    dns_works: bool = True
    tlsa: Sequence[Tlsa] = ()
    asked: int = 0
    fetched: list[str] = field(default_factory=list)

    async def records(self, name: dns.name.Name, kind: RdataType) -> DnsAnswer:
        assert name.to_text() == "_mta-sts.b.example."
        self.asked += 1
        if not self.dns_works:
            raise DirectError(Reason.DIRECTORY_UNAVAILABLE, "SERVFAIL")
        texts = [f'"v=STSv1; " "id={self.identity};"'] if self.identity else []
        return DnsAnswer(tuple(dns.rdata.from_text(IN, kind, text) for text in texts), 60, "x")

    async def get(self, url: str, *, limit_octets: int, deadline_s: float, redirects: int) -> bytes:
        # RFC8461 3.3: no redirect is followed.
        assert redirects == 0
        self.fetched.append(url)
        if self.policy is None:
            raise DirectError(Reason.DIRECTORY_UNAVAILABLE, "404")
        return self.policy

    async def associations(self, domain: str, host: str, port: int) -> Sequence[Tlsa]:
        return self.tlsa

    def policies(
        self, configured: Mapping[str, Demand] | None = None, *, dane: bool = False
    ) -> PublishedPolicies:
        return PublishedPolicies(
            configured=configured or {},
            dns=self,
            http=self,
            clock=lambda: self.now,
            dane=self if dane else None,
        )


async def ask(policies: PublishedPolicies, host: str = "mx.b.example") -> TlsPolicy | None:
    return await policies.policy("b.example", host, 25)


async def test_an_enforced_policy_is_fetched_once_and_then_remembered() -> None:
    world = World()
    policies = world.policies()
    assert await ask(policies) == ENFORCED
    assert await ask(policies) == ENFORCED
    assert await ask(policies, "mx.evil.example") is None
    assert world.fetched == ["https://mta-sts.b.example/.well-known/mta-sts.txt"]
    assert world.asked == 1


async def test_a_domain_without_a_policy_is_not_asked_for_each_message() -> None:
    world = World(identity=None)
    policies = world.policies()
    assert await ask(policies) is OPPORTUNISTIC
    assert await ask(policies) is OPPORTUNISTIC
    assert (world.asked, world.fetched) == (1, [])


async def test_a_new_id_is_noticed_and_fetched() -> None:
    world = World()
    policies = world.policies()
    await ask(policies)
    world.identity, world.policy = "2", POLICY.replace(b"enforce", b"testing")
    assert await ask(policies) == ENFORCED
    world.now += 11 * MINUTES
    assert await ask(policies) is OPPORTUNISTIC
    assert len(world.fetched) == 2


async def test_the_same_id_is_not_fetched_again() -> None:
    world = World()
    policies = world.policies()
    await ask(policies)
    world.now += 11 * MINUTES
    assert await ask(policies) == ENFORCED
    assert (world.asked, len(world.fetched)) == (2, 1)


@pytest.mark.parametrize("failure", ["policy-host", "bad-policy", "dns", "record-gone"])
async def test_a_policy_holds_until_it_expires_whatever_fails_meanwhile(failure: str) -> None:
    world = World()
    policies = world.policies()
    await ask(policies)
    world.identity = None if failure == "record-gone" else "2"
    world.dns_works = failure != "dns"
    world.policy = {"policy-host": None, "bad-policy": b"<html>"}.get(failure, POLICY)
    if failure == "dns":
        world.policy = None
    world.now += timedelta(hours=23)
    assert await ask(policies) == ENFORCED
    world.now += timedelta(hours=2)
    assert await ask(policies) is OPPORTUNISTIC


async def test_a_failed_fetch_is_tried_again_later() -> None:
    world = World(policy=None)
    policies = world.policies()
    assert await ask(policies) is OPPORTUNISTIC
    assert await ask(policies) is OPPORTUNISTIC
    assert len(world.fetched) == 1
    world.policy = POLICY
    world.now += 11 * MINUTES
    assert await ask(policies) == ENFORCED


async def test_configuration_comes_before_all_that_is_published() -> None:
    world = World(tlsa=[Tlsa(3, 1, 1, bytes(32))])
    policies = world.policies({"b.example": Demand.ENCRYPT, "*": Demand.VERIFY}, dane=True)
    assert await ask(policies) == TlsPolicy(Demand.ENCRYPT, Source.CONFIGURED)
    assert policies.configured("c.example") == TlsPolicy(Demand.VERIFY, Source.CONFIGURED)
    assert world.asked == 0


async def test_dane_comes_before_mta_sts() -> None:
    record = Tlsa(3, 1, 1, bytes(32))
    world = World(tlsa=[record])
    policies = world.policies(dane=True)
    assert await ask(policies) == TlsPolicy(Demand.DANE, Source.DANE, (record,))
    world.tlsa = ()
    assert await ask(policies) == ENFORCED


def test_without_configuration_nothing_is_configured() -> None:
    assert World().policies().configured("b.example") is None
