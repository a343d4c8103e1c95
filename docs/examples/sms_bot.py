"""A bot that is told of new messages and sends a text about each.

It subscribes to the inbound messages of its mailboxes, id-only: the gateway's calls hold nothing
of a message. It checks their signature, fetches who wrote, and calls an SMS provider. A call that
it cannot serve it answers with an error, and the gateway calls again.

Environment: GATEWAY, TOKEN (of the API), HOOK (the public URL of this bot), SECRET (any long text),
LISTEN (host:port), SMS_URL and SMS_TO.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
import time
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ENV = os.environ
SIGNED_S = 300  # a call that was signed longer ago is somebody's recording
SIGNED_WITH = "https://direct-gateway.dev/fhir/StructureDefinition/hook-secret"

gateway = httpx.AsyncClient(
    base_url=ENV["GATEWAY"], headers={"Authorization": f"Bearer {ENV['TOKEN']}"}
)
sms = httpx.AsyncClient()
done: dict[str, float] = {}  # deliveries served: a call may come twice


async def subscribe() -> None:
    """Subscribe, unless that was done at an earlier start."""
    channel = {
        "extension": [{"url": SIGNED_WITH, "valueString": ENV["SECRET"]}],
        "type": "rest-hook",
        "endpoint": ENV["HOOK"],
    }
    known = (await gateway.get("/Subscription", params={"url": ENV["HOOK"]})).json()
    for entry in known.get("entry", []):
        found = entry["resource"]
        if found["channel"] == channel:
            if found["status"] != "active":  # it was in error: what was not told is told now
                await gateway.post(f"/Subscription/{found['id']}/$resend")
            return
    subscription = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "a text for each new message",
        "criteria": "Communication?direction=inbound",
        "channel": channel,
    }
    (await gateway.post("/Subscription", json=subscription)).raise_for_status()


async def hook(request: Request) -> Response:
    """Answer a call of the gateway."""
    body = await request.body()
    if not is_signed(request, body):
        return Response("not signed", 401)
    if request.headers["x-direct-event"] == "handshake":
        return Response()
    delivery = request.headers["x-direct-delivery"]
    if delivery not in done:
        reference = request.headers["x-direct-resource"].partition("/_history")[0]
        answer = await gateway.get(f"/{reference}")
        answer.raise_for_status()
        await send_text(answer.json())
        done[delivery] = time.time()
    return Response()


async def send_text(message: dict[str, Any]) -> None:
    """Send the text. No name of a patient and no word of the message goes into an SMS."""
    sender = message["sender"].get("display") or message["sender"]["identifier"]["value"]
    text = f"New Direct message from {sender.removeprefix('mailto:')}. Please see your inbox."
    call = await sms.post(ENV["SMS_URL"], json={"to": ENV["SMS_TO"], "text": text})
    call.raise_for_status()


def is_signed(request: Request, body: bytes) -> bool:
    """Say whether the gateway made this call, and just now."""
    named = request.headers.get
    moment = named("x-direct-time", "")
    if not moment.isdigit() or abs(time.time() - int(moment)) > SIGNED_S:
        return False
    told = (moment, named("x-direct-delivery", ""), named("x-direct-event", ""))
    signed = ".".join((*told, named("x-direct-resource", ""))).encode() + b"." + body
    digest = hmac.new(ENV["SECRET"].encode(), signed, "sha256").hexdigest()
    return hmac.compare_digest(named("x-direct-signature", ""), f"sha256={digest}")


async def main() -> None:
    """Take the port first, so that the handshake is answered; then subscribe, and serve."""
    host, _, port = ENV["LISTEN"].rpartition(":")
    listening = socket.create_server((host, int(port)))
    app = Starlette(routes=[Route("/hook", hook, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    await asyncio.gather(server.serve(sockets=[listening]), subscribe())


if __name__ == "__main__":
    asyncio.run(main())
