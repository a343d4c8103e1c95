"""sekmet-fhir, a small hospital system of another maker, tests a served gateway.

fhir.md 1.8: conformance and subscription scenarios. It is young and made for hospital systems: what
it finds amiss is listed here with the reason, and nothing else may be.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.fhir_site import CLIENTS, fhir_site
from tests.helpers.servers import free_port

SEKMET: Final = CLIENTS / ".sekmet" / "bin" / "sekmet"
NO_CLINICAL: Final = "a messaging gateway keeps no Observation and no Location"
NO_TOPICS: Final = "the criteria of R4 are served, not the topics of the R5 Backport"

# What does not pass, by scenario and step, and why.
EXPECTED: Final[Mapping[str, Mapping[str, str]]] = {
    "communication_rest": {},
    "communication_subscription": {},
    "communication_export": {},
    "communication_message": {},
    "bulk_export_group": {"Vitals for A": NO_CLINICAL},
    "subscription_roundtrip": {"Admit (matching change)": NO_CLINICAL},
    "conformance_smoke": {
        "Transaction with urn:uuid references": NO_CLINICAL,
        "Search Observation by patient with _include": NO_CLINICAL,
        "Searchset entries carry search.mode (match / include)": NO_CLINICAL,
    },
    "subscription_backport_roundtrip": {
        "Subscribe to the topic, filtered to this patient": NO_TOPICS,
    },
}


@pytest.mark.xdist_group("fhir-clients")
async def test_sekmet(tmp_path: Path) -> None:
    port = free_port()
    async with fhir_site(tmp_path / "site", hook_hosts=[f"http://127.0.0.1:{port}"]) as site:
        app = await site.app("sekmet")
        settings = {
            "base_url": f"http://127.0.0.1:{port}/fhir",
            "host": "127.0.0.1",
            "port": port,
            "data_dir": str(tmp_path / "data"),
            "peers": {
                "gateway": {"base_url": app.url, "auth": {"type": "bearer", "token": app.token}}
            },
        }
        (tmp_path / "settings.yaml").write_text(json.dumps(settings))
        (tmp_path / "scenarios").mkdir()
        for path in (CLIENTS / "sekmet").iterdir():
            text = path.read_text().replace("@MAILBOX@", app.mailbox).replace("@PEER@", app.peer)
            (tmp_path / "scenarios" / path.name).write_text(text)
        process = await asyncio.create_subprocess_exec(
            str(SEKMET),
            "scenario",
            "run",
            *EXPECTED,
            "--peer",
            "gateway",
            "--report-dir",
            str(tmp_path / "reports"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    [report] = (tmp_path / "reports").rglob("*.json")
    found = json.loads(report.read_text())
    results = found if isinstance(found, list) else found["results"]
    assert len(results) == len(EXPECTED), output.decode()
    for result in results:
        amiss = {
            step["name"]
            for step in result["steps"]
            if step["status"] in ("failed", "error", "warning")
        }
        assert amiss == set(EXPECTED[Path(result["file"]).stem]), output.decode()
