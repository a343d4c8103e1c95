"""What every verb shares: the site it works on, its output, its exit status.

Talks to the terminal. Exit status 0: done, or the answer is yes; 1: the answer is no; 2: wrong
usage, or the operation failed.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree
from sqlalchemy import Connection

from certs.errors import DirectError, Reason
from gateway import audit
from gateway.clock import utc_now
from gateway.config import Config, load
from gateway.database import SqlDatabase
from gateway.files import write_secret
from gateway.key_access import key_access

__all__ = [
    "DEFAULT_CONFIG",
    "Change",
    "ConfigPath",
    "Json",
    "Site",
    "Yes",
    "actor",
    "change",
    "console",
    "fail",
    "grow",
    "label",
    "on_site",
    "read_file",
    "show",
    "table",
    "text",
    "write_json",
    "write_out",
]

T = TypeVar("T")

ConfigPath = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="DIRECT_GATEWAY_CONFIG", help="Configuration file."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
SUBJECT_CHARACTERS: Final = 320  # the column of the audit trail
PIPE_COLUMNS: Final = 1000
DEFAULT_CONFIG: Final = Path("direct-gateway.toml")


@dataclass(frozen=True, slots=True)
class Site:
    """An installation: its configuration, its open database, the time of this call."""

    config: Config
    database: SqlDatabase
    now: datetime

    def audit(
        self,
        connection: Connection,
        action: str,
        subject: str,
        *,
        old: str | None = None,
        new: str | None = None,
        outcome: str = "done",
    ) -> None:
        """Record in the caller's transaction what the administrator did."""
        audit.record(
            connection,
            now=self.now,
            actor=actor(),
            action=action,
            subject=subject[:SUBJECT_CHARACTERS],
            outcome=outcome,
            old=old,
            new=new,
        )

    def kek(self) -> bytes:
        """Return the key that private keys are enveloped under."""
        return self.keks()[-1]

    def keks(self) -> Sequence[bytes]:
        """Return every key that they may be enveloped under: two while the key is rotated."""
        with key_access(self.config) as access:
            return access.keks()


@dataclass(frozen=True, slots=True)
class Change:
    """What a change came to: what is shown of it, and what it was before and after."""

    shown: Mapping[str, Any]
    old: str | None = None
    new: str | None = None


def actor() -> str:
    """Return whom the audit trail names: the system's user, and behind sudo the person.

    The environment says who is behind sudo, and root may say what it likes; nobody else is asked.
    """
    uid = os.getuid()
    behind = os.environ.get("SUDO_UID", "")
    if uid == 0 and behind.isdecimal():
        uid = int(behind)
    try:
        return f"cli:{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"cli:uid {uid}"


def change(
    path: Path,
    action: str,
    subject: str,
    work: Callable[[Connection, Site], Change],
    *,
    before: Callable[[Site], Awaitable[None]] | None = None,
    after: Callable[[Site], Awaitable[None]] | None = None,
    as_json: bool,
) -> None:
    """Change the site in one transaction, with its audit event, and show what came of it.

    `before` is what must be asked elsewhere first; `after` is done once the change is durable. A
    refusal is recorded too, and exits 2.
    """

    async def main(site: Site) -> Change:
        def write(connection: Connection) -> Change:
            done = work(connection, site)
            site.audit(connection, action, subject, old=done.old, new=done.new)
            return done

        try:
            if before is not None:
                await before(site)
            done = await site.database.write(write)
        except DirectError as error:
            code = error.reason.code
            await site.database.write(
                lambda c: site.audit(c, action, subject, new=code, outcome="refused")
            )
            raise
        if after is not None:
            await after(site)
        return done

    show(on_site(path, main).shown, as_json=as_json)


def console() -> Console:
    """Return the terminal; where output is piped, no colours and nothing folded or cut."""
    return Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)


def on_site(path: Path, work: Callable[[Site], Awaitable[T]]) -> T:
    """Return what `work` returns on the site that `path` configures; exit 2 where it fails."""

    async def main() -> T:
        config = load(path)
        async with SqlDatabase.open(config.database_url) as database:
            return await work(Site(config, database, utc_now()))

    try:
        return asyncio.run(main())
    except DirectError as error:
        fail(error)


def fail(error: DirectError | str) -> NoReturn:
    """Print what went wrong on standard error and exit 2."""
    text = f"{error.reason.code}: {error.detail}" if isinstance(error, DirectError) else error
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"error: {text}", style="red", markup=False
    )
    raise typer.Exit(2)


def read_file(path: Path) -> bytes:
    """Return the octets of `path`; exit 2 where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"{path}: {error.strerror}")


def write_out(path: Path, data: bytes, *, secret: bool = False) -> None:
    """Write a file that does not exist yet; a secret one only its owner may read.

    Raises:
        DirectError: CONFIGURATION_INVALID; it exists, or cannot be written.
    """
    try:
        if secret:
            write_secret(path, data)
        else:
            with path.open("xb") as file:
                file.write(data)
    except OSError as error:
        raise DirectError(Reason.CONFIGURATION_INVALID, f"{path}: {error.strerror}") from None


def write_json(value: object) -> None:
    """Print `value` as JSON."""
    typer.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def table(
    title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, as_json: bool
) -> None:
    """Print rows of equal keys: as a JSON array, or as a table of `columns` for people."""
    if as_json:
        write_json(list(rows))
        return
    if not rows:
        console().print(f"{title}: none")
        return
    view = Table(title=title, title_justify="left", header_style="bold")
    for number, column in enumerate(columns):
        view.add_column(column.replace("_", " "), overflow="fold", no_wrap=number == 0)
    for row in rows:
        view.add_row(*(Text(text(row[c])) for c in columns))
    console().print(view)


def show(value: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one thing: as a JSON object, or as `name: value` lines for people."""
    if as_json:
        write_json(value)
        return
    for name, item in value.items():
        if item is not None:
            console().print(f"{name.replace('_', ' ')}: {text(item)}", markup=False)


def grow(tree: Tree, name: str, value: object) -> None:
    """Add `value` to a tree for people: mappings and lists as branches."""
    if isinstance(value, Mapping):
        branch = tree.add(Text(name))
        for key, item in value.items():
            grow(branch, str(key).replace("_", " "), item)
    elif isinstance(value, list):
        for item in value:
            grow(tree, name, item)
    elif value is not None:
        tree.add(Text(f"{name}: {text(value)}"))


def label(line: str) -> Text:
    """Return a line of a tree: names in certificates were chosen by strangers."""
    return Text(text(line).replace("\n", " "))


def text(value: object) -> str:
    """Return `value` as people read it: times in UTC to the second, nothing for None.

    Much of what is shown was written by strangers: what could steer a terminal, or turn the order
    of letters about, becomes a question mark.
    """
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, list | tuple):
        return " ".join(text(item) for item in value)
    shown = "" if value is None else str(value)
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in shown)
