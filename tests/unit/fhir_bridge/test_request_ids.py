"""Each request has a name (fhir.md 4.1)."""

from __future__ import annotations

import re

import pytest

from tests.unit.fhir_bridge.conftest import World


async def test_a_request_is_named_by_its_client(world: World) -> None:
    for url in ("/metadata", "/Communication", "/Communication/nothing", "/nothing"):
        answer = await world.http.get(url, headers={"x-request-id": "call-17.a_B"})
        assert answer.headers["x-request-id"] == "call-17.a_B"


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({}, id="none"),
        pytest.param({"x-request-id": "two words"}, id="not-a-word"),
        pytest.param({"x-request-id": "x" * 65}, id="long"),
        pytest.param({"x-request-id": "<script>"}, id="markup"),
    ],
)
async def test_else_by_the_gateway(world: World, given: dict[str, str]) -> None:
    names = {
        (await world.http.get("/metadata", headers=given)).headers["x-request-id"] for _ in range(2)
    }
    assert len(names) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)
