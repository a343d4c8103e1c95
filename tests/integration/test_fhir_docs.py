"""Every example in docs/fhir.md is sent to the API and answered as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.fhir_bridge.conftest import BASE, World, empty_database, sqlite_database, world

__all__ = ["empty_database", "sqlite_database", "world"]

PAGE = (Path(__file__).parent.parent.parent / "docs" / "fhir.md").read_text()
EXAMPLES = re.findall(
    r"<!-- example: (\w+) (\S+) (\d+) -->\n```(json|http)\n(.*?)```", PAGE, re.DOTALL
)


@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "text"), EXAMPLES, ids=range(len(EXAMPLES))
)
async def test_an_example_works_as_written(
    world: World,
    method: str,
    path: str,
    status: str,
    kind: str,
    text: str,
) -> None:
    if kind == "http":
        first, *headers = text.strip().splitlines()
        asked, _, url = first.partition(" /fhir/R4/")
        assert (asked, url.partition("?")[0]) == (method, path.removeprefix("/"))
        given = dict(header.split(": ", 1) for header in headers)
        answer = await world.http.get(f"{BASE}/{url}", headers=given)
    else:
        headers = {"content-type": "application/fhir+json"}
        answer = await world.http.post(f"/{path}", content=text, headers=headers)
    assert answer.status_code == int(status), answer.text
    assert "fatal-error" not in answer.text  # what a message is answered by has status 200


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) == len(re.findall("<!-- example:", PAGE)) >= 8
