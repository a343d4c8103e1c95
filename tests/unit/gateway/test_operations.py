from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from ipaddress import IPv4Network
from typing import Any

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from certs import keys
from certs.address import parse_address
from certs.errors import DirectError, Reason
from certs.pkcs12 import KeyBundle
from gateway import domains, queue
from gateway.database import SqlDatabase
from gateway.mta_sts import Mode, StsPolicy, parse_policy
from gateway.operations import with_operations
from gateway.queue import NewJob
from tests.helpers.pki import NOW, Ca, private_key_of

LOOPBACK = (IPv4Network("127.0.0.0/8"),)
ENFORCED = StsPolicy(Mode.ENFORCE, ("gw.example.org",), 60)
TESTED = StsPolicy(Mode.TESTING, ("gw.example.org",), 60)


class Away:
    """A database that cannot be reached."""

    async def read(self, work: Callable[[sa.Connection], Any]) -> Any:
        raise DirectError(Reason.INTERNAL, "disk")

    write = read


def client_of(
    database: Any, peer: str = "127.0.0.1", sts: StsPolicy | None = None
) -> httpx.AsyncClient:
    registry = CollectorRegistry()
    Counter("things", "Things", registry=registry).inc()
    inner = Starlette(routes=[Route("/fhir/R4/metadata", lambda _: PlainTextResponse("fhir"))])
    app = with_operations(
        inner,
        database=database,
        registry=registry,
        clock=lambda: NOW,
        metrics_to=LOOPBACK,
        sts=sts,
    )
    transport = httpx.ASGITransport(app, client=(peer, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://gw")


@pytest_asyncio.fixture
async def client(sqlite_database: SqlDatabase) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(sqlite_database) as client:
        yield client


async def test_alive_and_ready(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).text == "ok\n"
    assert (await client.get("/readyz")).status_code == 200


async def test_alive_but_not_ready_without_the_database() -> None:
    async with client_of(Away()) as client:
        assert (await client.get("/healthz")).status_code == 200
        answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert "disk" not in answer.text


async def test_all_other_paths_are_the_applications(client: httpx.AsyncClient) -> None:
    assert (await client.get("/fhir/R4/metadata")).text == "fhir"
    assert (await client.get("/nothing")).status_code == 404


async def test_metrics_are_for_the_networks_they_are_configured_for(
    sqlite_database: SqlDatabase,
) -> None:
    async with client_of(sqlite_database, "192.0.2.1") as stranger:
        assert (await stranger.get("/metrics")).status_code == 404


async def test_metrics_of_queue_and_certificates(
    sqlite_database: SqlDatabase, client: httpx.AsyncClient
) -> None:
    text = (await client.get("/metrics")).text
    assert "things_total 1.0" in text
    assert "\ndirect_gateway_certificate_first_expiry_days" not in text

    identity = Ca.create("CA").issue(address="a@b.example", not_after=NOW + timedelta(days=30))
    bundle = KeyBundle(private_key_of(identity), identity.certificate, ())

    def work(c: sa.Connection) -> None:
        queue.put(c, NewJob("deliver", {}, NOW - timedelta(seconds=90)), NOW)
        keys.add(c, bundle, subject=parse_address("a@b.example"), kek=bytes(32), now=NOW)

    await sqlite_database.write(work)
    text = (await client.get("/metrics")).text
    assert 'direct_gateway_queue_jobs{kind="deliver",state="ready"} 1.0' in text
    assert 'direct_gateway_queue_overdue_seconds{kind="deliver",state="ready"} 90.0' in text
    assert "direct_gateway_certificate_first_expiry_days 30.0" in text


@pytest.mark.parametrize(
    ("name", "policy", "found"),
    [
        ("mta-sts.direct.hillside.example", ENFORCED, True),
        ("MTA-STS.direct.hillside.example", TESTED, True),
        (
            "mta-sts.direct.lakeview.example",
            ENFORCED,
            False,
        ),
        ("direct.hillside.example", ENFORCED, False),
        ("mta-sts.direct.hillside.example", None, False),
    ],
)
async def test_mta_sts_policy_is_served_for_our_domains_where_there_is_one(
    sqlite_database: SqlDatabase, name: str, policy: StsPolicy | None, *, found: bool
) -> None:
    await sqlite_database.write(lambda c: domains.add_domain(c, "direct.hillside.example", NOW))
    async with client_of(sqlite_database, sts=policy) as client:
        answer = await client.get("/.well-known/mta-sts.txt", headers={"Host": f"{name}:8443"})
    assert answer.status_code == (200 if found else 404)
    if found:
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert parse_policy(answer.content) == policy
