"""With an envelope the whole resource comes out as it went in (fhir.md 3.6 rule 4)."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from certs.address import parse_address
from fhir_bridge.binary_rows import BinaryRow, measure
from fhir_bridge.compose import Ancestry, compose
from fhir_bridge.envelope import Facts, enclosed
from fhir_bridge.handover import letter_of
from fhir_bridge.inbound import InboundView, Reading, view
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
