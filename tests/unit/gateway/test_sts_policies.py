from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import dns.name
import dns.rdata
import pytest
from dns.rdataclass import IN
from dns.rdatatype import RdataType

from certs.dns_client import DnsAnswer
from certs.errors import DirectError, Reason
from gateway.database import SqlDatabase
from gateway.mta_sts import Mode, StsPolicy
from gateway.sts_policies import DOMAINS, StsPolicies
from tests.helpers.pki import NOW

POLICY = b"version: STSv1\nmode: enforce\nmx: mx.b.example\nmax_age: 86400\n"
ENFORCED = StsPolicy(Mode.ENFORCE, ("mx.b.example",), 86400)
MINUTES = timedelta(minutes=1)


@dataclass
class World:
    """DNS, the policy host, and the clock; all may be changed, and count what they are asked."""

    identity: str | None = "1"
    policy: bytes | None = POLICY
    now: datetime = NOW
    dns_works: bool = True
    asked: int = 0
    fetched: list[str] = field(default_factory=list)

    async def records(self, name: dns.name.Name, kind: RdataType) -> DnsAnswer:
        assert name.to_text().startswith("_mta-sts.")
        self.asked += 1
        if not self.dns_works:
            raise DirectError(Reason.DIRECTORY_UNAVAILABLE, "SERVFAIL")
        texts = [f'"v=STSv1; " "id={self.identity};"'] if self.identity else []
        return DnsAnswer(tuple(dns.rdata.from_text(IN, kind, text) for text in texts), 60, "x")

    async def get(
        self, url: str, *, limit_octets: int, deadline_s: float, redirects: int, media_type: str
    ) -> bytes:
        # RFC8461 3.3: no redirect is followed.
        assert (redirects, media_type) == (0, "text/plain")
        self.fetched.append(url)
        if self.policy is None:
            raise DirectError(Reason.DIRECTORY_UNAVAILABLE, "404")
        return self.policy

    def policies(self, database: SqlDatabase | None = None) -> StsPolicies:
        return StsPolicies(dns=self, http=self, clock=lambda: self.now, database=database)


async def ask(policies: StsPolicies) -> StsPolicy | None:
    return await policies.policy("b.example")


async def test_a_policy_is_fetched_once_and_then_remembered() -> None:
    world = World()
    policies = world.policies()
    assert await ask(policies) == ENFORCED
    assert await ask(policies) == ENFORCED
    assert world.fetched == ["https://mta-sts.b.example/.well-known/mta-sts.txt"]
    assert world.asked == 1


async def test_a_domain_without_a_policy_is_not_asked_for_each_message() -> None:
    world = World(identity=None)
    policies = world.policies()
    assert await ask(policies) is None
    assert await ask(policies) is None
    assert (world.asked, world.fetched) == (1, [])


async def test_a_new_id_is_noticed_and_fetched() -> None:
    world = World()
    policies = world.policies()
    await ask(policies)
    world.identity, world.policy = "2", POLICY.replace(b"enforce", b"testing")
    assert await ask(policies) == ENFORCED
    world.now += 11 * MINUTES
    policy = await ask(policies)
    assert policy is not None
    assert policy.mode is Mode.TESTING
    assert len(world.fetched) == 2


async def test_the_same_id_is_not_fetched_again() -> None:
    world = World()
    policies = world.policies()
    await ask(policies)
    world.now += 11 * MINUTES
    assert await ask(policies) == ENFORCED
    assert (world.asked, len(world.fetched)) == (2, 1)


@pytest.mark.parametrize("failure", ["policy-host", "bad-policy", "dns"])
async def test_a_policy_holds_until_it_expires_whatever_fails_meanwhile(failure: str) -> None:
    world = World()
    policies = world.policies()
    await ask(policies)
    world.identity = "2"
    world.dns_works = failure != "dns"
    world.policy = {"policy-host": None, "bad-policy": b"<html>"}.get(failure, POLICY)
    if failure == "dns":
        world.policy = None
    world.now += timedelta(hours=23)
    assert await ask(policies) == ENFORCED
    world.now += timedelta(hours=2)
    assert await ask(policies) is None


@pytest.mark.parametrize("record", ["1", None], ids=["same-id", "record-gone"])
@pytest.mark.parametrize(
    ("max_age_s", "hours"),
    [pytest.param(86400, 12, id="half-its-life"), pytest.param(864000, 24, id="a-day")],
)
async def test_a_policy_is_fetched_anew_long_before_it_expires(
    record: str | None, max_age_s: int, hours: int
) -> None:
    world = World(policy=POLICY.replace(b"86400", b"%d" % max_age_s))
    policies = world.policies()
    await ask(policies)
    world.identity = record
    world.now += timedelta(hours=hours) - MINUTES
    await ask(policies)
    assert len(world.fetched) == 1
    world.now += 11 * MINUTES
    await ask(policies)
    assert len(world.fetched) == 2
    world.now += timedelta(seconds=max_age_s) - 11 * MINUTES
    world.dns_works, world.policy = False, None
    assert await ask(policies) is not None


async def test_a_policy_that_cannot_be_fetched_anew_holds_on_and_is_tried_again() -> None:
    world = World()
    policies = world.policies()
    await ask(policies)
    world.policy = None
    world.now += timedelta(hours=13)
    assert await ask(policies) == ENFORCED
    world.policy = POLICY
    world.now += 11 * MINUTES
    assert await ask(policies) == ENFORCED
    assert len(world.fetched) == 3
    world.now += timedelta(hours=11)
    assert await ask(policies) == ENFORCED
    assert len(world.fetched) == 3


async def test_when_a_policy_was_fetched_outlasts_a_restart(sqlite_database: SqlDatabase) -> None:
    world = World()
    await ask(world.policies(sqlite_database))
    world.now += timedelta(hours=13)
    policies = world.policies(sqlite_database)
    assert await ask(policies) == ENFORCED
    assert len(world.fetched) == 2


async def test_a_failed_fetch_is_tried_again_later() -> None:
    world = World(policy=None)
    policies = world.policies()
    assert await ask(policies) is None
    assert await ask(policies) is None
    assert len(world.fetched) == 1
    world.policy = POLICY
    world.now += 11 * MINUTES
    assert await ask(policies) == ENFORCED


async def test_a_policy_outlasts_a_restart(sqlite_database: SqlDatabase) -> None:
    world = World()
    assert await ask(world.policies(sqlite_database)) == ENFORCED
    world.dns_works, world.policy = False, None
    assert await ask(world.policies(sqlite_database)) == ENFORCED
    world.now += timedelta(hours=25)
    assert await ask(world.policies(sqlite_database)) is None


async def test_of_many_domains_only_so_many_are_kept_in_memory() -> None:
    world = World(identity=None)
    policies = world.policies()
    for number in range(DOMAINS + 1):
        assert await policies.policy(f"{number}.example") is None
    assert world.asked == DOMAINS + 1
    assert await policies.policy(f"{DOMAINS}.example") is None
    assert world.asked == DOMAINS + 1
    assert await policies.policy("0.example") is None
    assert world.asked == DOMAINS + 2
