from __future__ import annotations

import pytest

from gateway.dane import Tlsa
from gateway.mta_sts import Mode, StsPolicy
from gateway.tls_policy import OPPORTUNISTIC, Demand, Source, TlsPolicy, host_policy

GOOD = Tlsa(3, 1, 1, bytes(32))
UNUSABLE = Tlsa(1, 1, 1, bytes(32))


def sts(mode: Mode) -> StsPolicy:
    return StsPolicy(mode, ("mx.b.example",), 60)


@pytest.mark.parametrize(
    ("associations", "policy", "expected"),
    [
        pytest.param([], None, OPPORTUNISTIC, id="nothing-published"),
        pytest.param([], sts(Mode.TESTING), OPPORTUNISTIC, id="sts-testing"),
        pytest.param([], sts(Mode.NONE), OPPORTUNISTIC, id="sts-none"),
        pytest.param(
            [], sts(Mode.ENFORCE), TlsPolicy(Demand.VERIFY, Source.MTA_STS), id="sts-enforce"
        ),
        pytest.param(
            [GOOD, UNUSABLE], None, TlsPolicy(Demand.DANE, Source.DANE, (GOOD,)), id="dane"
        ),
        pytest.param(
            [GOOD],
            sts(Mode.ENFORCE),
            TlsPolicy(Demand.DANE, Source.DANE, (GOOD,)),
            id="dane-before-sts",
        ),
        pytest.param(
            [UNUSABLE], None, TlsPolicy(Demand.ENCRYPT, Source.DANE), id="dane-unusable-is-tls"
        ),
    ],
)
def test_what_is_published(
    associations: list[Tlsa], policy: StsPolicy | None, expected: TlsPolicy
) -> None:
    assert host_policy("mx.b.example", associations=associations, sts=policy) == expected


def test_a_host_that_the_policy_does_not_name_may_not_be_used() -> None:
    assert host_policy("mx.evil.example", associations=[], sts=sts(Mode.ENFORCE)) is None
    assert host_policy("mx.evil.example", associations=[], sts=sts(Mode.TESTING)) is OPPORTUNISTIC


@pytest.mark.parametrize(
    ("demand", "required"),
    [
        (Demand.NONE, False),
        (Demand.OPPORTUNISTIC, False),
        (Demand.ENCRYPT, True),
        (Demand.VERIFY, True),
        (Demand.DANE, True),
    ],
)
def test_when_tls_is_required(demand: Demand, *, required: bool) -> None:
    assert TlsPolicy(demand, Source.CONFIGURED).required is required
