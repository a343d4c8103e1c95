"""`lookup`: discover the certificates of an address, step by step.

Talks to DNS and LDAP, and to the database where the gateway's cache is used. The JSON keys are a
contract.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
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
from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigPath,
    Json,
    console,
    fail,
    read_file,
    write_json,
)
from gateway.clock import utc_now
from gateway.config import Discovery, load
from gateway.host_port import parse_host_port
from trust_bundles.anchors import Anchors
from trust_bundles.decision import Decision, Verdict, decide
from trust_bundles.policy import Purpose

__all__ = ["lookup"]

# CD-005: bound, valid in time, fit and not revoked. Trust is a question apart.
_USABLE: Final = (None, Reason.NOT_TRUSTED, Reason.REVOCATION_UNKNOWN)


@dataclass(frozen=True, slots=True)
class _Manner:
    """How to look: as the gateway of this site would, or as anybody."""

    resolver: tuple[str, int] | None
    private: bool
    policy: CertificatePolicy
    limits: Discovery
    database_url: str | None = None  # None: nothing is remembered


def lookup(
    address: Annotated[str, typer.Argument(help="Direct address.")],
    resolver: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="DNS server to ask, without the cache; default: as configured.",
        ),
    ] = "",
    anchor: Annotated[
        list[Path] | None, typer.Option(help="Trust anchor, PEM or DER, to judge by.")
    ] = None,
    no_cache: Annotated[
        bool,
        typer.Option("--no-cache", help="Ask anew and remember nothing; default: as the gateway."),
    ] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Follow records into private networks.")
    ] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Find an address's certificates; exit 0 where at least one is usable.

    Where there is a configuration, its resolver, policy and cache are used. Anywhere else the
    system's resolver is asked, and nothing is remembered.

    Example: direct-gateway lookup dr.chen@direct.example.net --anchor partner-ca.pem
    """
    try:
        wanted = parse_address(address)
        anchors = Anchors(c for path in anchor or () for c in certificates_in(read_file(path)))
        server = parse_host_port(resolver) if resolver else None
        manner = _manner(config, server, private, no_cache=no_cache)
        report = asyncio.run(_discover(wanted, anchors, manner))
    except DirectError as error:
        fail(error)
    if as_json:
        write_json(report)
    else:
        console().print(_tree(report))
    raise typer.Exit(0 if report["found"] else 1)


def _manner(
    path: Path, resolver: tuple[str, int] | None, private: bool, *, no_cache: bool
) -> _Manner:
    private = private or (resolver is not None and resolver[0].startswith("127."))
    if path == DEFAULT_CONFIG and not path.exists():
        return _Manner(resolver, private, CertificatePolicy(), Discovery())
    config = load(path)
    usual = config.discovery.resolver
    # What another resolver says is not for the gateway to remember.
    cached = config.discovery.cache and resolver is None and not no_cache
    return _Manner(
        resolver=resolver or ((usual.host, usual.port) if usual else None),
        private=private or config.discovery.private_addresses,
        policy=CertificatePolicy(profile=config.trust.profile, revocation=config.trust.revocation),
        limits=config.discovery,
        database_url=config.database_url if cached else None,
    )


async def _discover(address: DirectAddress, anchors: Anchors, manner: _Manner) -> dict[str, Any]:
    # Imported here, for they bring HTTP, LDAP and the database: the other verbs need none.
    from certs.cache import CachingDirectory, DatabaseArchive
    from certs.directory import open_directory
    from gateway.database import SqlDatabase

    now, policy = utc_now(), manner.policy
    async with AsyncExitStack() as stack:
        database = None
        if manner.database_url is not None:
            opening = SqlDatabase.open(manner.database_url)
            database = await stack.enter_async_context(opening)
        live = await stack.enter_async_context(
            open_directory(
                resolver=manner.resolver,
                allow_private=manner.private,
                dns_lifetime_s=manner.limits.timeout_s,
                deadline_s=manner.limits.deadline_s,
                archive=DatabaseArchive(database) if database else None,
            )
        )
        directory = CachingDirectory(live=live, clock=utc_now, database=database)
        evidence = await directory.evidence_for(address)
        if anchors:
            evidence = await directory.complete(evidence, anchors, now=now, policy=policy)
    decision = decide(address, evidence, anchors, purpose=Purpose.ENCRYPT, now=now, policy=policy)
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
