"""testssl.sh looks for weaknesses of TLS at both listeners."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from gateway.ports import Role
from tests.helpers.listeners import listening
from tests.helpers.memory_reception import MemoryReception

# It judges the certificate too, which here is the test's own; and its own OpenSSL.
NOT_OURS = ("cert_", "engine_problem", "sessionresumption_")
HARMLESS = ("OK", "INFO")


@pytest.mark.parametrize("role", Role)
async def test_finds_no_weakness(role: Role, tmp_path: Path) -> None:
    findings = tmp_path / "findings.json"
    async with listening(MemoryReception(), role) as (host, port):
        process = await asyncio.create_subprocess_exec(
            *("/usr/bin/testssl", "--quiet", "--color", "0", "-n", "none", "--ip", host),
            *("--starttls", "smtp", "--warnings", "off", "--jsonfile", str(findings)),
            *("-p", "-s", "-f", "-S", "-U", f"{host}:{port}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
        )
        said, _ = await asyncio.wait_for(process.communicate(), 240)
    found = json.loads(findings.read_text())
    assert any(each["id"] == "TLS1_3" and "offered" in each["finding"] for each in found), said
    weak = [
        f"{each['id']} {each['severity']}: {each['finding']}"
        for each in found
        if each["severity"] not in HARMLESS and not each["id"].startswith(NOT_OURS)
    ]
    assert weak == []
