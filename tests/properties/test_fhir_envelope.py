"""With an envelope the whole resource comes out as it went in (fhir.md 3.6 rule 4)."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from certs.address import parse_address
from fhir_bridge.binary_rows import BinaryRow, measure
from fhir_bridge.compose import Ancestry, Attachment, compose
from fhir_bridge.envelope import Facts, enclosed
from fhir_bridge.handover import letter_of
from fhir_bridge.inbound import InboundView, Reading, view
from fhir_bridge.mime import decoded, index
from fhir_bridge.outbound import draft_of
from fhir_bridge.resources import check
from fhir_bridge.terms import DIRECT_MEDIUM, Terms, mailto_identifier, mid_identifier
from fhir_bridge.trust import Trust

TERMS = Terms()
NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
BEN = parse_address("ben@direct.lakeview.example")
TRUST = Trust("trusted", None, None, None, None, None, None, NOW)
HERE, THERE = "https://gw.hillside.example/fhir/R4", "https://gw.lakeview.example/fhir/R4"
MESSAGE_ID = "<1@direct.hillside.example>"
CHECKED = settings(max_examples=60, deadline=None)

# FHIR strings; a header has no line ends.
LETTERS = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])
LINE = st.text(LETTERS, max_size=60).map(lambda text: " ".join(text.split())).filter(bool)
TEXT = st.text(st.one_of(LETTERS, st.just("\n"))).filter(lambda text: bool(text.strip()))
CODE = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
ABSOLUTE = CODE.map(lambda code: f"https://ehr.example/fhir/{{}}/{code}")
CODINGS = st.lists(st.builds(lambda c: {"system": "urn:oid:1.2.3", "code": c}, CODE), min_size=1)
CONCEPT = st.builds(lambda codings, text: {"coding": codings, "text": text}, CODINGS, LINE)
EXTENSION = st.builds(
    lambda code, text: {"url": f"https://ehr.example/{code}", "valueString": text}, CODE, LINE
)
NOTE = st.builds(
    lambda text, name: {"authorString": name, "time": "2026-01-02T09:00:00Z", "text": text},
    TEXT,
    LINE,
)


def some(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(strategy, min_size=1, max_size=3)


def reference(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    return ABSOLUTE.map(lambda url: {"reference": url.format(kind)})


PATIENT = st.builds(
    lambda family, value: {
        "resourceType": "Patient",
        "id": "patient",
        "identifier": [{"system": "urn:oid:1.2.3", "value": value}],
        "name": [{"family": family}],
    },
    LINE,
    CODE,
)
ELEMENTS = st.fixed_dictionaries(
    {},
    optional={
        "language": st.sampled_from(["de", "en-US"]),
        "extension": some(EXTENSION),
        "modifierExtension": some(EXTENSION),
        "instantiatesUri": some(ABSOLUTE.map(lambda url: url.format("Protocol"))),
        "basedOn": some(reference("ServiceRequest")),
        "category": some(CONCEPT),
        "about": some(reference("DiagnosticReport")),
        "encounter": reference("Encounter"),
        "reasonCode": some(CONCEPT),
        "reasonReference": some(reference("Condition")),
        "note": some(NOTE),
        "topic": st.builds(lambda text, codings: {"text": text, "coding": codings}, LINE, CODINGS),
        "priority": st.sampled_from(["routine", "urgent", "asap", "stat"]),
        "identifier": some(CODE.map(lambda c: {"system": "https://ehr.example", "value": c})),
        "contained": PATIENT.map(lambda patient: [patient]),
    },
)
STRING = st.builds(
    lambda text, more: {"contentString": text, **more},
    TEXT,
    st.fixed_dictionaries({}, optional={"extension": some(EXTENSION)}),
)
TYPES = st.sampled_from(["application/pdf", "application/json; charset=utf-8", "image/png", "x/y"])
# Of what is called .xml the receiver says what it is.
TITLE = LINE.map(lambda name: f"{name}.bin")
ATTACHED = st.tuples(TYPES, TITLE, st.binary(min_size=1, max_size=60), st.sampled_from(["", "de"]))
PAYLOAD = st.lists(STRING | ATTACHED, min_size=1, max_size=5)
ACTOR = st.builds(
    lambda name, local: {
        "identifier": mailto_identifier(f"{local}@direct.lakeview.example"),
        "display": name,
    },
    LINE,
    CODE,
)


def built(payload: list[Any], rows: dict[str, tuple[BinaryRow, bytes]]) -> list[dict[str, Any]]:
    """Return the payload elements; each attachment has its Binary."""
    whole = []
    for each in payload:
        if isinstance(each, dict):
            whole.append(each)
            continue
        kind, title, octets, language = each
        measured = measure([octets])
        identity = UUID(int=1000 + len(rows))
        row = BinaryRow(
            identity, None, "anna", f"k{len(rows)}", 0, len(octets), "binary", kind, title,
            measured.size, measured.sha1, measured.sha256,
        )  # fmt: skip
        attachment = {"contentType": kind, "title": title, "url": f"Binary/{identity}"}
        rows[f"Binary/{identity}"] = (row, octets)
        told = {"language": language} if language else {}
        whole.append({"contentAttachment": {**attachment, **told}})
    return whole


def carried(resource: dict[str, Any], rows: dict[str, tuple[BinaryRow, bytes]]) -> bytes:
    """Return the message that `resource` becomes at a gateway that has the setting on."""
    check(resource)
    draft = draft_of(resource, directory={}, terms=TERMS)
    binaries = {c.at: rows[c.url][0] for c in draft.contents if c.url}
    letter = letter_of(
        draft,
        message_id=MESSAGE_ID,
        date=NOW,
        ancestry=Ancestry(),
        binaries=binaries,
        files={row.body_key: io.BytesIO(octets) for row, octets in rows.values()},
    )
    facts = Facts(UUID(int=2), MESSAGE_ID, None, NOW)
    envelope = enclosed(resource, draft, facts, binaries=binaries, base_url=HERE, terms=TERMS)
    if envelope is not None:
        letter = replace(letter, attachments=(*letter.attachments, envelope.attachment))
    out = io.BytesIO()
    compose(letter, out, boundary="=_3f1c2f6e7a0e4b53")
    return out.getvalue()


def seen(message: bytes) -> InboundView:
    return view(
        io.BytesIO(message),
        message_uuid=UUID(int=1),
        mailbox=BEN,
        body_key="k",
        received_at=NOW,
        trust=TRUST,
        terms=TERMS,
        reading=Reading(envelopes=True, base_url=THERE),
    )


def bare(resource: dict[str, Any]) -> dict[str, Any]:
    """Return `resource` without id and meta, and without what each gateway states itself."""
    stated = ("id", "meta", "status", "received", "url", "size", "hash")

    def walked(value: Any) -> Any:
        if isinstance(value, list):
            return [walked(item) for item in value if not is_ours(item)]
        if not isinstance(value, dict) or "resourceType" in value:
            return value
        kept = {k: walked(v) for k, v in value.items() if k not in stated or "valueString" in value}
        return {k: v for k, v in kept.items() if v != []}

    def is_ours(item: Any) -> bool:
        url = item.get("url", "") if isinstance(item, dict) else ""
        return str(url).startswith(TERMS.canonical)

    whole = {k: walked(v) for k, v in resource.items() if k not in stated}
    return {k: v for k, v in whole.items() if v != []}


@CHECKED
@given(elements=ELEMENTS, payload=PAYLOAD, recipients=st.lists(ACTOR, max_size=2), name=LINE)
def test_the_whole_resource_comes_out_as_it_went_in(
    elements: dict[str, Any], payload: list[Any], recipients: list[dict[str, Any]], name: str
) -> None:
    rows: dict[str, tuple[BinaryRow, bytes]] = {}
    ben = {"identifier": mailto_identifier(str(BEN))}
    every = {r["identifier"]["value"]: r for r in (ben, *recipients)}
    sender = {"identifier": mailto_identifier("anna@direct.hillside.example"), "display": name}
    resource: dict[str, Any] = {
        "resourceType": "Communication",
        "status": "in-progress",
        "medium": [DIRECT_MEDIUM],
        "sent": "2026-01-02T12:00:00Z",
        "sender": sender,
        "recipient": [*every.values()],
        **elements,
        "identifier": [mid_identifier(MESSAGE_ID), *elements.get("identifier", ())],
        "payload": built(payload, rows),
    }
    if "contained" in elements:
        resource["subject"] = {"reference": "#patient"}
    message = carried(resource, rows)
    made = seen(message)
    check(made.communication)
    assert bare(made.communication) == bare(resource)
    assert seen(message) == made
    digests = [row.sha256 for row in made.binaries[: len(rows)]]
    assert digests == [row.sha256 for row, _ in rows.values()]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(
        ["#patient", "Patient/1", f"{THERE}/Patient/1", "mailto:x@y.example", "#", "2026", "urn:x",
         TERMS.extension("direct-trust"), TERMS.extension("mime-part")]
    ),
    lambda children: st.lists(children, max_size=3)
    | st.dictionaries(
        st.sampled_from(["url", "extension", "reference", "identifier", "value", "text", "coding",
                         "valueString", "contentString", "contentAttachment", "resourceType",
                         "id", "_text", "display", "system"]),
        children,
        max_size=3,
    ),
    max_leaves=8,
)  # fmt: skip
GIVEN: dict[str, Any] = {
    "resourceType": "Communication",
    "status": "in-progress",
    "sender": {"identifier": mailto_identifier("anna@direct.hillside.example")},
    "recipient": [{"identifier": mailto_identifier(str(BEN))}],
    "contained": [{"resourceType": "Patient", "id": "patient", "name": [{"family": "H"}]}],
    "subject": {"reference": "#patient"},
    "topic": {"text": "Referral", "coding": [{"code": "x"}]},
    "note": [{"text": "n"}],
    "payload": [{"contentString": "a"}, {"contentString": "b"}],
}


def bundle_of(message: bytes) -> dict[str, Any]:
    [part] = [p for p in index(io.BytesIO(message)).root.leaves() if p.filename]
    bundle: dict[str, Any] = json.loads(b"".join(decoded(io.BytesIO(message), part)))
    return bundle


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every place in a JSON value: what holds it, and by which name or number."""
    found = []
    pending = [value]
    while pending:
        item = pending.pop()
        named = item.items() if isinstance(item, dict) else enumerate(item)
        for name, child in named:
            found.append((item, name))
            if isinstance(child, dict | list):
                pending.append(child)
    return found


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_is_changed_in_an_envelope_the_mail_stays_what_it_is(data: st.DataObject) -> None:
    message = carried(GIVEN, {})
    bundle = bundle_of(message)
    for _ in range(data.draw(st.integers(1, 3))):
        holder, name = data.draw(st.sampled_from(places(bundle)))
        holder[name] = data.draw(VALUES)
    letter = letter_of(
        draft_of(GIVEN, directory={}, terms=TERMS),
        message_id=MESSAGE_ID, date=NOW, ancestry=Ancestry(), binaries={}, files={},
    )  # fmt: skip
    octets = json.dumps(bundle).encode()
    kind = "application/fhir+json; envelope=direct-message"
    part = Attachment(kind, "x.json", None, False, lambda: iter([octets]))
    out = io.BytesIO()
    compose(replace(letter, attachments=(part,)), out, boundary="=_3f1c2f6e7a0e4b53")
    found = seen(out.getvalue()).communication
    check(found)
    assert found["sender"] == GIVEN["sender"]
    [recipient] = found["recipient"]
    assert recipient["identifier"] == mailto_identifier(str(BEN))
    assert found["topic"]["text"] == "Referral"
    assert found["status"] == "completed"
    assert found["identifier"][0] == mid_identifier(MESSAGE_ID)
    strings = [p["contentString"] for p in found["payload"] if "contentString" in p]
    assert "\n\n".join(strings) == "a\n\nb"
    ours = [e["url"] for e in found["extension"] if e["url"].startswith(TERMS.canonical)]
    stated = ["thread-id", "direction", "raw-message", "direct-trust"]
    assert ours[:4] == [TERMS.extension(name) for name in stated]
    assert ours[4:] in ([], [TERMS.extension("envelope")])
    assert f"{THERE}/" not in json.dumps(found)
