"""SMART Backend Services, scopes, and what is recorded, over the real routes and database."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest
from joserfc import jwk, jwt

from certs.address import parse_address
from fhir_bridge.access import AccessLog
from fhir_bridge.api import create_app
from fhir_bridge.backend_clients import add_backend_client
from fhir_bridge.clients import add_client, disable_client
from fhir_bridge.definitions import TYPES
from fhir_bridge.operation_definitions import OPERATIONS
from fhir_bridge.scopes import OPERATIONS as OPERATION_SCOPES
from gateway import audit
from gateway.access_trail import AccessTrail
from tests.unit.fhir_bridge.conftest import ANNA, BASE, NOW, World, communication

TOKEN_URL = "https://gw.hillside.example/oauth2/token"
ES384 = jwk.ECKey.generate_key("P-384")
RS384 = jwk.RSAKey.generate_key(2048)
OTHER = jwk.ECKey.generate_key("P-384")
# What a client writes that was granted nothing but its mailboxes.
OWN_TYPES = frozenset(
    {"Binary", "Communication", "CommunicationRequest", "DocumentReference", "Media"}
    | {"Subscription", "Task"}
)


@dataclass
class Backend:
    """A client with keys."""

    world: World
    id: str

    def assertion(
        self,
        *,
        key: Any = ES384,
        alg: str = "ES384",
        header: Mapping[str, Any] | None = None,
        **changed: Any,
    ) -> str:
        claims = {
            "iss": self.id,
            "sub": self.id,
            "aud": TOKEN_URL,
            "exp": int(NOW.timestamp()) + 299,
            "jti": "one",
            **changed,
        }
        kept = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode({"alg": alg, **(header or {})}, kept, key, algorithms=[alg])

    async def ask(self, assertion: str | None = None, **form: str) -> httpx.Response:
        return await self.world.http.post(
            TOKEN_URL,
            data={
                "grant_type": "client_credentials",
                "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                "client_assertion": assertion or self.assertion(),
                **form,
            },
        )

    async def headers(self, scope: str = "system/*.cruds", jti: str = "a") -> dict[str, str]:
        answer = await self.ask(self.assertion(jti=jti), scope=scope)
        assert answer.status_code == 200, answer.text
        return {"authorization": f"Bearer {answer.json()['access_token']}"}


async def backend(world: World, name: str = "app", scopes: str = "system/*.cruds") -> Backend:
    keys = [{**ES384.as_dict(private=False), "kid": "e"}, RS384.as_dict(private=False)]
    jwks = json.dumps({"keys": keys})
    identity = await world.database.write(
        lambda c: add_backend_client(c, name, [parse_address(ANNA)], jwks, NOW, scopes=scopes)
    )
    return Backend(world, str(identity))


async def test_the_token_endpoint_is_found(world: World) -> None:
    answer = await world.http.get("/.well-known/smart-configuration", headers={"authorization": ""})
    assert answer.json()["token_endpoint"] == TOKEN_URL
    assert {"RS384", "ES384"} <= set(
        answer.json()["token_endpoint_auth_signing_alg_values_supported"]
    )
    metadata = (await world.http.get("/metadata")).json()
    assert TOKEN_URL in json.dumps(metadata["rest"][0]["security"])


@pytest.mark.parametrize(
    ("key", "alg", "header"),
    [
        pytest.param(ES384, "ES384", {"kid": "e", "typ": "JWT"}, id="ec"),
        pytest.param(RS384, "RS384", {}, id="rsa-without-kid"),
    ],
)
async def test_a_key_gets_a_token_that_opens_the_granted_mailbox(
    world: World, key: Any, alg: str, header: dict[str, str]
) -> None:
    app = await backend(world)
    message = await world.receive(b"From: ben@direct.lakeview.example\r\nTo: x@y.org\r\n\r\nhi")
    other = await world.receive(b"From: b@x.org\r\nTo: z@y.org\r\n\r\nhi", mailbox="zoe@y.example")
    answer = await app.ask(app.assertion(key=key, alg=alg, header=header))
    assert answer.json()["expires_in"] == 300
    assert answer.headers["cache-control"] == "no-store"
    bearer = {"authorization": f"Bearer {answer.json()['access_token']}"}
    found = await world.http.get(f"/Communication/{message}", headers=bearer)
    assert found.status_code == 200
    assert (await world.http.get(f"/Communication/{other}", headers=bearer)).status_code == 404


async def test_a_token_ends_after_five_minutes(world: World) -> None:
    app = await backend(world)
    bearer = await app.headers()
    world.now = NOW + timedelta(minutes=4, seconds=59)
    assert (await world.http.get("/Communication", headers=bearer)).status_code == 200
    world.now = NOW + timedelta(minutes=5)
    assert (await world.http.get("/Communication", headers=bearer)).status_code == 401


async def test_a_disabled_client_has_no_token_any_more(world: World) -> None:
    app = await backend(world)
    bearer = await app.headers()
    await world.database.write(lambda c: disable_client(c, "app"))
    assert (await world.http.get("/Communication", headers=bearer)).status_code == 401
    assert (await app.ask()).status_code == 401


async def test_an_assertion_is_used_once(world: World) -> None:
    app = await backend(world)
    assert (await app.ask()).status_code == 200
    again = await app.ask()
    assert (again.status_code, again.json()["error"]) == (401, "invalid_client")
    world.now = NOW + timedelta(seconds=298)
    assert (await app.ask()).status_code == 401


SECONDS = int(NOW.timestamp())


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"aud": "https://other.example/token"}, id="another-audience"),
        pytest.param({"aud": None}, id="no-audience"),
        pytest.param({"aud": 7}, id="audience-is-a-number"),
        pytest.param({"iss": "somebody"}, id="unknown-issuer"),
        pytest.param({"sub": "somebody"}, id="another-subject"),
        pytest.param({"exp": SECONDS}, id="expired"),
        pytest.param({"exp": SECONDS + 7200}, id="too-long"),
        pytest.param({"exp": None}, id="no-end"),
        pytest.param({"exp": "soon"}, id="end-is-text"),
        pytest.param({"exp": 1e300}, id="end-is-huge"),
        pytest.param({"exp": True}, id="end-is-true"),
        pytest.param({"iat": SECONDS + 900}, id="issued-in-the-future"),
        pytest.param({"nbf": SECONDS + 900}, id="not-yet"),
        pytest.param({"jti": None}, id="no-jti"),
        pytest.param({"jti": ""}, id="empty-jti"),
        pytest.param({"jti": 5}, id="jti-is-a-number"),
        pytest.param({"jti": "x" * 256}, id="long-jti"),
        pytest.param({"key": OTHER}, id="another-key"),
        pytest.param({"header": {"kid": "unknown"}}, id="unknown-kid"),
        pytest.param({"key": RS384, "alg": "RS384", "header": {"kid": "e"}}, id="kid-of-another"),
        pytest.param({"key": RS384, "alg": "RS256"}, id="weaker-algorithm"),
    ],
)
async def test_an_assertion_that_is_not_good_gets_no_token(
    world: World, changed: dict[str, Any]
) -> None:
    app = await backend(world)
    answer = await app.ask(app.assertion(**changed))
    assert (answer.status_code, answer.json()) == (401, {"error": "invalid_client"})


async def test_the_public_key_is_no_secret_for_hmac(world: World) -> None:
    app = await backend(world)
    _, payload, _ = app.assertion().split(".")
    header = base64.urlsafe_b64encode(b'{"alg":"HS256"}').decode().rstrip("=")
    signed = f"{header}.{payload}"
    mac = hmac.digest(RS384.as_pem(private=False), signed.encode(), "sha256")
    signature = base64.urlsafe_b64encode(mac).decode().rstrip("=")
    assert (await app.ask(f"{signed}.{signature}")).status_code == 401


@pytest.mark.parametrize(
    "text", ["x", "a.b.c", "e30.e30.", "é.é.é", "." * 40000, "eyJhbGciOiJub25lIn0.eyJpc3MiOiIxIn0."]
)
async def test_what_is_no_assertion_is_refused(world: World, text: str) -> None:
    app = await backend(world)
    assert (await app.ask(text)).status_code == 401


async def test_an_unsigned_assertion_is_refused(world: World) -> None:
    app = await backend(world)
    _, payload, _ = app.assertion().split(".")
    assert (await app.ask(f"eyJhbGciOiJub25lIn0.{payload}.")).status_code == 401


async def test_another_grant_is_refused(world: World) -> None:
    answer = await (await backend(world)).ask(grant_type="password")
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")


async def test_small_sites_use_their_token_as_a_secret(world: World) -> None:
    secret = await world.database.write(
        lambda c: add_client(c, "small", [parse_address(ANNA)], NOW)
    )
    form = {"grant_type": "client_credentials"}
    basic = await world.http.post(TOKEN_URL, data=form, auth=("small", secret))
    assert basic.status_code == 200
    form |= {"client_id": "small", "client_secret": secret}
    posted = await world.http.post(TOKEN_URL, data=form)
    bearer = {"authorization": f"Bearer {posted.json()['access_token']}"}
    assert (await world.http.get("/Communication", headers=bearer)).status_code == 200
    # An issued token is no secret: it would renew itself for ever.
    form["client_secret"] = posted.json()["access_token"]
    assert (await world.http.post(TOKEN_URL, data=form)).status_code == 401
    form |= {"client_id": "ehr", "client_secret": secret}
    assert (await world.http.post(TOKEN_URL, data=form)).status_code == 401


@pytest.mark.parametrize(
    ("scope", "open_", "shut"),
    [
        pytest.param("system/Communication.read", "GET", "POST", id="v1-read"),
        pytest.param("system/Communication.rs", "GET", "POST", id="v2-read-search"),
        pytest.param("system/Communication.write", "POST", "GET", id="v1-write"),
        pytest.param("system/Communication.c", "POST", "GET", id="v2-create"),
        pytest.param("system/*.read", "GET", "POST", id="v1-any-type"),
        pytest.param("openid system/Communication.rs user/*.cruds", "GET", "POST", id="mixed"),
    ],
)
async def test_a_scope_opens_what_it_says(world: World, scope: str, open_: str, shut: str) -> None:
    bearer = await (await backend(world)).headers(scope)
    sent = {"json": communication(status="preparation"), "headers": bearer}
    statuses = {
        "GET": (await world.http.get("/Communication", headers=bearer)).status_code,
        "POST": (await world.http.post("/Communication", **sent)).status_code,
    }
    assert statuses[open_] in (200, 201)
    assert statuses[shut] == 403


async def test_a_token_has_no_more_than_the_client(world: World) -> None:
    app = await backend(world, scopes="system/Communication.rs system/Practitioner.read")
    answer = await app.ask(scope="system/*.cruds system/AuditEvent.rs")
    assert answer.json()["scope"] == "system/Communication.rs system/Practitioner.rs"
    nothing = await app.ask(app.assertion(jti="b"), scope="system/Patient.rs")
    assert (nothing.status_code, nothing.json()["error"]) == (400, "invalid_scope")


READ_ONLY = "system/Communication.rs"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/Patient"),
        ("GET", "/_history"),
        ("GET", "/Communication?subject:Patient.name=a"),
        ("GET", "/Communication?_has:Task:focus:status=failed"),
        ("GET", "/Communication?sender:Practitioner.active=true"),
        ("POST", "/Communication"),
        ("PUT", "/Communication/{id}"),
        ("PUT", "/Communication?identifier=a"),
        ("PATCH", "/Communication/{id}"),
        ("DELETE", "/Communication/{id}"),
        ("POST", "/Communication/$send-direct"),
        ("POST", "/Communication/{id}/$mark-read"),
        ("GET", "/Communication/{id}/$raw"),
        ("GET", "/AuditEvent"),
        ("GET", "/Binary/{id}"),
    ],
)
async def test_nothing_opens_beyond_the_scope(world: World, method: str, path: str) -> None:
    message = await world.receive(b"From: ben@direct.lakeview.example\r\nTo: x@y.org\r\n\r\nhi")
    bearer = await (await backend(world, scopes=READ_ONLY)).headers(READ_ONLY)
    url = path.replace("{id}", str(message))
    answer = await world.http.request(method, url, json=communication(), headers=bearer)
    assert answer.status_code == 403, answer.text


async def test_a_bundle_opens_nothing_beyond_the_scope(world: World) -> None:
    bearer = await (await backend(world, scopes=READ_ONLY)).headers(READ_ONLY)
    patient = {"resourceType": "Patient", "active": True}
    entry = {"resource": patient, "request": {"method": "POST", "url": "Patient"}}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    assert (await world.http.post("", json=bundle, headers=bearer)).status_code == 403
    answer = await world.http.post("", json={**bundle, "type": "batch"}, headers=bearer)
    assert answer.json()["entry"][0]["response"]["status"] == "403 Forbidden"


async def test_what_is_included_is_open_too(world: World) -> None:
    patient = (await world.http.post("/Patient", json={"resourceType": "Patient"})).json()["id"]
    about = communication(status="preparation", subject={"reference": f"Patient/{patient}"})
    await world.http.post("/Communication", json=about)
    query = "/Communication?_include=Communication:subject"
    assert len((await world.http.get(query)).json()["entry"]) == 2
    bearer = await (await backend(world)).headers(READ_ONLY)
    [entry] = (await world.http.get(query, headers=bearer)).json()["entry"]
    assert entry["resource"]["resourceType"] == "Communication"


async def test_a_subscription_tells_of_nothing_beyond_the_scope(world: World) -> None:
    app = await backend(world)
    bearer = await app.headers("system/Subscription.cruds")
    subscription = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "x",
        "criteria": "Communication?direction=inbound",
        "channel": {"type": "rest-hook", "endpoint": "https://bot.example/hook"},
    }
    answer = await world.http.post("/Subscription", json=subscription, headers=bearer)
    assert answer.status_code == 403


async def test_a_conditional_reference_does_not_search_beyond_the_scope(world: World) -> None:
    bearer = await (await backend(world)).headers("system/Communication.cruds")
    about = communication(status="preparation", subject={"reference": "Patient?name=a"})
    assert (await world.http.post("/Communication", json=about, headers=bearer)).status_code == 403


def test_every_operation_has_its_scope() -> None:
    assert {operation.name for operation in OPERATIONS} == set(OPERATION_SCOPES)


def logged(world: World, **given: Any) -> tuple[httpx.AsyncClient, AccessLog]:
    """Return a client of an application that records what is done, and its log."""
    trail = AccessTrail(world.database)
    log = AccessLog(trail)
    app = create_app(
        database=world.database,
        bodies=world.bodies,
        outbox=world.outbox,
        clock=lambda: world.now,
        base_url=BASE,
        decision_wait_s=0,
        trail=trail,
        log=log,
        **given,
    )
    headers = {"authorization": world.http.headers["authorization"]}
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url=BASE, headers=headers), log


async def test_each_write_of_a_transaction_is_recorded(world: World) -> None:
    http, _ = logged(world)
    async with http:
        old = (await http.post("/Patient", json={"resourceType": "Patient"})).json()["id"]
        kept = (await http.post("/Patient", json={"resourceType": "Patient"})).json()
        entries: list[dict[str, Any]] = [
            {
                "resource": {"resourceType": "Patient"},
                "request": {"method": "POST", "url": "Patient"},
            },
            {"resource": kept, "request": {"method": "PUT", "url": f"Patient/{kept['id']}"}},
            {"request": {"method": "DELETE", "url": f"Patient/{old}"}},
        ]
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
        answer = (await http.post("", json=bundle)).json()
    made = answer["entry"][0]["response"]["location"].split("/")[-3]
    events = await world.database.read(lambda c: audit.list_events(c, limit=10))
    assert {(e.action, e.subject, e.outcome) for e in events[:4]} == {
        ("fhir-create", f"Patient/{made}", "201"),
        ("fhir-update", f"Patient/{kept['id']}", "200"),
        ("fhir-delete", f"Patient/{old}", "204"),
        ("fhir-bundle", "/", "200"),
    }


async def test_every_access_is_recorded_without_content(world: World) -> None:
    http, log = logged(world)
    async with http:
        sent = (await http.post("/Communication", json=communication())).json()["id"]
        await http.get(f"/Communication/{sent}")
        await http.get("/Patient?name=Helberg")
        await http.get("/Communication/Mary-Helberg-1970")
        await http.get("/Patient", headers={"authorization": "Bearer wrong"})
    before = await world.database.read(lambda c: audit.list_events(c, limit=10))
    assert [event.action for event in before] == ["fhir-create"]  # at once; reads are gathered
    await log.flush()
    events = await world.database.read(lambda c: audit.list_events(c, limit=10))
    assert [(e.actor, e.action, e.subject, e.outcome) for e in reversed(events)] == [
        ("client:ehr", "fhir-create", f"Communication/{sent}", "201"),
        ("client:ehr", "fhir-read", f"Communication/{sent}", "200"),
        ("client:ehr", "fhir-search-type", "Patient", "200"),
        ("client:ehr", "fhir-read", "Communication", "404"),
    ]
    assert await world.database.read(audit.verify) is None


async def test_an_administrator_reads_the_audit_events(world: World) -> None:
    http, log = logged(world)
    token = await world.database.write(
        lambda c: add_client(c, "auditor", [], NOW, scopes="system/AuditEvent.rs")
    )
    bearer = {"authorization": f"Bearer {token}"}
    async with http:
        for _ in range(3):
            await http.get("/Communication")
        await log.flush()
        assert (await http.get("/AuditEvent")).status_code == 403  # "*" does not open it
        page = (await http.get("/AuditEvent?_count=2", headers=bearer)).json()
        assert [e["resource"]["subtype"][0]["code"] for e in page["entry"]] == ["search-type"] * 2
        following = next(k["url"] for k in page["link"] if k["relation"] == "next")
        [last] = (await http.get(following, headers=bearer)).json()["entry"]
        one = await http.get(f"/AuditEvent/{last['resource']['id']}", headers=bearer)
        assert one.json() == last["resource"]
        query = "/AuditEvent?agent-name=client:nobody&subtype=search-type"
        assert "entry" not in (await http.get(query, headers=bearer)).json()
        for wrong in ("?_cursor=x", "?entity=Patient/1", "/0", "/x"):
            answer = await http.get(f"/AuditEvent{wrong}", headers=bearer)
            assert answer.status_code in (400, 404)
        assert (await http.get("/Communication", headers=bearer)).status_code == 403


async def test_a_client_that_calls_too_often_is_told_when_to_come_again(world: World) -> None:
    http, _ = logged(world, requests_per_minute=3)
    async with http:
        statuses = [(await http.get("/Communication")).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        answer = await http.get("/Communication")
        assert answer.headers["retry-after"] == "20"
        assert answer.json()["issue"][0]["code"] == "throttled"
        world.now = NOW + timedelta(seconds=20)
        assert (await http.get("/Communication")).status_code == 200


async def test_only_listed_pages_may_call_from_a_browser(world: World) -> None:
    http, _ = logged(world, origins=["https://app.example"])
    asked = {"access-control-request-method": "PUT", "access-control-request-headers": "if-match"}
    async with http:
        known = await http.options(
            "/Communication/1", headers={"origin": "https://app.example", **asked}
        )
        assert known.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in known.headers
        other = await http.options(
            "/Communication/1", headers={"origin": "https://evil.example", **asked}
        )
        assert other.status_code == 400
        answer = await http.get("/Communication", headers={"origin": "https://app.example"})
        assert "ETag" in answer.headers["access-control-expose-headers"]
        answer = await http.get("/Communication", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers
    plain = await world.http.get("/Communication", headers={"origin": "https://app.example"})
    assert "access-control-allow-origin" not in plain.headers


async def test_a_client_without_granted_scopes_reads_the_directory_and_changes_nothing_of_it(
    world: World,
) -> None:
    person = {"resourceType": "Practitioner", "name": [{"family": "Ray"}]}
    made = (await world.http.post("/Practitioner", json=person)).json()
    token = await world.database.write(lambda c: add_client(c, "usual", [parse_address(ANNA)], NOW))
    usual = {"authorization": f"Bearer {token}"}
    path = f"/Practitioner/{made['id']}"
    assert (await world.http.get(path, headers=usual)).status_code == 200
    assert (await world.http.get("/Practitioner?family=ray", headers=usual)).json()["total"] == 1
    refused = [
        await world.http.post("/Practitioner", json=person, headers=usual),
        await world.http.put(path, json=made, headers=usual),
        await world.http.put("/Practitioner?family=ray", json=person, headers=usual),
        await world.http.patch(path, json={"active": False}, headers=usual),
        await world.http.delete(path, headers=usual),
    ]
    assert [answer.status_code for answer in refused] == [403] * 5
    for kind in sorted(TYPES.keys() - OWN_TYPES):
        answer = await world.http.post(f"/{kind}", json={"resourceType": kind}, headers=usual)
        assert answer.status_code in (403, 405), kind
    entry = {"request": {"method": "POST", "url": "Practitioner"}, "resource": person}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    assert (await world.http.post("", json=bundle, headers=usual)).status_code == 403
    batch = await world.http.post("", json={**bundle, "type": "batch"}, headers=usual)
    assert batch.json()["entry"][0]["response"]["status"].startswith("403")


async def test_a_client_without_granted_scopes_does_all_with_its_own_mail(world: World) -> None:
    token = await world.database.write(lambda c: add_client(c, "usual", [parse_address(ANNA)], NOW))
    usual = {"authorization": f"Bearer {token}"}
    sent = await world.http.post("/Communication", json=communication(), headers=usual)
    task = {"resourceType": "Task", "status": "requested", "intent": "order"}
    made = [
        sent,
        await world.http.post("/Binary", content=b"octets", headers=usual),
        await world.http.post("/Task", json=task, headers=usual),
    ]
    assert [answer.status_code for answer in made] == [201] * 3
    assert (await world.http.get("/Communication", headers=usual)).json()["total"] >= 1


async def test_where_the_operator_demands_it_a_change_names_its_version(world: World) -> None:
    http, _ = logged(world, require_if_match=True)
    person = {"resourceType": "Practitioner", "name": [{"family": "Ray"}]}
    async with http:
        made = (await http.post("/Practitioner", json=person)).json()
        path, match = f"/Practitioner/{made['id']}", {"if-match": 'W/"1"'}
        refused = [
            await http.put(path, json=made),
            await http.patch(path, json={"active": True}),
            await http.delete(path),
        ]
        assert [answer.status_code for answer in refused] == [428] * 3
        assert refused[0].json()["issue"][0]["code"] == "required"
        request = {"method": "PUT", "url": path[1:]}
        entry = {"request": request, "resource": made}
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
        assert (await http.post("", json=bundle)).status_code == 428
        request["ifMatch"] = 'W/"1"'
        assert (await http.post("", json=bundle)).status_code == 200
        assert (await http.put(path, json=made, headers=match)).status_code == 412
        # A condition is a version's equal: it says which resource, and what was found is meant.
        found = await http.put("/Practitioner?family=ray", json=person)
        assert (found.status_code, found.headers["etag"]) == (200, 'W/"3"')
        deleted = await http.delete(path, headers={"if-match": 'W/"3"'})
        assert deleted.status_code == 204
        resources = (await http.get("/metadata")).json()["rest"][0]["resource"]
    versioning = {resource["type"]: resource["versioning"] for resource in resources}
    assert versioning["Communication"] == "versioned-update"
    assert (versioning["Provenance"], versioning["Binary"]) == ("versioned", "no-version")
