"""docs/deploy: the systemd unit as systemd's own tool reads it, and the container's check."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.http_server import HttpServer
from tests.helpers.tls import server_context

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "docs/deploy/direct-gateway.service"
CONTAINER = ROOT / "docs/deploy/Containerfile"
COMMAND = "/opt/direct-gateway/bin/direct-gateway serve"
# Of 100, the exposure that systemd calls "OK" ends at 50. A gateway needs the network, the
# capability to bind port 25 and the address families that go with it: 16.
EXPOSURE = 20


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_unit_has_no_error(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    text = UNIT.read_text()
    assert COMMAND in text
    unit.write_text(text.replace(COMMAND, "/bin/true"))  # nothing is installed there in a test
    done = analyze("verify", str(unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_is_hardened() -> None:
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", str(UNIT))
    assert done.returncode == 0, done.stdout


def test_everything_that_goes_into_the_image_is_there() -> None:
    copied = re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", CONTAINER.read_text())
    assert len(copied) == 5
    assert all((ROOT / name).exists() for names in copied for name in names.split())


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_container_is_healthy_while_the_gateway_is_ready(
    scheme: str, status: int
) -> None:
    """The image itself is built by hand (docs/deploy/README.md): that takes an engine."""
    found = re.search(r"(?ms)^HEALTHCHECK .*? CMD (\[.*?\])$", CONTAINER.read_text())
    assert found is not None
    command = json.loads(found[1].replace("\\\n", ""))

    async def ready(_: Request) -> Response:
        return PlainTextResponse("", status)

    server = HttpServer(tls=server_context("localhost") if scheme == "https" else None)
    host, port = server.bind("127.0.0.1", 0)
    await server.start(Starlette(routes=[Route("/readyz", ready)]))
    environment = {**os.environ, "READY_URL": f"{scheme}://{host}:{port}/readyz"}
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stderr=asyncio.subprocess.DEVNULL
    )
    code = await asyncio.wait_for(process.wait(), 60)
    await server.stop(2)
    assert (code == 0) == (status == 200)
