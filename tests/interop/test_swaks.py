"""swaks, the SMTP tester of mail administrators, as EHR and as HISP."""

from __future__ import annotations

import asyncio

import pytest

from gateway.ports import Role
from gateway.smtp_limits import Limits
from tests.helpers.listeners import listening
from tests.helpers.memory_reception import MemoryReception

ENVELOPE = ("--from", "anna@a.example", "--to", "drjones@b.example")
USER = ("--auth-user", "ehr", "--auth-password", "secret")


async def swaks(address: tuple[str, int], *arguments: str) -> tuple[int, str]:
    """Return exit status and transcript."""
    process = await asyncio.create_subprocess_exec(
        *("/usr/bin/swaks", "--server", address[0], "--port", str(address[1])),
        *("--helo", "mx.a.example", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, said.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((), id="in-clear"),
        pytest.param(("--tls",), id="tls"),
        pytest.param(("--pipeline",), id="pipelined"),
        pytest.param(("--tls", "--pipeline", "--protocol", "ESMTPS"), id="tls-pipelined"),
        pytest.param(("--protocol", "SMTP"), id="helo"),
    ],
)
async def test_swaks_sends_to_the_backbone(arguments: tuple[str, ...]) -> None:
    reception = MemoryReception()
    async with listening(reception) as address:
        status, said = await swaks(address, *ENVELOPE, *arguments)
    assert status == 0, said
    assert "250 2.0.0 Accepted as" in said
    (accepted,) = reception.accepted
    assert bool(accepted.session.tls) is ("--tls" in arguments)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_swaks_submits_at_the_edge(mechanism: str) -> None:
    reception = MemoryReception()
    async with listening(reception, Role.EDGE) as address:
        status, said = await swaks(address, *ENVELOPE, "--tls", "--auth", mechanism, *USER)
    assert status == 0, said
    assert reception.accepted[0].session.user == "ehr"


@pytest.mark.parametrize(
    ("role", "arguments", "reply"),
    [
        pytest.param(
            Role.EDGE, ENVELOPE, "530 5.7.0 Must issue a STARTTLS command first", id="no-tls"
        ),
        pytest.param(
            Role.EDGE, ("--tls", *ENVELOPE), "530 5.7.0 Authentication required", id="no-auth"
        ),
        pytest.param(
            Role.EDGE,
            ("--tls", "--auth", "PLAIN", "--au", "ehr", "--ap", "guess", *ENVELOPE),
            "535 5.7.8",
            id="wrong-password",
        ),
        pytest.param(
            Role.BACKBONE,
            ("--from", "anna@a.example", "--to", "nobody@b.example"),
            "550 5.1.1",
            id="unknown-recipient",
        ),
        pytest.param(Role.BACKBONE, (*ENVELOPE, "--body", "x" * 2000), "552 5.3.4", id="too-big"),
    ],
)
async def test_swaks_is_refused(role: Role, arguments: tuple[str, ...], reply: str) -> None:
    reception = MemoryReception()
    async with listening(reception, role, Limits(size_octets=1000)) as address:
        status, said = await swaks(address, *arguments)
    assert status != 0
    assert reply in said
    assert reception.accepted == []


async def test_swaks_sees_only_tls_12_and_up() -> None:
    async with listening(MemoryReception()) as address:
        status, said = await swaks(address, "--tls", "--tls-protocol", "tlsv1_1", *ENVELOPE)
    assert status != 0, said
