"""A short run of tests/fuzz/fhir_requests.py; `make fuzz-fhir` is the long one."""

from __future__ import annotations

import pytest

from tests.fuzz.fhir_requests import send


# Seeds far apart: each range is another mixture.
@pytest.mark.parametrize("seed", [0, 1_000_000])
async def test_no_request_is_an_error_of_ours(seed: int) -> None:
    answered = await send(1000, seed)
    assert answered.wrong == []
    # It gets through to handlers of every kind: not all is turned away at the door.
    assert {200, 201, 400, 404, 409, 422} <= set(answered.statuses)
