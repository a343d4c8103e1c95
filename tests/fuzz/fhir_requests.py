"""Malformed requests at the FHIR API: whatever is sent, the answer is FHIR's, soon, and no 500.

`python -m tests.fuzz.fhir_requests 10000` sends so many; `make test` sends fewer
(tests/integration/test_fhir_hostile.py). Every request is made from a seed, so that one that fails
can be sent again.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from certs.address import parse_address
from fhir_bridge.api import create_app
from fhir_bridge.clients import add_client
from fhir_bridge.definitions import TYPES
from fhir_bridge.operation_definitions import OPERATIONS
from fhir_bridge.scopes import ALL
from fhir_bridge.xml_format import to_xml
from tests.helpers.database import open_sqlite
from tests.unit.fhir_bridge.conftest import (
    ANNA,
    BASE,
    NOW,
    MemoryBodies,
    MemoryOutbox,
    MemoryPreflight,
    communication,
)

__all__ = ["Answered", "send"]

ANSWER_S: Final = 20.0
STRANGE: Final = (
    "", " ", "\x00", "\r\nX: y", "%", "%00", "%ff", "%C3%28", "../..", "é", "\u202e", "🦠",
    "null", "NaN",
    "-1", "0", "1e999", "9" * 400, "a" * 3000, "'",
    '"', "\\", "|", "||", ",", ",,,", "$", "$x", "*",
    "0001-01-01", "9999-12-31", "2026-13-45", "0000", "ap9999", "ap0001", "ne", "ge", "true", "<a>",
    "urn:uuid:x", "http://169.254.169.254/", "file:///etc/passwd", "mailto:", "mailto:@", "#", "#x",
    "Patient/", "Patient/1/2/3", "Communication?_id=1", "W/\"1\"", "::", ":not", "x:y:z",
    "(1 or 1=1)",
    "' OR 1=1 --", "%' OR '1'='1", "_lastUpdated", "-sent", "W10", "WzFd", "WyJhIiwxXQ",
)  # fmt: skip
VALUES: Final = (
    None, True, False, 0, -1, 10**30, 1.5, "", "x", "\x00", [], {}, [[]], [None], {"a": None},
    ["x"],
    {"reference": 5}, {"reference": "Patient?name=a"}, {"reference": "#"}, {"coding": "x"},
    {"url": 1},
    {"extension": "x"}, {"extension": [1]}, {"extension": [{"url": 7}]}, {"extension": [{}]},
    {"identifier": []}, {"identifier": {"value": 5}}, {"identifier": {"value": "mailto:\r\n"}},
    "2026-99-99", "9999-12-31T23:59:60Z", "0001-01-01T00:00:00+14:00", {"resourceType": "Foo"},
    {"resourceType": "Patient", "contained": [{"resourceType": "Patient"}]}, "A" * 70_000,
)  # fmt: skip
HEADERS: Final = (
    "if-match", "if-none-match", "if-none-exist", "prefer", "range", "accept", "content-type",
    "if-modified-since", "content-length", "x-medplum", "origin",
)  # fmt: skip
MEDIA: Final = (
    "application/fhir+json", "application/json", "application/fhir+xml", "text/xml", "x",
    "application/json-patch+json", "application/merge-patch+json", "application/graphql",
    "application/x-www-form-urlencoded", "application/fhir+json; fhirVersion=9",
    "multipart/form-data",
    "application/octet-stream", "",
)  # fmt: skip


@dataclass(frozen=True)
class Answered:
    """How many requests had which status, and what went wrong: a seed and why."""

    statuses: dict[int, int]
    wrong: list[str]


@dataclass(frozen=True)
class _Asked:
    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes


async def send(count: int, seed: int, ids: list[str] | None = None) -> Answered:
    """Send `count` requests made from `seed` on, and return what came of them."""
    statuses: dict[int, int] = {}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        async with open_sqlite(Path(folder)) as database:
            bodies = MemoryBodies()
            app = create_app(
                database=database,
                bodies=bodies,
                outbox=MemoryOutbox(database, bodies),
                clock=lambda: NOW,
                base_url=BASE,
                decision_wait_s=0,
                preflight=MemoryPreflight(),
                resource_octets=512 * 1024,
                binary_octets=512 * 1024,
                requests_per_minute=1_000_000_000,
            )
            token = await database.write(
                lambda c: add_client(c, "fuzz", [parse_address(ANNA)], NOW, scopes=ALL)
            )
            transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
            headers = {"authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(transport=transport, headers=headers) as http:
                known = list(ids or []) + await _some(http)
                for number in range(seed, seed + count):
                    status, problem = await _one(http, random.Random(number), known)
                    statuses[status] = statuses.get(status, 0) + 1
                    if problem:
                        wrong.append(f"seed {number}: {problem}")
    return Answered(statuses, wrong)


async def _some(http: httpx.AsyncClient) -> list[str]:
    """Store a few resources, and return their ids."""
    made = [
        await http.post(f"{BASE}/Communication", json=communication()),
        await http.post(f"{BASE}/Communication", json=communication(status="preparation")),
        await http.post(f"{BASE}/Patient", json={"resourceType": "Patient", "active": True}),
    ]
    return [answer.json()["id"] for answer in made]


async def _one(http: httpx.AsyncClient, chance: random.Random, known: list[str]) -> tuple[int, str]:
    asked = _asked(chance, known)
    try:
        request = httpx.Request(asked.method, asked.url, headers=asked.headers, content=asked.body)
    except (httpx.InvalidURL, UnicodeError, TypeError):
        return 0, ""  # no client can send that
    request.headers.setdefault("authorization", http.headers["authorization"])
    shown = f"{asked.method} {asked.url[:300]} {asked.headers} {asked.body[:300]!r}"
    try:
        async with asyncio.timeout(ANSWER_S):
            answer = await http.send(request)
    except TimeoutError:
        return -1, f"no answer: {shown}"
    if answer.status_code >= 500 and answer.status_code != 501:
        return answer.status_code, f"{answer.status_code} {answer.text[:200]}: {shown}"
    if answer.status_code >= 400 and asked.method != "HEAD":
        return answer.status_code, _unlike_an_outcome(answer, shown)
    return answer.status_code, ""


def _unlike_an_outcome(answer: httpx.Response, shown: str) -> str:
    kind = answer.headers.get("content-type", "")
    if "xml" in kind:
        return "" if b"<OperationOutcome" in answer.content else f"no outcome: {shown}"
    if not kind.startswith("application/"):
        return f"no outcome but {kind}: {shown}"
    found = answer.json()
    if "error" in found or "errors" in found:  # OAuth's, GraphQL's
        return ""
    issues = found.get("issue", [])
    good = found.get("resourceType") == "OperationOutcome" and 0 < len(issues) <= 100
    return "" if good and "Traceback" not in answer.text else f"no outcome: {shown}"


def _asked(chance: random.Random, known: list[str]) -> _Asked:
    method = chance.choice(
        ["GET", "GET", "GET", "POST", "POST", "POST", "PUT", "PATCH", "DELETE", "HEAD"]
    )
    path = chance.choice(_PATHS)(chance, known)
    parameters = chance.choice([0, 0, 1, 1, 2, 5])
    query = "&".join(_parameter(chance, path) for _ in range(parameters))
    headers = [
        (name, chance.choice(STRANGE)[:200])
        for name in chance.sample(HEADERS, chance.choice([0, 0, 0, 0, 1, 2]))
    ]
    headers = [(n, v) for n, v in headers if v.isascii() and v.isprintable()]
    if "$export" in path and chance.random() < 0.8:
        headers = [("prefer", "respond-async")]
    body = b""
    if method in ("POST", "PUT", "PATCH"):
        resource = chance.choice(_RESOURCES)(known)
        kind = "application/fhir+json"
        if chance.random() < 0.8:  # where it belongs
            path = _belonging(method, resource, chance, known)
        else:
            kind = chance.choice(MEDIA)
        body = _body(resource, chance)
        if body.startswith(b"<"):
            kind = "application/fhir+xml"
        headers = [(n, v) for n, v in headers if n != "content-type"] + [("content-type", kind)]
    return _Asked(method, f"{BASE}{path}{'?' + query if query else ''}", headers, body)


def _belonging(
    method: str, resource: dict[str, Any], chance: random.Random, known: list[str]
) -> str:
    """Return the path that takes `resource`, or nearly."""
    kind = str(resource.get("resourceType", "$graphql"))
    if resource.get("type") == "message":
        return "/$process-message"
    if "resource" not in str(resource.get("parameter", "resource")):
        return chance.choice(["/$export", "/Patient/$export", f"/Group/{known[-1]}/$export"])
    if kind in ("Bundle", "Parameters"):
        return "" if kind == "Bundle" else "/Communication/$send-direct"
    if method == "POST":
        below = ["", "", "", "/$validate", "/$send-direct", "/$preflight"]
        return f"/{kind}{chance.choice(below) if kind == 'Communication' else ''}"
    return f"/{kind}/{chance.choice(known)}" if chance.random() < 0.8 else f"/{kind}"


def _type(chance: random.Random, _: list[str]) -> str:
    return "/" + chance.choice([*TYPES, *["Communication"] * 6, "Task", "Foo"])


def _instance(chance: random.Random, known: list[str]) -> str:
    return f"{_type(chance, known)}/{chance.choice([*known, *known, chance.choice(STRANGE)])}"


def _below(chance: random.Random, known: list[str]) -> str:
    names = ["_history", "_history/1", "_history/99", "_history/x", "_search", "Communication"]
    names += [f"${operation.name}" for operation in OPERATIONS]
    where = chance.choice([_type, _instance])(chance, known)
    return f"{where}/{chance.choice(names)}"


def _elsewhere(chance: random.Random, _: list[str]) -> str:
    return chance.choice(
        [
            "",
            "/",
            "/_history",
            "/metadata",
            "/$graphql",
            "/$export",
            "/$export",
            "/$export/x/Patient.ndjson",
            "/Patient/$export",
            "/$process-message",
            "/.well-known/x",
            "//",
            "/a/b/c/d/e",
            "/_search",
            "/SearchParameter/Communication-thread",
        ]
    )


_PATHS: Final[tuple[Callable[[random.Random, list[str]], str], ...]] = (
    _type, _type, _instance, _instance, _below, _below, _elsewhere,
)  # fmt: skip


def _parameter(chance: random.Random, path: str) -> str:
    known = TYPES.get(path.split("/")[1] if "/" in path else "")
    kind = known if known and chance.random() < 0.8 else chance.choice(list(TYPES.values()))
    names = [p.name for p in kind.parameters] or ["_id"]
    names += [
        "_id",
        "_lastUpdated",
        "_sort",
        "_count",
        "_cursor",
        "_total",
        "_summary",
        "_elements",
    ]
    names += [
        "_include",
        "_revinclude",
        "_include:iterate",
        "_format",
        "_pretty",
        "_since",
        "query",
        "_type",
        f"_type={kind.name},{chance.choice(list(TYPES))}&{chance.choice(names)}",
    ]
    names += [
        f"_has:{kind.name}:{chance.choice(names)}:{chance.choice(names)}",
        "before",
        "mailbox",
    ]
    names += ["_type", "variables", "_filename", "read", "resource"]
    name = chance.choice(names)
    if chance.random() < 0.3:
        name += ":" + chance.choice(
            ["not", "missing", "text", "exact", "contains", "identifier", "Patient", "x"]
        )
    if chance.random() < 0.15:
        name += "." + chance.choice(names)
    value = chance.choice(
        [*STRANGE, kind.name, f"{kind.name}:{name}", f"{kind.name}:*", "2026-01-01"]
    )
    return f"{name}={value}".replace("#", "%23").replace("&", "%26")


def _body(resource: dict[str, Any], chance: random.Random) -> bytes:
    for _ in range(chance.choice([0, 1, 1, 1, 2, 4])):
        _spoil(resource, chance)
    if chance.random() < 0.15:
        return _spoilt_xml(chance)
    text = json.dumps(resource).encode()
    match chance.randrange(16):
        case 0:
            return text[: chance.randrange(len(text) + 1)]
        case 1:
            return text.replace(b'"', chance.choice([b"'", b"", b'""']), 1)
        case 2:
            return chance.choice(
                [b"[" * 50_000, b'{"a":' * 20_000, b"1" * 200_000, b"\xff\xfe", b"1e9999999"]
            )
        case 3:
            return chance.randbytes(chance.randrange(200))
        case 4:
            spot = chance.randrange(len(text) + 1)
            return text[:spot] + chance.randbytes(1) + text[spot:]
    return text


def _spoilt_xml(chance: random.Random) -> bytes:
    text = to_xml(communication(status="preparation"))
    spot = chance.randrange(len(text))
    return (
        text[:spot]
        + chance.choice([b"<", b">", b"&", b'"', b"", b"<a/>", b"<!DOCTYPE x>"])
        + text[spot + 1 :]
    )


def _spoil(value: Any, chance: random.Random) -> None:
    """Put something else in one place of `value`."""
    while isinstance(value, dict | list) and value:
        key = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        child = value[key]
        if isinstance(child, dict | list) and child and chance.random() < 0.7:
            value = child
            continue
        if isinstance(value, dict) and chance.random() < 0.2:
            value[chance.choice(STRANGE)] = copy.deepcopy(chance.choice(VALUES))
        elif chance.random() < 0.1:
            del value[key]
        else:
            value[key] = copy.deepcopy(chance.choice([*VALUES, *STRANGE]))
        return


def _bundle(known: list[str]) -> dict[str, Any]:
    entries = [
        {"fullUrl": "urn:uuid:1", "resource": {"resourceType": "Patient", "active": True},
         "request": {"method": "POST", "url": "Patient", "ifNoneExist": "name=x"}},
        {"resource": communication(status="preparation", subject={"reference": "urn:uuid:1"}),
         "request": {"method": "POST", "url": "Communication"}},
        {"request": {"method": "GET", "url": f"Communication/{known[0]}"}},
        {"request": {"method": "DELETE", "url": f"Patient/{known[-1]}", "ifMatch": 'W/"1"'}},
    ]  # fmt: skip
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def _message(_: list[str]) -> dict[str, Any]:
    event = "https://direct-gateway.dev/fhir/CodeSystem/message-event"
    header = {
        "resourceType": "MessageHeader",
        "id": "m",
        "eventCoding": {"system": event, "code": "send-direct"},
        "source": {"endpoint": "https://a.b"},
        "focus": [{"reference": "urn:uuid:c"}],
    }
    payload = [
        {"contentAttachment": {"url": "https://e.f/Binary/b", "title": "a"}},
        {"contentReference": {"reference": "urn:uuid:d"}},
    ]
    letter = communication(payload=payload, recipient=[{"reference": "https://e.f/Practitioner/p"}])
    ben = [{"system": "email", "value": "ben@direct.lakeview.example"}]
    document = {"resourceType": "DocumentReference", "status": "current",
                "content": [{"attachment": {"url": "https://e.f/Binary/b"}}],
                "contained": [{"resourceType": "Patient", "id": "p"}],
                "subject": {"reference": "#p"}}  # fmt: skip
    entries = {
        "urn:uuid:m": header,
        "urn:uuid:c": letter,
        "https://e.f/Practitioner/p": {"resourceType": "Practitioner", "telecom": ben},
        "urn:uuid:d": document,
        "https://e.f/Binary/b": {"resourceType": "Binary", "id": "b", "contentType": "text/plain",
                                 "data": "YQ=="},
    }  # fmt: skip
    listed = [{"fullUrl": url, "resource": resource} for url, resource in entries.items()]
    return {"resourceType": "Bundle", "type": "message", "entry": listed}


def _export(_: list[str]) -> dict[str, Any]:
    asked = {"_type": "Communication,Patient", "_since": "2026-01-01", "_outputFormat": "ndjson"}
    parameters = [{"name": name, "valueString": value} for name, value in asked.items()]
    return {"resourceType": "Parameters", "parameter": parameters}


def _parameters(resource: dict[str, Any]) -> dict[str, Any]:
    parameter = [{"name": "resource", "resource": resource}]
    return {"resourceType": "Parameters", "parameter": parameter}


def _rich() -> dict[str, Any]:
    attachment = {"contentType": "text/plain", "data": "YQ==", "title": "a"}
    thread = "https://direct-gateway.dev/fhir/StructureDefinition/thread-id"
    return communication(
        payload=[{"contentAttachment": attachment}],
        extension=[{"url": thread, "valueString": "x"}],
        contained=[{"resourceType": "Practitioner", "id": "p"}],
        inResponseTo=[{"identifier": {"system": "urn:ietf:rfc:3986", "value": "mid:a@b.c"}}],
    )


def _subscription() -> dict[str, Any]:
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "x",
        "criteria": "Communication?status=completed",
        "channel": {"type": "rest-hook", "endpoint": "https://a.b"},
    }


def _request() -> dict[str, Any]:
    when = {"resourceType": "CommunicationRequest", "occurrenceDateTime": "2027-01-01"}
    return {**communication(status="active"), **when}


def _patient() -> dict[str, Any]:
    names = [{"given": ["a", None], "_given": [None, {"id": "x"}]}]
    return {"resourceType": "Patient", "name": names}


_RESOURCES: Final[tuple[Callable[[list[str]], dict[str, Any]], ...]] = (
    lambda _: communication(),
    lambda _: communication(status="preparation"),
    lambda _: _rich(),
    lambda known: {**communication(status="preparation"), "id": known[0]},
    lambda _: _parameters(communication()),
    lambda _: _patient(),
    lambda _: _subscription(),
    lambda _: _request(),
    lambda _: {"resourceType": "Binary", "contentType": "text/plain", "data": "YQ=="},
    lambda _: {"query": "{ CommunicationList(_count: 1) { id } }", "variables": {}},
    _bundle,
    lambda known: {**_bundle(known), "type": "batch"},
    _message,
    _message,
    _export,
)


if __name__ == "__main__":
    arguments = [int(text) for text in sys.argv[1:]] + [10_000, 0]
    found = asyncio.run(send(arguments[0], arguments[1]))
    sys.stdout.write(f"{found.statuses}\n" + "".join(f"{line}\n" for line in found.wrong))
    sys.exit(1 if found.wrong else 0)
