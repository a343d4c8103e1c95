"""Two whole gateways over real sockets: the main job, and every way it can be refused."""

from __future__ import annotations

import asyncio
import base64
import json
import smtplib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiosmtplib
import dns.name
import dns.zone
import httpx
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding

from certs import keys
from gateway import messages, queue, queue_control
from gateway.clock import utc_now
from gateway.exchange import exchange
from gateway.messages import Direction, Kind, Message, MessageState, Source
from gateway.sample_ccda import continuity_of_care_document
from gateway.sandbox import Hisp, Sandbox, open_sandbox
from gateway.tls import unverified_context
from tests.helpers.agent import WANTS_DISPATCHED
from tests.helpers.console import run
from tests.helpers.stranger import Stranger, deliver, mail
from trust_bundles import store
from trust_bundles.policy import Direction as Way

STRANGER = "dr.lee@direct.stranger.example"


@pytest_asyncio.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    async with open_sandbox(tmp_path) as running:
        yield running


async def eventually(look: Callable[[], Any], *, seconds: float = 20.0) -> Any:
    """Return what `look` returns as soon as it is true."""
    async with asyncio.timeout(seconds):
        while True:
            if found := await look():
                return found
            await asyncio.sleep(0.02)


async def messages_of(hisp: Hisp, direction: Direction) -> list[Message]:
    found = await hisp.listening.database.read(
        lambda c: messages.list_messages(c, limit=100, direction=direction)
    )
    return list(found)


async def settled(hisp: Hisp) -> bool:
    """Say whether no job is left."""
    return not await hisp.listening.database.read(lambda c: queue.list_jobs(c, limit=1))


async def judged(hisp: Hisp) -> Message:
    """Return the newest message that came from the backbone, once all are judged."""

    async def look() -> list[Message]:
        found = await messages_of(hisp, Direction.INCOMING)
        ends = (MessageState.FINISHED, MessageState.REFUSED)
        return found if all(message.state in ends for message in found) else []

    return (await eventually(look))[0]


async def reports(hisp: Hisp) -> list[dict[str, Any]]:
    """Return the failure reports in the inbox."""
    return [
        resource
        for resource in await inbox(hisp)
        if resource["sender"]["identifier"]["value"].startswith("mailto:postmaster@")
    ]


async def inbox(hisp: Hisp) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(verify=False) as http:
        response = await http.get(
            f"{hisp.base_url}/Communication",
            params={"part-of:missing": "false"},
            headers={"Authorization": f"Bearer {hisp.token}"},
        )
    return [entry["resource"] for entry in response.json().get("entry", [])]


def communication(sender: str, *recipients: str) -> dict[str, Any]:
    def reference(address: str) -> dict[str, Any]:
        return {"identifier": {"system": "urn:ietf:rfc:3986", "value": f"mailto:{address}"}}

    return {
        "resourceType": "Communication",
        "status": "in-progress",
        "sender": reference(sender),
        "recipient": [reference(recipient) for recipient in recipients],
        "payload": [{"contentString": "Hello"}],
    }


async def post(hisp: Hisp, resource: dict[str, Any]) -> httpx.Response:
    async with httpx.AsyncClient(verify=False) as http:
        return await http.post(
            f"{hisp.base_url}/Communication",
            json=resource,
            headers={"Authorization": f"Bearer {hisp.token}"},
        )


def deliveries(resource: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return the parts of each recipient's delivery extension, by address."""
    found = {}
    for recipient in resource["recipient"]:
        parts: dict[str, str] = {}
        for extension in recipient.get("extension", []):
            if extension["url"].endswith("/delivery"):
                for part in extension["extension"]:
                    parts[part["url"]] = str(next(v for k, v in part.items() if k != "url"))
        found[recipient["identifier"]["value"].removeprefix("mailto:")] = parts
    return found


async def test_document_goes_both_ways_by_fhir_and_by_mail(sandbox: Sandbox) -> None:
    document = continuity_of_care_document(now=utc_now())
    steps = [step async for step in exchange(sandbox, document)]
    assert len(steps) == 11
    for hisp in (sandbox.hillside, sandbox.lakeview):
        await eventually(lambda hisp=hisp: settled(hisp))
        states = {m.state for m in await messages_of(hisp, Direction.OUTGOING)}
        assert states <= {MessageState.FINISHED}


async def trust(sandbox: Sandbox, stranger: Stranger) -> None:
    lakeview = sandbox.lakeview
    await lakeview.listening.database.write(
        lambda c: store.add_anchor(
            c,
            certificate=stranger.ca.certificate,
            domain_or_address=lakeview.domain,
            directions=frozenset(Way),
            now=utc_now(),
        )
    )


async def encryption_certificate(hisp: Hisp) -> Any:
    found = await hisp.listening.database.read(lambda c: keys.list_identities(c, [hisp.user.key]))
    return found[0].certificate


async def send_to_lakeview(
    sandbox: Sandbox, change: Callable[[bytes], bytes] = bytes, **how: Any
) -> Message:
    """Send one message from a stranger and return it as Lakeview judged it."""
    lakeview = sandbox.lakeview
    stranger = Stranger.create("Stranger Root", utc_now())
    if how.get("trusted", True):
        await trust(sandbox, stranger)
    signer = stranger.identity(how.get("signer", STRANGER), expired=how.get("expired", False))
    content = mail(how.get("author", STRANGER), how.get("to", str(lakeview.user)), stranger.now)
    sealed = stranger.seal(content, signer, await encryption_certificate(lakeview))
    assert lakeview.listening.backbone is not None
    await deliver(lakeview.listening.backbone, STRANGER, str(lakeview.user), change(sealed))
    return await judged(lakeview)


async def test_stranger_with_a_trusted_anchor_is_delivered_and_answered(sandbox: Sandbox) -> None:
    message = await send_to_lakeview(sandbox)
    assert (message.state, message.reason) == (MessageState.FINISHED, None)
    [received] = await inbox(sandbox.lakeview)
    assert [part["contentString"] for part in received["payload"]] == ["Text of the message.\n"]
    [mdn] = await messages_of(sandbox.lakeview, Direction.OUTGOING)
    assert (mdn.kind, mdn.parent) == (Kind.MDN, message.id)


def flip(sealed: bytes) -> bytes:
    """Change one octet in the middle of the encrypted content."""
    middle = len(sealed) * 3 // 4
    other = b"A" if sealed[middle : middle + 1] != b"A" else b"B"
    return sealed[:middle] + other + sealed[middle + 1 :]


def in_clear(sealed: bytes) -> bytes:
    return mail(STRANGER, "dr.chen@direct.lakeview.example", utc_now())


@pytest.mark.parametrize(
    ("how", "change", "reasons"),
    [
        pytest.param({"trusted": False}, bytes, {"not-trusted"}, id="untrusted"),
        pytest.param({"expired": True}, bytes, {"certificate-expired"}, id="expired"),
        pytest.param(
            {"signer": "dr.other@direct.stranger.example"},
            bytes,
            {"certificate-not-bound"},
            id="wrongly-bound",
        ),
        pytest.param({}, flip, {"decryption-failed", "signature-invalid"}, id="tampered"),
        pytest.param({}, in_clear, {"not-secured"}, id="in-clear"),
        pytest.param(
            {"to": "dr.else@direct.lakeview.example"}, bytes, {"envelope-mismatch"}, id="envelope"
        ),
        pytest.param(
            {
                "author": "dr.lee@direct.elsewhere.example",
                "signer": "dr.lee@direct.elsewhere.example",
            },
            bytes,
            {"envelope-mismatch"},
            id="mail-from-is-not-from",
        ),
    ],
)
async def test_unsafe_message_is_kept_as_evidence_and_answered_by_nothing(
    sandbox: Sandbox, how: dict[str, Any], change: Callable[[bytes], bytes], reasons: set[str]
) -> None:
    message = await send_to_lakeview(sandbox, change, **how)
    assert message.state is MessageState.REFUSED
    assert message.reason is not None
    assert message.reason.code in reasons
    assert message.body_key is not None
    assert message.content_key is None
    assert await inbox(sandbox.lakeview) == []
    assert await messages_of(sandbox.lakeview, Direction.OUTGOING) == []
    shown = await asyncio.to_thread(
        run, "message", "show", message.id, "--json", "--config", sandbox.lakeview.config_file
    )
    assert json.loads(shown.stdout)["reason"] in reasons


async def test_same_sealed_message_twice_is_shown_once(sandbox: Sandbox) -> None:
    lakeview = sandbox.lakeview
    stranger = Stranger.create("Stranger Root", utc_now())
    await trust(sandbox, stranger)
    signer = stranger.identity(STRANGER)
    content = mail(STRANGER, str(lakeview.user), stranger.now)
    certificate = await encryption_certificate(lakeview)
    first, second = (stranger.seal(content, signer, certificate) for _ in range(2))
    assert first != second
    assert lakeview.listening.backbone is not None
    for sealed in (first, first, second):
        await deliver(lakeview.listening.backbone, STRANGER, str(lakeview.user), sealed)
        await judged(lakeview)
    assert len(await inbox(lakeview)) == 1
    # The very same octets are one message; the same message sealed anew is answered anew.
    assert len(await messages_of(lakeview, Direction.INCOMING)) == 2


async def test_each_recipient_has_its_own_outcome(sandbox: Sandbox) -> None:
    stranger = Stranger.create("Untrusted Root", utc_now())
    other = "dr.no@direct.untrusted.example"
    der = stranger.identity(other).certificate.public_bytes(Encoding.DER)
    add_zone(sandbox, "direct.nobody.example")
    add_zone(
        sandbox,
        "direct.untrusted.example",
        f"dr.no 300 IN CERT PKIX 0 0 {base64.b64encode(der).decode()}",
    )
    hillside, lakeview = sandbox.hillside, sandbox.lakeview
    nobody = "dr.who@direct.nobody.example"
    response = await post(
        hillside, communication(str(hillside.user), nobody, str(lakeview.user), other)
    )
    assert response.status_code == 201
    shown = deliveries(response.json())
    assert (shown[nobody]["code"], shown[nobody]["reason"]) == ("refused", "certificate-not-found")
    assert (shown[other]["code"], shown[other]["reason"]) == ("refused", "not-trusted")

    async def completed() -> bool:
        [sent] = await inbox(hillside)
        return deliveries(sent)[str(lakeview.user)].get("code") == "processed"

    await eventually(completed)
    [received] = await inbox(lakeview)
    assert len(received["recipient"]) == 3


def add_zone(sandbox: Sandbox, domain: str, *records: str) -> None:
    lines = ["@ 300 IN SOA ns hostmaster 1 3600 600 86400 60", "@ 300 IN NS ns", *records]
    origin = dns.name.from_text(domain)
    zone = dns.zone.from_text("\n".join(lines), origin=origin, relativize=False)
    sandbox.zones[origin] = zone


async def submit(hisp: Hisp, recipient: str, *, sender: str | None = None) -> str:
    assert hisp.listening.edge is not None
    author = sender or str(hisp.desk)
    async with aiosmtplib.SMTP(
        hostname=hisp.listening.edge[0],
        port=hisp.listening.edge[1],
        start_tls=True,
        validate_certs=False,
        username="ehr",
        password=hisp.password,
    ) as client:
        _, reply = await client.sendmail(author, [recipient], mail(author, recipient, utc_now()))
    return reply


async def test_mail_edge_hears_of_a_failure_by_dsn(sandbox: Sandbox) -> None:
    add_zone(sandbox, "direct.nobody.example")
    await submit(sandbox.hillside, "dr.who@direct.nobody.example")
    await eventually(lambda: settled(sandbox.hillside))
    [report] = await reports(sandbox.hillside)
    assert "dr.who@direct.nobody.example" in report["payload"][0]["contentString"]


async def test_edge_user_may_send_as_its_own_addresses_only(sandbox: Sandbox) -> None:
    with pytest.raises(aiosmtplib.SMTPSenderRefused) as caught:
        await submit(
            sandbox.hillside, "x@direct.lakeview.example", sender="y@direct.hillside.example"
        )
    assert caught.value.code == 550


async def test_backbone_refuses_unknown_recipients_and_relaying(sandbox: Sandbox) -> None:
    lakeview = sandbox.lakeview
    assert lakeview.listening.backbone is not None
    for recipient, reply in (
        ("dr.nobody@direct.lakeview.example", "5.1.1"),
        ("dr.rivera@direct.hillside.example", "5.7.1"),
    ):
        with pytest.raises(aiosmtplib.SMTPRecipientsRefused) as caught:
            await deliver(lakeview.listening.backbone, STRANGER, recipient, b"x\r\n")
        [refused] = caught.value.recipients
        assert (refused.code, refused.message[:5]) == (550, reply)
    assert await messages_of(lakeview, Direction.INCOMING) == []


async def test_no_notification_in_time_fails_the_message_once(tmp_path: Path) -> None:
    async with open_sandbox(tmp_path, window_s=0.5) as sandbox:
        hillside, lakeview = sandbox.hillside, sandbox.lakeview
        # Lakeview trusts Hillside no more, so it takes the message and answers nothing.
        await lakeview.listening.database.write(
            lambda c: [store.remove_anchor(c, a.sha256) for a in store.list_anchors(c)]
        )
        response = await post(hillside, communication(str(hillside.user), str(lakeview.user)))
        assert response.status_code == 201

        async def failed() -> bool:
            [sent] = await inbox(hillside)
            return deliveries(sent)[str(lakeview.user)].get("code") == "failed"

        await eventually(failed)
        [sent] = await inbox(hillside)
        assert sent["status"] == "stopped"
        assert deliveries(sent)[str(lakeview.user)]["reason"] == "delivery-expired"


async def test_operators_see_health_and_metrics(sandbox: Sandbox) -> None:
    hisp = sandbox.hillside
    root = hisp.base_url.removesuffix("/fhir/R4")
    async with httpx.AsyncClient(verify=False) as http:
        assert (await http.get(f"{root}/healthz")).status_code == 200
        assert (await http.get(f"{root}/readyz")).status_code == 200
        await post(hisp, communication(str(hisp.user), str(sandbox.lakeview.user)))
        metrics = (await http.get(f"{root}/metrics")).text
    assert 'direct_gateway_jobs_total{kind="outgoing"' in metrics


async def test_preflight_says_what_sending_would_find(sandbox: Sandbox) -> None:
    hisp = sandbox.hillside
    add_zone(sandbox, "direct.nobody.example")
    body = communication(str(hisp.user), str(sandbox.lakeview.user), "dr.who@direct.nobody.example")
    parameters = {
        "resourceType": "Parameters",
        "parameter": [{"name": "resource", "resource": body}],
    }
    async with httpx.AsyncClient(verify=False) as http:
        response = await http.post(
            f"{hisp.base_url}/Communication/$preflight",
            json=parameters,
            headers={"Authorization": f"Bearer {hisp.token}"},
        )
    assert response.status_code == 200
    assert "certificate-not-found" in response.text
    assert "address-bound" in response.text
    assert await messages_of(hisp, Direction.OUTGOING) == []


async def raw(hisp: Hisp, shown: dict[str, Any]) -> str:
    """Return the message that a resource was made of."""
    [reference] = [
        extension["valueReference"]["reference"]
        for extension in shown["extension"]
        if extension["url"].endswith("/raw-message")
    ]
    async with httpx.AsyncClient(verify=False) as http:
        response = await http.get(
            f"{hisp.base_url}/{reference}",
            headers={"Authorization": f"Bearer {hisp.token}", "Accept": "*/*"},
        )
    return response.text


def submit_with_wishes(hisp: Hisp, recipient: str, content: bytes, notify: str) -> None:
    """Submit as Python's own client does, with the parameters of RFC 3461."""
    host, port = hisp.listening.edge or ("", 0)
    with smtplib.SMTP(host, port) as client:
        client.starttls(context=unverified_context())
        client.login("ehr", hisp.password)
        assert client.has_extn("dsn")
        refused = client.sendmail(
            str(hisp.desk),
            [recipient],
            content,
            mail_options=["RET=HDRS", "ENVID=order+2B8"],
            rcpt_options=[f"NOTIFY={notify}", "ORCPT=rfc822;front+2Bdesk@old.example"],
        )
        assert refused == {}


async def test_edge_that_asks_hears_once_of_a_delay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRECT_GATEWAY_TRACKING__DELAY_S", "0.5")
    async with open_sandbox(tmp_path) as sandbox:
        hisp, recipient = sandbox.hillside, str(sandbox.lakeview.desk)
        domain = sandbox.lakeview.domain
        await hisp.listening.database.write(lambda c: queue_control.pause(c, domain, utc_now()))
        content = mail(str(hisp.desk), recipient, utc_now())
        await asyncio.to_thread(submit_with_wishes, hisp, recipient, content, "DELAY,SUCCESS")
        [shown] = await eventually(lambda: reports(hisp))
        text = await raw(hisp, shown)
        assert "\r\nAction: delayed\r\nStatus: 4." in text
        assert "\r\nWill-Retry-Until: " in text
        await hisp.listening.database.write(lambda c: queue_control.resume(c, domain))
        await eventually(lambda: settled(hisp))

        async def told_of_success() -> bool:
            return len(await reports(hisp)) == 2

        await eventually(told_of_success)
        texts = [await raw(hisp, each) for each in await reports(hisp)]
    actions = [line for text in texts for line in text.split("\r\n") if line.startswith("Action:")]
    assert sorted(actions) == ["Action: delayed", "Action: relayed"]


@pytest.mark.parametrize(
    ("more", "action"),
    [
        pytest.param("X-None: 1", "relayed", id="plain"),
        pytest.param(WANTS_DISPATCHED, "delivered", id="timely-and-reliable"),
    ],
)
async def test_edge_that_asks_for_success_hears_of_it_once_by_dsn(
    sandbox: Sandbox, more: str, action: str
) -> None:
    """The other HISP's notices make the DSN."""
    hisp, recipient = sandbox.hillside, str(sandbox.lakeview.desk)
    content = f"{more}\r\n".encode() + mail(str(hisp.desk), recipient, utc_now())
    await asyncio.to_thread(submit_with_wishes, hisp, recipient, content, "SUCCESS,FAILURE")
    [shown] = await eventually(lambda: reports(hisp))
    await eventually(lambda: settled(hisp))
    text = await raw(hisp, shown)
    for line in (
        "Original-Envelope-Id: order+8",
        "Original-Recipient: rfc822;front+desk@old.example",
        f"Final-Recipient: rfc822;{recipient}",
        f"Action: {action}",
        "Status: 2.0.0",
    ):
        assert f"\r\n{line}\r\n" in text
    told = [m for m in await messages_of(hisp, Direction.INCOMING) if m.source is Source.AGENT]
    assert [message.kind for message in told] == [Kind.DSN]


async def test_edge_that_wants_no_dsn_gets_none_and_envid_comes_back(sandbox: Sandbox) -> None:
    add_zone(sandbox, "direct.nobody.example")
    hisp = sandbox.hillside
    assert hisp.listening.edge is not None
    author = str(hisp.desk)
    recipients = {"NEVER": "dr.a@direct.nobody.example", "FAILURE": "dr.b@direct.nobody.example"}
    content = mail(author, ", ".join(recipients.values()), utc_now())
    async with aiosmtplib.SMTP(
        hostname=hisp.listening.edge[0],
        port=hisp.listening.edge[1],
        start_tls=True,
        validate_certs=False,
        username="ehr",
        password=hisp.password,
    ) as client:
        await client.mail(author, options=["ENVID=order-7"])
        for notify, recipient in recipients.items():
            await client.rcpt(recipient, options=[f"NOTIFY={notify}"])
        await client.data(content)
    await eventually(lambda: settled(hisp))
    [report] = [m for m in await messages_of(hisp, Direction.INCOMING) if m.kind is Kind.DSN]
    [shown] = await reports(hisp)
    text = await raw(hisp, shown)
    assert report.parent is not None
    assert "Original-Envelope-Id: order-7" in text
    assert recipients["FAILURE"] in text
    assert f"Final-Recipient: rfc822;{recipients['FAILURE']}" in text
    assert f"Final-Recipient: rfc822;{recipients['NEVER']}" not in text
