from __future__ import annotations

import base64
import email
import email.policy
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from certs.errors import Reason
from fhir_bridge.delivery import delivery_of
from fhir_bridge.terms import US_CORE_DIRECT
from tests.unit.fhir_bridge.conftest import ANNA, BASE, BEN, TERMS, World, communication

CARA = "cara@direct.lakeview.example"


def to(address: str, role: str | None = None) -> dict[str, Any]:
    reference: dict[str, Any] = {
        "identifier": {"system": "urn:ietf:rfc:3986", "value": f"mailto:{address}"}
    }
    if role:
        reference["extension"] = [{"url": TERMS.extension("recipient-role"), "valueCode": role}]
    return reference


async def sent(world: World, **elements: Any) -> dict[str, Any]:
    answer = await world.http.post("/Communication", json=communication(**elements))
    assert answer.status_code == 201, answer.text
    resource: dict[str, Any] = answer.json()
    get_fhir_model_class("Communication").model_validate(resource)
    return resource


async def refused(world: World, **elements: Any) -> list[tuple[str, str | None]]:
    answer = await world.http.post("/Communication", json=communication(**elements))
    assert answer.status_code == 422, answer.text
    get_fhir_model_class("OperationOutcome").model_validate(answer.json())
    assert not world.outbox.submissions
    return [(i["code"], i.get("expression", [None])[0]) for i in answer.json()["issue"]]


def last_message(world: World) -> Any:
    return email.message_from_bytes(world.outbox.message(), policy=email.policy.default)


async def test_in_progress_is_sent(world: World) -> None:
    world.outbox.codes[BEN] = ("relayed", None)
    resource = await sent(world)
    assert resource["status"] == "in-progress"
    assert delivery_of(resource["recipient"][0], TERMS)["code"] == "relayed"
    [submission] = world.outbox.submissions
    assert [str(r) for r in submission.recipients] == [BEN]
    message = last_message(world)
    assert message["Subject"] == "Referral"
    assert message.get_content().rstrip() == "Please see attached."
    assert submission.message_id == message["Message-ID"]


async def test_the_answer_names_the_version_it_shows(world: World) -> None:
    answer = await world.http.post("/Communication", json=communication())
    resource = answer.json()
    version = resource["meta"]["versionId"]
    assert answer.headers["etag"] == f'W/"{version}"'
    assert answer.headers["location"] == (
        f"{BASE}/Communication/{resource['id']}/_history/{version}"
    )


@pytest.mark.parametrize("status", ["completed", "preparation", "entered-in-error"])
async def test_nothing_else_is_sent(world: World, status: str) -> None:
    resource = await sent(world, status=status)
    assert resource["status"] == status
    assert not world.outbox.submissions


async def test_another_medium_is_not_sent(world: World) -> None:
    await sent(world, medium=[{"text": "telephone"}])
    assert not world.outbox.submissions


async def test_a_thread_header_is_not_sent(world: World) -> None:
    posted = communication()
    del posted["payload"]
    answer = await world.http.post("/Communication", json=posted)
    assert answer.status_code == 201
    assert not world.outbox.submissions


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        ("dispatched", None, "completed"),
        ("processed", None, "completed"),
        ("relayed", None, "in-progress"),
        ("failed", Reason.BACKBONE_REFUSED, "stopped"),
        ("refused", Reason.CERTIFICATE_NOT_FOUND, "not-done"),
    ],
)
async def test_the_status_sums_up_the_recipients(
    world: World, code: str, reason: Reason | None, status: str
) -> None:
    world.outbox.codes[BEN] = (code, reason)
    resource = await sent(world)
    assert resource["status"] == status
    if reason:
        assert resource["statusReason"]["coding"][0]["code"] == reason.code
        assert delivery_of(resource["recipient"][0], TERMS)["reason"] == reason.code


async def test_mixed_outcomes_are_shown_each(world: World) -> None:
    world.outbox.codes = {BEN: ("processed", None), CARA: ("refused", Reason.NOT_TRUSTED)}
    resource = await sent(world, recipient=[to(BEN), to(CARA, "cc")])
    assert resource["status"] == "stopped"
    codes = [delivery_of(r, TERMS)["code"] for r in resource["recipient"]]
    assert codes == ["processed", "refused"]
    assert last_message(world)["Cc"] == CARA


async def test_processed_is_not_enough_where_dispatched_was_asked_for(world: World) -> None:
    world.outbox.codes[BEN] = ("processed", None)
    ask = {"url": TERMS.extension("wants-dispatched"), "valueBoolean": True}
    resource = await sent(world, extension=[ask])
    assert resource["status"] == "in-progress"
    assert world.outbox.submissions[0].wants_dispatched


async def test_actors_may_be_contained(world: World) -> None:
    ben = {
        "resourceType": "Practitioner",
        "id": "ben",
        "telecom": [
            {"system": "email", "value": "private@mail.example"},
            {
                "system": "email",
                "value": BEN,
                "extension": [{"url": US_CORE_DIRECT, "valueBoolean": True}],
            },
        ],
    }
    resource = await sent(
        world, contained=[ben], recipient=[{"reference": "#ben", "display": "Ben Ray"}]
    )
    assert resource["recipient"][0]["identifier"]["value"] == f"mailto:{BEN}"
    assert last_message(world)["To"] == f"Ben Ray <{BEN}>"


async def test_every_recipient_without_one_address_is_told(world: World) -> None:
    nobody = {"resourceType": "Practitioner", "id": "a"}
    two = {
        "resourceType": "Practitioner",
        "id": "b",
        "telecom": [{"system": "email", "value": v} for v in (BEN, CARA)],
    }
    found = await refused(
        world,
        contained=[nobody, two],
        recipient=[{"reference": "#a"}, to(BEN), {"reference": "#b"}, {"display": "Ben"}],
    )
    assert found == [
        ("not-found", "Communication.recipient[0]"),
        ("multiple-matches", "Communication.recipient[2]"),
        ("not-found", "Communication.recipient[3]"),
    ]


@pytest.mark.parametrize(
    ("elements", "place"),
    [
        pytest.param({"topic": {"text": "a\r\nBcc: x@y.org"}}, "topic.text", id="subject"),
        pytest.param(
            {"recipient": [{**to(BEN), "display": "a\nb"}]}, "recipient[0].display", id="name"
        ),
        pytest.param(
            {
                "payload": [
                    {"contentAttachment": {"contentType": "a/b", "data": "YQ==", "title": "a\r\nb"}}
                ]
            },
            "payload[0].contentAttachment.title",
            id="title",
        ),
        pytest.param({"recipient": [to(BEN, "fcc")]}, "recipient[0]", id="unknown-role"),
        pytest.param(
            {"recipient": [to(f"b{n}@direct.lakeview.example", "bcc") for n in range(21)]},
            "recipient",
            id="many-blind-copies",
        ),
        pytest.param(
            {"payload": [{"contentAttachment": {"title": "x"}}]},
            "payload[0].contentAttachment",
            id="no-data",
        ),
        pytest.param(
            {"payload": [{"contentAttachment": {"url": "https://elsewhere.example/x"}}]},
            "payload[0].contentAttachment.url",
            id="foreign-url",
        ),
        pytest.param(
            {"payload": [{"contentReference": {"reference": "DocumentReference/1"}}]},
            "payload[0].contentReference",
            id="unknown-document",
        ),
        pytest.param(
            {"inResponseTo": [{"reference": "Communication/1"}]}, "inResponseTo", id="no-parent"
        ),
    ],
)
async def test_what_cannot_be_sent_is_refused(
    world: World, elements: dict[str, Any], place: str
) -> None:
    assert f"Communication.{place}" in [at for _, at in await refused(world, **elements)]


async def test_direct_needs_content(world: World) -> None:
    posted = communication(
        medium=[
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
                        "code": "direct-project",
                    }
                ]
            }
        ]
    )
    del posted["payload"]
    answer = await world.http.post("/Communication", json=posted)
    assert answer.status_code == 422


async def test_sending_as_somebody_else_is_forbidden(world: World) -> None:
    answer = await world.http.post("/Communication", json=communication(sender=to(BEN)))
    assert answer.status_code == 403
    assert answer.json()["issue"][0]["code"] == "forbidden"


async def test_a_message_id_is_used_once(world: World) -> None:
    mine = [{"system": "urn:ietf:rfc:3986", "value": "mid:mine@direct.hillside.example"}]
    await sent(world, identifier=mine)
    assert world.outbox.submissions[0].message_id == "<mine@direct.hillside.example>"
    answer = await world.http.post("/Communication", json=communication(identifier=mine))
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (409, "duplicate")


async def test_a_message_id_of_another_domain_stays_an_identifier(world: World) -> None:
    other = [{"system": "urn:ietf:rfc:3986", "value": "mid:x@elsewhere.example"}]
    resource = await sent(world, identifier=other)
    assert len(resource["identifier"]) == 2
    assert world.outbox.submissions[0].message_id.endswith("@direct.hillside.example>")


async def test_inline_data_is_lifted_out(world: World) -> None:
    data = base64.b64encode(b"<a/>").decode()
    resource = await sent(
        world, payload=[{"contentAttachment": {"contentType": "text/xml", "data": data}}]
    )
    attachment = resource["payload"][0]["contentAttachment"]
    assert "data" not in attachment
    assert attachment["size"] == 4
    answer = await world.http.get(attachment["url"])
    assert (answer.content, answer.headers["content-type"]) == (b"<a/>", "text/xml")


@pytest.mark.parametrize("data", ["%%%%", "YQ", "YQ==\n", 5, "Y Q=="])
async def test_data_is_strict_base64(world: World, data: Any) -> None:
    attachment = {"contentType": "text/xml", "data": data}
    answer = await world.http.post(
        "/Communication", json=communication(payload=[{"contentAttachment": attachment}])
    )
    assert answer.status_code == 400
    assert answer.json()["issue"][0]["expression"] == [
        "Communication.payload[0].contentAttachment.data"
    ]


@pytest.mark.parametrize("wrong", [{"size": 5}, {"hash": "AAAAAAAAAAAAAAAAAAAAAAAAAAA="}])
async def test_a_wrong_size_or_hash_is_refused(world: World, wrong: dict[str, Any]) -> None:
    attachment = {"contentType": "text/xml", "data": "YQ==", **wrong}
    answer = await world.http.post(
        "/Communication", json=communication(payload=[{"contentAttachment": attachment}])
    )
    assert answer.status_code == 400


async def test_an_uploaded_binary_is_sent_and_shared(world: World) -> None:
    pdf = b"%PDF" * 100
    uploaded = await world.http.post(
        "/Binary?_filename=a.pdf", content=pdf, headers={"content-type": "application/pdf"}
    )
    url = f"Binary/{uploaded.json()['id']}"
    resource = await sent(world, payload=[{"contentAttachment": {"url": url}}])
    [part] = list(last_message(world).iter_attachments())
    assert (part.get_content(), part.get_filename()) == (pdf, "a.pdf")
    second = await sent(world, payload=[{"contentAttachment": {"url": f"{BASE}/{url}"}}])
    assert resource["payload"][0]["contentAttachment"]["url"] == url
    assert (await world.http.get(second["payload"][0]["contentAttachment"]["url"])).content == pdf


async def test_a_binary_of_another_client_cannot_be_sent(world: World) -> None:
    theirs = await world.add_client("other", "eve@direct.elsewhere.example")
    uploaded = await world.http.post("/Binary", content=b"x", headers=theirs)
    url = f"Binary/{uploaded.json()['id']}"
    found = await refused(world, payload=[{"contentAttachment": {"url": url}}])
    assert found == [("not-found", "Communication.payload[0].contentAttachment.url")]


async def test_elements_that_do_not_travel_are_told(world: World) -> None:
    answer = await world.http.post(
        "/Communication",
        json=communication(note=[{"text": "internal"}]),
        headers={"prefer": "return=OperationOutcome"},
    )
    assert answer.json()["issue"][0]["expression"] == ["Communication.note"]


async def test_a_time_of_sending_that_was_given_is_replaced_and_that_is_told(
    world: World,
) -> None:
    posted = communication(
        sent="2001-01-01T00:00:00Z", extension=[{"url": "urn:x", "valueString": "internal"}]
    )
    answer = await world.http.post(
        "/Communication", json=posted, headers={"prefer": "return=OperationOutcome"}
    )
    told = {issue["expression"][0]: issue["details"]["text"] for issue in answer.json()["issue"]}
    assert told == {
        "Communication.sent": "The time of sending is set by the gateway.",
        "Communication.extension": "This element does not travel.",
    }
    [sent] = (await world.http.get("/Communication?direction=outbound")).json()["entry"]
    assert sent["resource"]["sent"] == "2026-01-02T12:00:00Z"


async def test_a_minimal_answer_is_empty(world: World) -> None:
    headers = {"prefer": "return=minimal"}
    answer = await world.http.post("/Communication", json=communication(), headers=headers)
    assert (answer.status_code, answer.content) == (201, b"")


async def test_an_unknown_preference_is_passed_over(world: World) -> None:
    headers = {"prefer": "return=presentation"}  # as SMART JS writes it
    answer = await world.http.post("/Communication", json=communication(), headers=headers)
    assert answer.json()["resourceType"] == "Communication"


async def test_a_reply_carries_in_reply_to_and_references_both_ways(world: World) -> None:
    first = (
        b"From: ben@direct.lakeview.example\r\nTo: anna@direct.hillside.example\r\n"
        b"Subject: Hello\r\nMessage-ID: <2@lakeview.example>\r\n"
        b"References: <0@x.example> <1@x.example>\r\nIn-Reply-To: <1@x.example>\r\n\r\nHi\r\n"
    )
    parent = await world.receive(first)
    reply = await sent(world, inResponseTo=[{"reference": f"Communication/{parent}"}])
    message = last_message(world)
    assert message["In-Reply-To"] == "<2@lakeview.example>"
    assert message["References"].split() == [
        "<0@x.example>",
        "<1@x.example>",
        "<2@lakeview.example>",
    ]
    received = (await world.http.get(f"/Communication/{parent}")).json()
    assert received["partOf"] == reply["partOf"]
    own = message["Message-ID"].encode()
    answer = (
        b"From: ben@direct.lakeview.example\r\nTo: anna@direct.hillside.example\r\n"
        b"Message-ID: <4@lakeview.example>\r\nIn-Reply-To: %b\r\n"
        b"References: <0@x.example> %b\r\n\r\nOk\r\n" % (own, own)
    )
    third = (await world.http.get(f"/Communication/{await world.receive(answer)}")).json()
    assert third["inResponseTo"][0]["reference"] == f"Communication/{reply['id']}"
    assert third["partOf"] == reply["partOf"]


async def test_a_reply_may_name_its_parent_by_message_id_alone(world: World) -> None:
    mid = {"identifier": {"system": "urn:ietf:rfc:3986", "value": "mid:9@x.example"}}
    await sent(world, inResponseTo=[mid])
    assert last_message(world)["In-Reply-To"] == "<9@x.example>"


async def test_a_thread_of_the_client_becomes_the_threads_header(world: World) -> None:
    header = communication(topic={"text": "Care of Mr. H"})
    del header["payload"]
    created = (await world.http.post("/Communication", json=header)).json()
    part_of = [{"reference": f"Communication/{created['id']}"}]
    one = await sent(world, partOf=part_of)
    await sent(world, partOf=part_of)
    root = world.outbox.submissions[0].message_id
    assert last_message(world)["References"] == root
    reply = (
        b"From: ben@direct.lakeview.example\r\nTo: anna@direct.hillside.example\r\n"
        b"Message-ID: <r@x.example>\r\nReferences: " + root.encode() + b"\r\n\r\nOk\r\n"
    )
    received = (await world.http.get(f"/Communication/{await world.receive(reply)}")).json()
    assert received["partOf"] == one["partOf"] == part_of


async def test_a_header_lists_everybody_once(world: World) -> None:
    resource = await sent(world, recipient=[to(BEN), to(BEN.upper()), to(CARA)])
    header = (await world.http.get(resource["partOf"][0]["reference"])).json()
    get_fhir_model_class("Communication").model_validate(header)
    assert [r["identifier"]["value"] for r in header["recipient"]] == [
        f"mailto:{address}" for address in (ANNA, BEN, CARA)
    ]
    assert len(world.outbox.submissions[0].recipients) == 2


async def test_versions_stay_readable(world: World) -> None:
    world.outbox.codes[BEN] = ("relayed", None)
    resource = await sent(world)
    first = await world.http.get(f"/Communication/{resource['id']}/_history/1")
    assert delivery_of(first.json()["recipient"][0], TERMS)["code"] == "queued"
    for number in ("9", "x", "99999999999"):
        gone = await world.http.get(f"/Communication/{resource['id']}/_history/{number}")
        assert gone.status_code == 404


async def test_what_is_known_is_not_sent_again(world: World) -> None:
    resource = await sent(world, status="completed")
    url = f"/Communication/{resource['id']}"
    for known in ('W/"1"', "1"):
        answer = await world.http.get(url, headers={"if-none-match": known})
        assert answer.status_code == 304


async def test_another_mailbox_sees_nothing(world: World) -> None:
    resource = await sent(world)
    theirs = await world.add_client("other", "eve@direct.hillside.example")
    answer = await world.http.get(f"/Communication/{resource['id']}", headers=theirs)
    assert answer.status_code == 404
    found = await world.http.get("/Communication", headers=theirs)
    assert found.json()["total"] == 0


async def test_the_same_message_told_twice_is_one(world: World) -> None:
    resource = await sent(world)
    header = (await world.http.get("/Communication?part-of:missing=true")).json()
    assert header["total"] == 1
    assert header["entry"][0]["fullUrl"] == f"{BASE}/{resource['partOf'][0]['reference']}"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        pytest.param({"authorization": ""}, 401, "login", id="no-token"),
        pytest.param({"authorization": "Bearer x"}, 401, "login", id="wrong-token"),
        pytest.param({"authorization": "Basic x"}, 401, "login", id="another-scheme"),
        pytest.param({"content-type": "text/plain"}, 415, "not-supported", id="content-type"),
    ],
)
async def test_a_request_that_is_refused_gets_an_outcome(
    world: World, headers: dict[str, str], status: int, code: str
) -> None:
    answer = await world.http.post("/Communication", content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/Nothing", 404),
        ("GET", "/Communication/not-a-uuid", 404),
        ("GET", "/Communication/019b7e94-3200-7f59-8821-036711df07e0", 404),
        ("GET", "/Binary/019b7e94-3200-7f59-8821-036711df07e0", 404),
        ("GET", "/Binary", 405),
        ("TRACE", "/Communication", 405),
        ("GET", "/a/b/c/d/e", 404),
    ],
)
async def test_what_is_not_there_gets_an_outcome(
    world: World, method: str, path: str, status: int
) -> None:
    answer = await world.http.request(method, path)
    assert answer.status_code == status
    get_fhir_model_class("OperationOutcome").model_validate(answer.json())


async def test_a_body_over_the_limit_is_refused(world: World) -> None:
    async def endless() -> Any:
        for _ in range(50):
            yield b" " * 100_000

    for content in (b" " * 3_000_000, endless()):
        answer = await world.http.post(
            "/Communication", content=content, headers={"content-type": "application/fhir+json"}
        )
        assert (answer.status_code, answer.json()["issue"][0]["code"]) == (413, "too-long")


async def test_the_capability_statement_is_open_and_valid(world: World) -> None:
    answer = await world.http.get("/metadata", headers={"authorization": ""})
    statement = answer.json()
    get_fhir_model_class("CapabilityStatement").model_validate(statement)
    assert statement["fhirVersion"] == "4.0.1"
