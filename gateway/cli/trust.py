"""`trust`: why somebody is trusted or not, and what a change of trust would change.

Talks to the database, the directory and the files it is given. The JSON keys of `explain` are a
contract.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from cryptography import x509
from rich.tree import Tree

from certs.address import parse_address
from certs.errors import DirectError
from certs.issuers import sha256_of
from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigPath,
    Json,
    Site,
    console,
    fail,
    label,
    on_site,
    table,
    write_json,
)
from gateway.cli.policy import policy
from gateway.cli.working import counting
from gateway.clock import utc_now
from gateway.explanation import Explained, Explanation
from gateway.policies import DomainPolicies, default_policy
from trust_bundles.policy import Direction

if TYPE_CHECKING:
    from gateway.replay import Replayed

__all__ = ["trust"]

trust = typer.Typer(help="Why somebody is trusted, and what would change.", no_args_is_help=True)
trust.add_typer(policy, name="policy")


@trust.command("explain")
def explain(
    sender: Annotated[str, typer.Option("--from", help="Who writes.")],
    recipient: Annotated[str, typer.Option("--to", help="Whom to.")],
    direction: Annotated[
        Direction | None, typer.Option(help="Seen from which side; default: ours.")
    ] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Explain the trust between two addresses, one of them ours; exit 0 where it is there.

    Example: direct-gateway trust explain --from dr.rivera@direct.example.org
    --to dr.chen@direct.example.net
    """
    try:
        writes, reads = parse_address(sender), parse_address(recipient)
    except DirectError as error:
        fail(error)

    async def work(site: Site) -> Explanation:
        # Imported here, for they bring HTTP and LDAP: the other verbs need neither.
        from gateway import explanation
        from gateway.finder import open_finder

        async with open_finder(site.config, site.database, utc_now) as finder:
            return await explanation.explain(
                site.database,
                finder,
                DomainPolicies(default_policy(site.config.trust)),
                sender=writes,
                recipient=reads,
                direction=direction,
                now=site.now,
            )

    explained = on_site(config, work)
    if as_json:
        write_json(explained.report)
    else:
        console().print(_tree(explained), markup=False)
    raise typer.Exit(0 if explained.decision.reason is None else 1)


def _tree(found: Explanation) -> Tree:
    reason = found.decision.reason
    said = "trusted" if reason is None else f"not trusted: {reason.code}"
    what = "write to" if found.direction is Direction.OUTGOING else "believe"
    tree = Tree(label(f"may {found.owner} {what} {found.other}? {said}"))
    where = found.owner.domain if found.own_policy else "the defaults"
    tree.add(label(f"{found.anchors} anchors count ({found.direction.value}); policy of {where}"))
    looked = tree.add(label(f"looked for certificates of {found.other}"))
    for step in found.evidence.steps:
        looked.add(
            label(f"{step.level.value}: {step.query}: {step.outcome}, {step.certificates} found")
        )
    if not found.certificates:
        tree.add(label("no certificate was found"))
    for one in found.certificates:
        _grow(tree, one)
    for owner, bundle in found.sources:
        by = f"by bundle {bundle}" if bundle else "as an anchor of its own"
        tree.add(label(f"the anchor is trusted by {owner}, {by}"))
    return tree


def _grow(tree: Tree, one: Explained) -> None:
    verdict, shown = one.verdict, one.revocation
    said = "holds" if verdict.reason is None else f"{verdict.reason.code}: {verdict.detail}"
    branch = tree.add(label(f"certificate {_short(verdict.certificate)}: {said}"))
    binding = verdict.binding.value if verdict.binding else "bound to somebody else"
    branch.add(label(f"{binding}, found at {verdict.level.value}"))
    for tried in one.tries:
        outcome = "holds" if tried.failure is None else f"fails: {tried.failure}"
        path = branch.add(label(f"path {outcome}"))
        for cert in tried.certificates:
            path.add(label(_short(cert)))
        if tried.anchor is not None:
            path.add(label(f"anchor {_short(tried.anchor)}"))
    for clause in one.clauses:
        branch.add(label(f"it is the policy's {clause} that forbids it"))
    age = "" if shown.age_s is None else f", {shown.age_s // 60} minutes old"
    source = f" by {shown.source}" if shown.source else ""
    branch.add(label(f"revocation: {shown.status}{source}{age}"))
    for url in shown.unreachable:
        branch.add(label(f"not reachable: {url}"))


def _short(cert: x509.Certificate) -> str:
    return f"{cert.subject.rfc4514_string()} ({sha256_of(cert).hex()[:16]})"


@trust.command("replay")
def replay(
    with_: Annotated[
        str,
        typer.Option(
            "--with",
            metavar="CHANGE",
            help="NAME (its staged version), NAME=FILE, no-bundle:NAME, anchor:FILE, "
            "no-anchor:SHA256 or policy:FILE.",
        ),
    ],
    last: Annotated[int, typer.Option(min=1, max=10_000, help="How many messages.")] = 100,
    owner: Annotated[
        str, typer.Option("--for", help="Whose anchor or policy: a domain or address.")
    ] = "",
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Judge the last messages anew with a change of trust that is not made.

    Lists every verdict that would flip, and exits 1 where there is any.

    Example: direct-gateway trust replay --with atab --last 200
    """
    replayed = on_site(config, lambda site: _replayed(site, with_, owner, last))
    rows = [
        {
            "message": flip.message,
            "received": flip.received_at,
            "direction": flip.direction,
            "ours": str(flip.owner),
            "other": str(flip.other),
            "before": flip.before.code if flip.before else "trusted",
            "after": flip.after.code if flip.after else "trusted",
        }
        for flip in replayed.flips
    ]
    if as_json:
        write_json(
            {
                "messages": replayed.messages,
                "verdicts": replayed.verdicts,
                "flips": rows,
                "not_judged": [{"message": m, "reason": r} for m, r in replayed.not_judged],
            }
        )
    else:
        console().print(
            f"{replayed.messages} messages, {replayed.verdicts} verdicts given twice, "
            f"{len(replayed.not_judged)} messages not judged"
        )
        columns = ("message", "received", "direction", "ours", "other", "before", "after")
        table("flips", columns, rows, as_json=False)
    raise typer.Exit(1 if rows else 0)


async def _replayed(site: Site, text: str, owner: str, last: int) -> Replayed:
    from certs.stored_keys import StoredKeys
    from gateway import replay as replaying
    from gateway.cli.trust_change import change_of
    from gateway.finder import open_finder
    from gateway.key_access import key_access
    from gateway.spool import SpoolBodies

    change = await site.database.read(lambda c: change_of(c, site, text, owner))
    bodies = SpoolBodies(
        database=site.database, folder=site.config.gateway.data / "spool", clock=utc_now
    )
    with key_access(site.config) as access:
        keys = StoredKeys(
            database=site.database,
            keks=access.keks,
            token_key=access.token_key if access.has_token else None,
        )
        async with open_finder(site.config, site.database, utc_now) as finder:
            return await replaying.replay(
                site.database,
                finder,
                keys,
                bodies,
                DomainPolicies(default_policy(site.config.trust)),
                change=change,
                last=last,
                now=site.now,
                counting=partial(counting, title="Replaying"),
            )
