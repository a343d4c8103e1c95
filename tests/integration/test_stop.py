"""A clean stop: however busy a gateway is, it ends in ten seconds and loses nothing."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from gateway import queue
from gateway.config import Mailbox
from gateway.database import SqlDatabase
from gateway.host_port import HostPort
from gateway.sandbox import open_sandbox
from gateway.tls_policy import Demand
from tests.helpers.scripted_smtp import ScriptedServer, serving
from tests.integration.test_mt_cases import CHEN, eventually, submit

TEN_S = 10.0


async def test_a_stop_takes_ten_seconds_at_most_and_hands_back_what_was_under_way(
    tmp_path: Path,
) -> None:
    mute = ScriptedServer(gate=asyncio.Event())  # a mail server that never answers the content
    assert mute.gate is not None
    async with AsyncExitStack() as around:
        host, port = await around.enter_async_context(serving(mute))
        box = Mailbox(server=HostPort(host=host, port=port), lmtp=True, tls=Demand.NONE)
        async with open_sandbox(tmp_path, mailboxes={CHEN: box}) as sandbox:
            lakeview = sandbox.lakeview
            await submit(sandbox.hillside, CHEN)

            async def relaying() -> bool:
                jobs = await lakeview.listening.database.read(lambda c: queue.list_jobs(c, limit=9))
                return any(job.kind == "relay" and job.token is not None for job in jobs)

            await eventually(relaying)
            # Clients that neither go on nor leave, at each listener.
            for address in (lakeview.listening.backbone, lakeview.listening.fhir):
                assert address is not None
                _, writer = await asyncio.open_connection(*address)
                around.callback(writer.close)
                writer.write(b"EHLO x.example\r\nMAIL FROM:<")
                await writer.drain()
            url = lakeview.config.database_url
            began_s = time.monotonic()
        took_s = time.monotonic() - began_s
        mute.gate.set()
    assert took_s < TEN_S
    async with SqlDatabase.open(url) as database:
        left = await database.read(lambda c: queue.list_jobs(c, limit=9))
    assert [(job.kind, job.token, job.errors) for job in left] == [("relay", None, 0)]
