from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from fhir.resources.R4B import get_fhir_model_class

from certs.address import parse_address
from fhir_bridge.inbound import InboundView, Reading, view
from fhir_bridge.terms import InboundStatus, Terms, extension_value
from fhir_bridge.trust import Trust
from tests.unit.fhir_bridge.conftest import ANNA, NOW, TERMS, TRUST

HEADER = (
    b"From: Ben Ray <ben@direct.lakeview.example>\r\n"
    b"To: Anna <anna@direct.hillside.example>\r\n"
    b"Subject: =?utf-8?q?Caf=C3=A9?=\r\n"
    b"Date: Fri, 02 Jan 2026 09:30:00 -0500\r\n"
    b"Message-ID: <1@direct.lakeview.example>\r\n"
)


def seen(
    message: bytes,
    *,
    trust: Trust = TRUST,
    mailbox: str = ANNA,
    status: InboundStatus = InboundStatus.COMPLETED,
) -> InboundView:
    made = view(
        io.BytesIO(message),
        message_uuid=UUID(int=7),
        mailbox=parse_address(mailbox),
        body_key="body",
        received_at=NOW,
        trust=trust,
        terms=TERMS,
        reading=Reading(status=status),
    )
    get_fhir_model_class("Communication").model_validate(made.communication)
    return made


def communication(message: bytes, **given: Any) -> dict[str, Any]:
    return seen(message, **given).communication


def mime_part(payload: dict[str, Any]) -> dict[str, Any]:
    [found] = payload["extension"]
    assert found["url"] == TERMS.extension("mime-part")
    return {e["url"]: next(v for k, v in e.items() if k != "url") for e in found["extension"]}


def test_the_header_becomes_elements() -> None:
    found = communication(HEADER + b"\r\nHello\r\n")
    assert found["identifier"] == [
        {"system": "urn:ietf:rfc:3986", "value": "mid:1@direct.lakeview.example"}
    ]
    assert found["status"] == "completed"
    assert found["topic"] == {"text": "Café"}
    assert found["sent"] == "2026-01-02T09:30:00-05:00"
    assert found["received"] == "2026-01-02T12:00:00Z"
    [recipient] = found["recipient"]
    assert recipient["identifier"]["value"] == "mailto:anna@direct.hillside.example"
    assert recipient["display"] == "Anna"
    assert extension_value(recipient, TERMS.extension("recipient-role")) == "to"
    assert [p["contentString"] for p in found["payload"]] == ["Hello\n"]


def test_the_same_message_makes_the_same_resource() -> None:
    message = HEADER + b"Content-Type: application/pdf\r\n\r\nx"
    assert seen(message) == seen(message)


def test_another_mailbox_gets_another_resource_over_the_same_octets() -> None:
    one, two = (
        seen(HEADER + b"\r\nx"),
        seen(HEADER + b"\r\nx", mailbox="zoe@direct.hillside.example"),
    )
    assert one.communication["id"] != two.communication["id"]
    assert {row.body_key for row in (*one.binaries, *two.binaries)} == {"body"}


@pytest.mark.parametrize(
    ("binding", "name", "contained"),
    [
        pytest.param("address-bound", "Ben Ray", "Practitioner", id="person"),
        pytest.param("domain-bound", "", "Organization", id="organization"),
        pytest.param("domain-bound", "Ben Ray", None, id="a-name-nobody-vouches-for"),
        pytest.param("address-bound", "", None, id="no-name"),
    ],
)
def test_the_sender_is_what_the_certificate_vouches_for(
    binding: str, name: str, contained: str | None
) -> None:
    message = HEADER.replace(b"Ben Ray", name.encode()) + b"\r\nx"
    found = communication(message, trust=replace(TRUST, binding=binding))
    assert found["sender"]["identifier"]["value"] == "mailto:ben@direct.lakeview.example"
    kinds = [item["resourceType"] for item in found.get("contained", [])]
    assert kinds == ([contained] if contained else [])


def test_a_mailbox_that_the_header_does_not_name_is_bcc() -> None:
    found = communication(HEADER + b"\r\nx", mailbox="zoe@direct.hillside.example")
    role = extension_value(found["recipient"][-1], TERMS.extension("recipient-role"))
    assert role == "bcc"


def test_cc_and_groups_are_recipients() -> None:
    found = communication(HEADER + b"Cc: Team: a@x.org, b@x.org;\r\n\r\nx")
    roles = [extension_value(r, TERMS.extension("recipient-role")) for r in found["recipient"]]
    assert roles == ["to", "cc", "cc"]


def test_undisclosed_recipients_leave_the_own_mailbox_only() -> None:
    message = HEADER.replace(b"Anna <anna@direct.hillside.example>", b"undisclosed-recipients:;")
    [recipient] = communication(message + b"\r\nx")["recipient"]
    assert recipient["identifier"]["value"] == f"mailto:{ANNA}"


def test_a_missing_message_id_is_made_from_the_content() -> None:
    message = HEADER.replace(b"Message-ID", b"X-None") + b"\r\nx"
    one, two = seen(message), seen(message)
    assert one.message_id == two.message_id
    [identifier] = one.communication["identifier"]
    assert extension_value(identifier, TERMS.extension("generated-message-id")) is True
    assert one.message_id.endswith("@direct.hillside.example>")


def test_a_date_that_is_none_is_kept_raw() -> None:
    message = HEADER.replace(b"Fri, 02 Jan 2026 09:30:00 -0500", b"last week") + b"\r\nx"
    found = communication(message)
    assert "sent" not in found
    assert "last week" in str(found["extension"])


def test_a_reply_names_its_parent_and_its_thread() -> None:
    fields = b"In-Reply-To: <b@x>\r\nReferences: <root@x> <a@x>\r\n <b@x>\r\n"
    made = seen(HEADER + fields + b"\r\nx")
    assert (made.thread_id, made.in_reply_to) == ("<root@x>", "<b@x>")
    assert made.communication["inResponseTo"][0]["identifier"]["value"] == "mid:b@x"
    assert "<root@x> <a@x> <b@x>" in str(made.communication["extension"])


@pytest.mark.parametrize(
    ("field", "priority"),
    [
        (b"Importance: High", "urgent"),
        (b"X-Priority: 1 (Highest)", "asap"),
        (b"X-Priority: 2", "urgent"),
        (b"Priority: urgent", "asap"),
        (b"Importance: low", "routine"),
        (b"X-Priority: 3", None),
    ],
)
def test_importance_becomes_priority(field: bytes, priority: str | None) -> None:
    assert communication(HEADER + field + b"\r\n\r\nx").get("priority") == priority


@pytest.mark.parametrize(
    ("sender", "kept"),
    [
        pytest.param(b"Desk <desk@direct.lakeview.example>", True, id="somebody-else"),
        pytest.param(b"Dr. Ray <BEN@direct.lakeview.example>", False, id="the-author"),
        pytest.param(b"nobody", False, id="no-address"),
    ],
)
def test_who_sent_it_for_the_author_is_kept(sender: bytes, kept: bool) -> None:
    found = communication(HEADER + b"Sender: " + sender + b"\r\n\r\nx")
    url = TERMS.extension("mime-header")
    raw = [e["extension"] for e in found["extension"] if e["url"] == url]
    value = [
        {"url": "name", "valueString": "sender"},
        {"url": "value", "valueString": sender.decode()},
    ]
    assert raw == ([value] if kept else [])


def test_a_low_importance_is_kept_as_it_was_said() -> None:
    found = communication(HEADER + b"Importance: low\r\nX-Priority: 5 (Lowest)\r\n\r\nx")
    url = TERMS.extension("mime-header")
    kept = [
        tuple(part["valueString"] for part in item["extension"])
        for item in found["extension"]
        if item["url"] == url
    ]
    assert kept == [("importance", "low"), ("x-priority", "5 (Lowest)")]


def test_the_part_of_direct_context_is_marked() -> None:
    context = (
        b"Content-Type: text/plain; name=metadata.txt\r\n"
        b"Content-ID: <context@x>\r\n\r\nversion: 1.0"
    )
    message = HEADER + b"X-Direct-Context: <context@x>\r\n" + mixed(b"\r\nx", context)
    [text, attached] = communication(message)["payload"]
    assert text["contentString"] == "x"
    assert mime_part(attached)["role"] == "context"
    assert attached["contentAttachment"]["title"] == "metadata.txt"


def test_no_body_is_no_payload() -> None:
    assert "payload" not in communication(HEADER + b"\r\n")
    assert "payload" not in communication(HEADER + b"\r\n \r\n")


def test_an_empty_subject_is_no_topic() -> None:
    assert "topic" not in communication(HEADER.replace(b"=?utf-8?q?Caf=C3=A9?=", b"") + b"\r\nx")


def mixed(*parts: bytes, kind: bytes = b"mixed") -> bytes:
    body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts)
    return HEADER + b"Content-Type: multipart/%b; boundary=b\r\n\r\n" % kind + body + b"--b--\r\n"


PDF = (
    b"Content-Type: application/pdf\r\nContent-Disposition: attachment; filename=a.pdf\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.b64encode(b"%PDF-1.7")
)


def test_an_attachment_is_a_stretch_of_the_stored_message() -> None:
    message = mixed(b"\r\nSee attached", PDF)
    made = seen(message)
    text, attached = made.communication["payload"]
    assert text["contentString"] == "See attached"
    attachment = attached["contentAttachment"]
    row = next(row for row in made.binaries if f"Binary/{row.id}" == attachment["url"])
    octets = message[row.offset : row.offset + row.length]
    assert base64.b64decode(octets) == b"%PDF-1.7"
    assert (attachment["size"], attachment["title"]) == (8, "a.pdf")
    assert mime_part(attached) == {
        "path": "2",
        "role": "attachment",
        "disposition": "attachment",
        "encoding": "base64",
        "sha256": row.sha256,
    }


def test_the_raw_message_is_a_binary() -> None:
    message = mixed(b"\r\nx", PDF)
    made = seen(message)
    raw = made.binaries[-1]
    assert (raw.content_type, raw.size) == ("message/rfc822", len(message))
    assert f"Binary/{raw.id}" in str(made.communication["extension"])


def test_the_html_alternative_is_kept_beside_the_text() -> None:
    made = communication(
        mixed(b"\r\ntext", b"Content-Type: text/html\r\n\r\n<p>", kind=b"alternative")
    )
    assert made["payload"][0]["contentString"] == "text"
    assert mime_part(made["payload"][1])["role"] == "body-html"
    assert mime_part(made["payload"][1])["alternative-of"] == "1"


def test_html_alone_gives_derived_text() -> None:
    html = b"<html><style>x</style><p>Dear&nbsp;Anna</p><p>all   is<br>well</p></html>"
    made = communication(HEADER + b"Content-Type: text/html\r\n\r\n" + html)
    text, kept = made["payload"]
    assert text["contentString"] == "Dear Anna\n\nall is\nwell"
    assert mime_part(text)["derived"] is True
    assert kept["contentAttachment"]["contentType"] == "text/html"


def test_an_inline_image_keeps_its_content_id() -> None:
    image = b"Content-Type: image/png\r\nContent-ID: <i@x>\r\n\r\npng"
    made = communication(mixed(b"Content-Type: text/html\r\n\r\n<p>x", image, kind=b"related"))
    part = mime_part(made["payload"][-1])
    assert (part["role"], part["content-id"]) == ("inline", "i@x")


def test_a_second_text_is_not_lost() -> None:
    made = communication(mixed(b"\r\none", b"\r\ntwo"))
    assert len(made["payload"]) == 2
    assert made["payload"][1]["contentAttachment"]["size"] == 3


def test_a_wrong_charset_is_replaced_and_marked() -> None:
    message = HEADER + b"Content-Type: text/plain; charset=us-ascii\r\n\r\na\xff\r\n"
    text = communication(message)["payload"][0]
    assert text["contentString"] == "a�\n"
    assert mime_part(text)["derived"] is True


def test_flowed_text_is_joined() -> None:
    message = (
        HEADER + b"Content-Type: text/plain; format=flowed\r\n\r\none \r\ntwo\r\n-- \r\n  sig\r\n"
    )
    assert communication(message)["payload"][0]["contentString"] == "one two\n-- \n sig\n"


def test_flowed_text_with_delsp_is_joined_without_the_space() -> None:
    message = HEADER + b"Content-Type: text/plain; format=flowed; delsp=yes\r\n\r\none \r\ntwo\r\n"
    assert communication(message)["payload"][0]["contentString"] == "onetwo\n"


def test_text_over_the_limit_of_a_string_is_an_attachment() -> None:
    made = communication(HEADER + b"\r\n" + b"line\r\n" * 250_000)
    assert made["payload"][0]["contentAttachment"]["size"] == 1_500_000
    assert mime_part(made["payload"][0])["role"] == "body"


def test_a_hostile_file_name_stays_text() -> None:
    part = PDF.replace(b"a.pdf", b'"../../etc/passwd"')
    attachment = communication(mixed(b"\r\nx", part))["payload"][1]["contentAttachment"]
    assert attachment["title"] == "../../etc/passwd"


@pytest.mark.parametrize("kind", [b'application/x; a="b;c"; name=n', b"nonsense", b"x/\xff"])
def test_any_content_type_is_a_valid_code(kind: bytes) -> None:
    part = PDF.replace(b"application/pdf", kind)
    assert len(communication(mixed(b"\r\nx", part))["payload"]) == 2


def test_trust_is_shown() -> None:
    found = communication(HEADER + b"\r\nx")
    url = TERMS.extension("direct-trust")
    [trust] = [e for e in found["extension"] if e["url"] == url]
    assert {e["url"] for e in trust["extension"]} == {
        "status",
        "signer",
        "binding",
        "anchor",
        "algorithms",
        "checked",
    }


def test_names_of_ours_are_under_the_operators_base() -> None:
    made = view(
        io.BytesIO(HEADER + b"\r\nx"),
        message_uuid=UUID(int=7),
        mailbox=parse_address(ANNA),
        body_key="body",
        received_at=NOW,
        trust=TRUST,
        terms=Terms("https://fhir.hisp.example"),
    )
    assert "direct-gateway.dev" not in str(made.communication)


def test_a_nested_bomb_is_kept_and_marked() -> None:
    message = b"\r\nx"
    for level in range(30):
        head = b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n" % level
        message = head + b"--b%d\r\n" % level + message + b"\r\n--b%d--\r\n" % level
    found = communication(HEADER + message)
    assert extension_value(found, TERMS.extension("partial")) is True
