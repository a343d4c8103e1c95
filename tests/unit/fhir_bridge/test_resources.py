from __future__ import annotations

from typing import Any

import orjson
import pytest

from fhir_bridge.outcome import FhirError
from fhir_bridge.resources import check, dump, load, require_type


def refused(body: bytes) -> list[tuple[str, str | None]]:
    with pytest.raises(FhirError) as caught:
        check(load(body))
    assert caught.value.status == 400
    return [(issue.code, issue.expression) for issue in caught.value.issues]


def communication(**elements: Any) -> bytes:
    return orjson.dumps({"resourceType": "Communication", "status": "completed", **elements})


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b"", "structure", id="empty"),
        pytest.param(b"[]", "structure", id="array"),
        pytest.param(b'{"a":1', "structure", id="truncated"),
        pytest.param(b'{"a":"\xff"}', "structure", id="not-utf-8"),
        pytest.param(b'{"a":1,"a":2}', "structure", id="name-twice"),
        pytest.param(b'{"a":NaN}', "structure", id="nan"),
        pytest.param(b"[" * 100_000, "structure", id="nested-100000"),
        pytest.param(b'{"a":' * 70 + b"1" + b"}" * 70, "too-costly", id="nested-70"),
        pytest.param(b'{"a":[]}', "structure", id="empty-array"),
        pytest.param(b'{"a":{}}', "structure", id="empty-object"),
        pytest.param(b'{"a":null}', "structure", id="null"),
        pytest.param(b'{"a":""}', "value", id="empty-string"),
        pytest.param(b'{"a":"\\u0000"}', "value", id="nul"),
        pytest.param(b'{"a":"\\ud800"}', "value", id="surrogate"),
        pytest.param(b'{"\\ud800":1}', "structure", id="surrogate-in-name"),
        pytest.param(b'{"a":"%b"}' % (b"x" * 1_048_577), "too-long", id="over-a-mebi"),
        pytest.param(b'{"a":[%b1]}' % (b"1," * 100_001), "too-costly", id="100000-elements"),
        pytest.param(b'{"resourceType":"Patient","id":"a b"}', "value", id="bad-id"),
        pytest.param(b'{"resourceType":"Foo"}', "structure", id="unknown-type"),
        pytest.param(b'{"resourceType":"HumanName"}', "structure", id="a-data-type"),
        pytest.param(b'{"resourceType":5}', "structure", id="type-is-a-number"),
        pytest.param(b'{"status":"completed"}', "structure", id="no-type"),
    ],
)
def test_what_is_no_resource_is_refused(body: bytes, code: str) -> None:
    assert refused(body)[0][0] == code


@pytest.mark.parametrize(
    ("elements", "code", "expression"),
    [
        pytest.param({"status": "banana"}, "code-invalid", "status", id="binding"),
        pytest.param({"foo": 1}, "structure", "foo", id="unknown-element"),
        pytest.param({"sent": "today"}, "value", "sent", id="date"),
        pytest.param({"note": {"text": "x"}}, "structure", "note", id="not-a-list"),
        pytest.param(
            {"subject": {"reference": "Medication/1"}}, "value", "subject", id="reference-target"
        ),
        pytest.param({"sender": {"type": "Medication"}}, "value", "sender", id="reference-type"),
        pytest.param(
            {"about": [{"reference": "not a ref!!"}]},
            "value",
            "about[0].reference",
            id="reference-syntax",
        ),
        pytest.param(
            {"sender": {"reference": "#x"}}, "not-found", "sender.reference", id="dangling"
        ),
        pytest.param(
            {"contained": [{"resourceType": "Foo", "id": "a"}], "sender": {"reference": "#a"}},
            "structure",
            "contained[0].resourceType",
            id="unknown-contained",
        ),
        pytest.param(
            {"contained": [{"resourceType": "Patient", "id": "a"}]},
            "invariant",
            "contained[0]",
            id="dom-3",
        ),
        pytest.param({"extension": [{"url": "http://x"}]}, "invariant", "extension[0]", id="ext-1"),
        pytest.param(
            {"payload": [{"contentString": "a", "contentAttachment": {"url": "b"}}]},
            "structure",
            "payload[0]",
            id="two-choices",
        ),
        pytest.param(
            {"payload": [{"contentAttachment": {"data": "YQ=="}}]},
            "invariant",
            "payload[0].contentAttachment",
            id="att-1",
        ),
    ],
)
def test_a_broken_rule_is_told_with_its_place(
    elements: dict[str, Any], code: str, expression: str
) -> None:
    assert (code, f"Communication.{expression}") in refused(communication(**elements))


@pytest.mark.parametrize("contained", [False, 5, "text", {"id": "a"}, ["text"]])
def test_contained_that_is_no_list_of_resources_is_refused(contained: object) -> None:
    assert refused(communication(contained=contained))


@pytest.mark.parametrize("url", [False, 5, {"a": 1}, ["text"]])
def test_a_url_that_is_no_text_is_refused(url: object) -> None:
    attachment = {"contentType": "text/plain", "url": url}
    assert refused(communication(payload=[{"contentAttachment": attachment}]))


def test_a_missing_element_is_required() -> None:
    assert refused(b'{"resourceType":"Communication"}') == [("required", "Communication.status")]


def test_all_issues_are_told_at_once() -> None:
    found = refused(communication(status="banana", subject={"reference": "Medication/1"}))
    assert len(found) == 2


def test_the_texts_do_not_repeat_values() -> None:
    with pytest.raises(FhirError) as caught:
        check(load(communication(sent="SECRET", sender={"reference": 5})))
    assert "SECRET" not in str([issue.text for issue in caught.value.issues])


@pytest.mark.parametrize("literal", ["1.00", "0.10", "1e5", "-3.1415926535897932384", "9" * 40])
def test_decimals_keep_their_digits(literal: str) -> None:
    body = f'{{"a":{literal}}}'.encode()
    assert dump(load(body)).lower().replace(b"e+", b"e") == body


def test_what_json_has_not_is_not_dumped() -> None:
    with pytest.raises(TypeError):
        dump({"a": object()})


def test_extended_primitives_may_hold_null() -> None:
    body = orjson.dumps(
        {
            "resourceType": "Patient",
            "name": [{"given": ["A", "B"], "_given": [None, {"id": "x"}]}],
        }
    )
    check(load(body))


@pytest.mark.parametrize(
    "reference",
    ["Patient/1", "Patient/1/_history/2", "https://x.example/fhir/Patient/1", "urn:uuid:1-2"],
)
def test_references_of_every_form_are_taken(reference: str) -> None:
    check(load(communication(subject={"reference": reference})))


def test_another_type_is_refused() -> None:
    with pytest.raises(FhirError):
        require_type({"resourceType": "Patient"}, "Communication")
    with pytest.raises(FhirError):
        require_type({}, "Communication")
    require_type({"resourceType": "Communication"}, "Communication")
