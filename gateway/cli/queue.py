"""`queue`: the work that waits, and what an administrator does to it.

Talks to the database.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy import Connection

from certs.address import parse_domain
from certs.errors import DirectError, Reason
from gateway import queue as jobs
from gateway import queue_control
from gateway.cli.asking import confirm
from gateway.cli.common import (
    DEFAULT_CONFIG,
    Change,
    ConfigPath,
    Json,
    Site,
    Yes,
    change,
    fail,
    on_site,
    show,
    table,
)
from gateway.queue import Job, JobState

__all__ = ["queue"]

queue = typer.Typer(help="Work that waits.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="ID", help="As `queue list` prints it.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="How many to show.")]


@queue.command("list")
def list_queue(
    limit: Limit = 50,
    state: Annotated[JobState | None, typer.Option(help="ready, held or dead.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """List the jobs that are due first.

    Example: direct-gateway queue list --state dead
    """

    async def work(site: Site) -> list[dict[str, object]]:
        found = await site.database.read(lambda c: jobs.list_jobs(c, limit=limit, state=state))
        return [_row(job) for job in found]

    columns = ("id", "kind", "destination", "state", "due", "attempts", "reason")
    table("queue", columns, on_site(config, work), as_json=as_json)


@queue.command("show")
def show_job(identifier: JobId, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Show one job.

    Example: direct-gateway queue show 019f0c2e-8a3b-7c1d-9e4f-5a6b7c8d9e0f
    """
    wanted = _uuid(identifier)

    async def work(site: Site) -> dict[str, Any]:
        job = await site.database.read(lambda c: jobs.get(c, wanted))
        if job is None:
            raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no job {wanted}")
        return {**_row(job), "detail": job.detail, "lease_until": job.lease_until}

    show(on_site(config, work), as_json=as_json)


@queue.command("hold")
def hold(identifier: JobId, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Keep a job back until it is released.

    Example: direct-gateway queue hold 019f0c2e-8a3b-7c1d-9e4f-5a6b7c8d9e0f
    """
    _change(config, identifier, "hold", "job-held", as_json)


@queue.command("release")
def release(identifier: JobId, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Let a held job go on when it is due.

    Example: direct-gateway queue release 019f0c2e-8a3b-7c1d-9e4f-5a6b7c8d9e0f
    """
    _change(config, identifier, "release", "job-released", as_json)


@queue.command("retry")
def retry(identifier: JobId, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Try a job now, whether it waits, is held or is a dead letter.

    Example: direct-gateway queue retry 019f0c2e-8a3b-7c1d-9e4f-5a6b7c8d9e0f
    """
    _change(config, identifier, "retry", "job-retried", as_json)


@queue.command("fail")
def fail_job(identifier: JobId, config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Give a job up: its failure is recorded, and the sender is told.

    Example: direct-gateway queue fail 019f0c2e-8a3b-7c1d-9e4f-5a6b7c8d9e0f
    """
    _change(config, identifier, "fail", "job-given-up", as_json)


@queue.command("drop")
def drop(
    identifier: JobId,
    yes: Yes = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Remove a job; nobody is told.

    Example: direct-gateway queue drop 019f0c2e-8a3b-7c1d-9e4f-5a6b7c8d9e0f --yes
    """
    confirm("Nobody will be told what became of it. Drop it?", yes=yes)
    _change(config, identifier, "drop", "job-dropped", as_json)


@queue.command("pause")
def pause(
    domain: Annotated[str, typer.Argument(help="Domain to deliver nothing to.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Start no more deliveries to a domain; its senders by FHIR see that they are held.

    Example: direct-gateway queue pause direct.example.net
    """
    name = domain.lower()

    def work(c: Connection, site: Site) -> Change:
        queue_control.pause(c, parse_domain(name), site.now)
        return Change({"paused": name})

    change(config, "destination-paused", name, work, after=_shown(name), as_json=as_json)


@queue.command("resume")
def resume(
    domain: Annotated[str, typer.Argument(help="Domain to deliver to again.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Deliver to a domain again.

    Example: direct-gateway queue resume direct.example.net
    """
    name = domain.lower()

    def work(c: Connection, _: Site) -> Change:
        queue_control.resume(c, parse_domain(name))
        return Change({"resumed": name})

    change(config, "destination-resumed", name, work, after=_shown(name), as_json=as_json)


def _shown(name: str) -> Callable[[Site], Awaitable[None]]:
    """Return what lets the senders see it: in many small steps, beside the gateway's own work."""

    async def show(site: Site) -> None:
        last: UUID | None = UUID(int=0)
        while last is not None:
            work = partial(queue_control.show_some, destination=name, after=last, now=site.now)
            last = await site.database.write(work)

    return show


def _change(config: ConfigPath, identifier: str, verb: str, action: str, as_json: bool) -> None:
    wanted = _uuid(identifier)

    def work(c: Connection, site: Site) -> Change:
        queue_control.act(c, verb, wanted, site.now)
        return Change({"id": str(wanted), "done": action})

    change(config, action, str(wanted), work, as_json=as_json)


def _row(job: Job) -> dict[str, object]:
    return {
        "id": str(job.id),
        "kind": job.kind,
        "destination": job.destination,
        "state": job.state.value,
        "due": job.due_at,
        "attempts": job.attempts,
        "reason": job.reason.code if job.reason else None,
        "message": job.payload.get("message"),
    }


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        fail(f"not a job id: {text}")
