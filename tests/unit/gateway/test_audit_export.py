"""gateway.audit_export."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pytest
from fhir.resources.R4B.auditevent import AuditEvent as FhirAuditEvent

from certs.errors import DirectError, Reason
from gateway import audit
from gateway.audit import AuditEvent, first_broken
from gateway.audit_export import events_of, fhir_audit_event, line_of
from gateway.database import SqlDatabase

NOW = datetime(2026, 1, 2, 12, 0, 0, 5, tzinfo=UTC)
EVENT = AuditEvent(
    7, NOW, "admin", "anchor-added", "a.example", "done", None, "ab" * 32, "0" * 64, "1" * 64
)


async def test_the_exported_chain_is_verified_without_the_database(database: SqlDatabase) -> None:
    for subject in ("a.example", "ü.example", "c.example"):
        await database.write(
            partial(
                audit.record, now=NOW, actor="admin", action="x", subject=subject, outcome="done"
            )
        )
    first = await database.read(lambda c: audit.events_since(c, 0, limit=2))
    rest = await database.read(lambda c: audit.events_since(c, 2, limit=9))
    lines = [line_of(event) for event in (*first, *rest)]
    assert first_broken(events_of(lines)) is None
    assert first_broken(events_of(lines[2:]), since=audit.Head(2, first[1].digest)) is None
    assert first_broken(events_of([lines[0], lines[2]])) == 2
    assert first_broken(events_of([lines[0], lines[1].replace("admin", "nobody")])) == 2


def test_an_event_is_one_line_of_plain_json() -> None:
    line = line_of(EVENT)
    assert "\n" not in line
    assert json.loads(line)["at"] == "2026-01-02T12:00:00.000005+00:00"
    assert list(events_of([line])) == [EVENT]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("", id="empty"),
        pytest.param("[]", id="not-an-object"),
        pytest.param("7", id="a-number"),
        pytest.param('{"number": 1}', id="incomplete"),
        pytest.param(line_of(EVENT).replace('"a.example"', "5"), id="not-a-text"),
        pytest.param(line_of(EVENT).replace("2026", "year"), id="not-a-time"),
    ],
)
def test_not_an_event(line: str) -> None:
    with pytest.raises(DirectError) as caught:
        list(events_of([line]))
    assert caught.value.reason is Reason.RESOURCE_INVALID


@pytest.mark.parametrize(
    ("outcome", "code"), [("done", "0"), ("", "0"), ("failure", "4"), ("refused", "4")]
)
def test_a_fhir_audit_event_is_valid_and_tells_the_outcome(outcome: str, code: str) -> None:
    resource = fhir_audit_event(replace(EVENT, outcome=outcome))
    FhirAuditEvent.model_validate(resource)
    assert resource["outcome"] == code
    assert resource["agent"][0]["who"]["display"] == "admin"
    details = resource["entity"][0]["detail"]
    assert {d["type"]: d["valueString"] for d in details} == {"new": "ab" * 32, "digest": "1" * 64}
