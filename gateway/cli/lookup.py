"""`lookup`: discover the certificates of an address, step by step.

Talks to DNS and LDAP. The JSON keys are a contract.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.tree import Tree

from certs.address import DirectAddress, parse_address
from certs.cert_files import certificates_in
from certs.errors import DirectError, Reason
from certs.evidence import Evidence
from certs.issuers import sha256_of
from certs.policy import CertificatePolicy
from gateway.cli.common import Json, console, fail, read_file, write_json
from gateway.clock import utc_now
from gateway.config import parse_host_port
from trust_bundles.anchors import Anchors
from trust_bundles.decision import Decision, Verdict, decide
from trust_bundles.policy import Purpose

__all__ = ["lookup"]

# CD-005: bound, valid in time, fit and not revoked. Trust is a question apart.
_USABLE: Final = (None, Reason.NOT_TRUSTED, Reason.REVOCATION_UNKNOWN)


def lookup(
    address: Annotated[str, typer.Argument(help="Direct address.")],
    resolver: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="DNS server to ask; default: the system's.")
    ] = "",
    anchor: Annotated[
        list[Path] | None, typer.Option(help="Trust anchor, PEM or DER, to judge by.")
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Ask anew, whatever is remembered.")
    ] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Follow records into private networks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find an address's certificates; exit 0 where at least one is usable.

    Example: direct-gateway lookup dr.chen@direct.example.net --anchor partner-ca.pem
    """
    try:
        wanted = parse_address(address)
        anchors = Anchors(c for path in anchor or () for c in certificates_in(read_file(path)))
        server = parse_host_port(resolver) if resolver else None
        report = asyncio.run(_discover(wanted, anchors, server, private))
    except DirectError as error:
        fail(error)
    if as_json:
        write_json(report)
    else:
        console().print(_tree(report))
    raise typer.Exit(0 if report["found"] else 1)


async def _discover(
    address: DirectAddress, anchors: Anchors, resolver: tuple[str, int] | None, private: bool
) -> dict[str, Any]:
    # Imported here, for it brings HTTP and LDAP: the other verbs need neither.
    from certs.directory import open_directory

    now = utc_now()
    private = private or (resolver is not None and resolver[0].startswith("127."))
    async with open_directory(resolver=resolver, allow_private=private) as directory:
        evidence = await directory.evidence_for(address)
        if anchors:
            evidence = await directory.complete(
                evidence, anchors, now=now, policy=CertificatePolicy()
            )
    decision = decide(address, evidence, anchors, purpose=Purpose.ENCRYPT, now=now)
    return _report(evidence, decision, judged=bool(anchors))


def _report(evidence: Evidence, decision: Decision, *, judged: bool) -> dict[str, Any]:
    certificates = [_certificate(verdict, judged) for verdict in decision.verdicts]
    found = any(certificate["usable"] for certificate in certificates)
    return {
        "address": str(evidence.address),
        "found": found,
        "reason": None if found or decision.reason is None else decision.reason.code,
        "steps": [
            {
                "level": step.level.value,
                "query": step.query,
                "server": step.server,
                "outcome": step.outcome,
                "certificates": step.certificates,
                "ms": round(step.took_ms, 1),
            }
            for step in evidence.steps
        ],
        "certificates": certificates,
    }


def _certificate(verdict: Verdict, judged: bool) -> dict[str, Any]:
    """Describe one certificate. Usable (CD-005) is apart from trusted, which needs anchors."""
    usable = verdict.reason in _USABLE
    reason = verdict.reason if judged or not usable else None
    return {
        "sha256": sha256_of(verdict.certificate).hex(),
        "subject": verdict.certificate.subject.rfc4514_string(),
        "binding": verdict.binding.value if verdict.binding else None,
        "level": verdict.level.value,
        "usable": usable,
        "trusted": (verdict.reason is None) if judged else None,
        "reason": reason.code if reason else None,
    }


def _tree(report: dict[str, Any]) -> Tree:
    verdict = "found" if report["found"] else f"not found: {report['reason']}"
    tree = Tree(f"{report['address']}: {verdict}")
    for step in report["steps"]:
        tree.add(
            f"{step['level']}: {step['query']} at {step['server']}: {step['outcome']}, "
            f"{step['certificates']} certificates, {step['ms']} ms"
        )
    for certificate in report["certificates"]:
        branch = tree.add(certificate["subject"])
        for name in ("sha256", "binding", "level", "usable", "trusted", "reason"):
            if certificate[name] is not None:
                branch.add(f"{name}: {certificate[name]}")
    return tree
