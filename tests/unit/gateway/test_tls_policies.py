from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.dane import Tlsa
from gateway.mta_sts import Mode, StsPolicy
from gateway.tls_policies import PublishedPolicies
from gateway.tls_policy import OPPORTUNISTIC, Demand, Source, TlsPolicy

RECORD = Tlsa(3, 1, 1, bytes(32))
STS = StsPolicy(Mode.ENFORCE, ("mx.b.example",), 60)
ENFORCED = TlsPolicy(Demand.VERIFY, Source.MTA_STS)


@dataclass
class Published:
    """What the domain publishes, and how often somebody looks."""

    sts: StsPolicy | None = None
    tlsa: Sequence[Tlsa] = ()
    looked: int = 0

    async def policy(self, domain: str) -> StsPolicy | None:
        self.looked += 1
        return self.sts

    async def associations(self, domain: str, host: str, port: int) -> Sequence[Tlsa]:
        self.looked += 1
        return self.tlsa


def policies_of(
    published: Published, configured: Mapping[str, Demand] | None = None, *, dane: bool = True
) -> PublishedPolicies:
    return PublishedPolicies(
        configured=configured or {}, sts=published, dane=published if dane else None
    )


async def ask(policies: PublishedPolicies, host: str = "mx.b.example") -> TlsPolicy | None:
    return await policies.policy("b.example", host, 25)


async def test_where_nothing_is_published_tls_is_opportunistic() -> None:
    assert await ask(policies_of(Published())) is OPPORTUNISTIC


async def test_mta_sts_is_followed() -> None:
    policies = policies_of(Published(STS), dane=False)
    assert await ask(policies) == ENFORCED
    assert await ask(policies, "mx.evil.example") is None


async def test_dane_comes_before_mta_sts() -> None:
    published = Published(STS, [RECORD])
    policies = policies_of(published)
    assert await ask(policies) == TlsPolicy(Demand.DANE, Source.DANE, (RECORD,))
    published.tlsa = ()
    assert await ask(policies) == ENFORCED


async def test_configuration_comes_before_all_that_is_published() -> None:
    published = Published(STS, [RECORD])
    policies = policies_of(published, {"b.example": Demand.ENCRYPT, "*": Demand.VERIFY})
    assert await ask(policies) == TlsPolicy(Demand.ENCRYPT, Source.CONFIGURED)
    assert policies.configured("c.example") == TlsPolicy(Demand.VERIFY, Source.CONFIGURED)
    assert published.looked == 0


def test_without_configuration_nothing_is_configured() -> None:
    assert policies_of(Published()).configured("b.example") is None
