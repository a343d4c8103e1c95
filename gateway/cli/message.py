"""`message`: what became of each message.

Talks to the database.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer
from rich.text import Text
from rich.tree import Tree

from certs.errors import DirectError, Reason
from gateway import messages as store
from gateway import timeline
from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigPath,
    Json,
    Site,
    console,
    fail,
    grow,
    on_site,
    table,
    text,
    write_json,
)
from gateway.messages import Direction, Message, MessageState
from gateway.recipients import Recipient, recipients_of

__all__ = ["messages"]

messages = typer.Typer(help="Messages and what became of them.", no_args_is_help=True)

Limit = Annotated[int, typer.Option(min=1, max=1000, help="How many to show.")]


@messages.command("list")
def list_messages(
    limit: Limit = 50,
    direction: Annotated[Direction | None, typer.Option(help="incoming or outgoing.")] = None,
    state: Annotated[MessageState | None, typer.Option(help="Only in this state.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """List messages, newest first.

    Example: direct-gateway message list --state refused
    """

    async def work(site: Site) -> list[dict[str, object]]:
        found = await site.database.read(
            lambda c: store.list_messages(c, limit=limit, direction=direction, state=state)
        )
        return [_row(message) for message in found]

    columns = ("id", "received", "direction", "kind", "state", "from", "reason")
    table("messages", columns, on_site(config, work), as_json=as_json)


@messages.command("show")
def show_message(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="As `message list` prints it.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Show the whole life of one message.

    Example: direct-gateway message show 019f0c2e-8a3b-7c1d-9e4f-5a6b7c8d9e0f
    """
    try:
        wanted = UUID(identifier)
    except ValueError:
        fail(f"not a message id: {identifier}")

    async def work(site: Site) -> dict[str, Any]:
        message, recipients, events = await site.database.read(
            lambda c: (
                store.get(c, wanted),
                recipients_of(c, wanted),
                timeline.timeline(c, wanted),
            )
        )
        if message is None:
            raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no message {wanted}")
        return {
            **_row(message),
            "message_id": message.message_id_header,
            "envelope_sender": _text(message.envelope_sender),
            "size": message.size,
            "detail": message.detail,
            "answers": _text(message.parent),
            "evidence": message.evidence,
            "recipients": [_recipient(r) for r in recipients],
            "timeline": [
                {
                    "at": event.at,
                    "what": event.what,
                    "who": event.who,
                    "outcome": event.outcome,
                    "detail": event.detail,
                }
                for event in events
            ],
        }

    report = on_site(config, work)
    if as_json:
        write_json(report)
    else:
        console().print(_tree(report))


def _row(message: Message) -> dict[str, object]:
    return {
        "id": str(message.id),
        "received": message.received_at,
        "direction": message.direction.value,
        "kind": message.kind.value,
        "state": message.state.value,
        "from": _text(message.author or message.envelope_sender),
        "reason": message.reason.code if message.reason else None,
    }


def _recipient(recipient: Recipient) -> dict[str, object]:
    return {
        "address": str(recipient.address),
        "state": recipient.state,
        "reason": recipient.reason.code if recipient.reason else None,
        "detail": recipient.detail,
        "status": recipient.status,
        "updated": recipient.updated_at,
    }


def _tree(report: dict[str, Any]) -> Tree:
    head = f"{report['direction']} {report['kind']} {report['id']}: {report['state']}"
    tree = Tree(Text(head))
    for name in ("from", "message_id", "size", "received", "answers", "reason", "detail"):
        grow(tree, name.replace("_", " "), report[name])
    for title in ("recipients", "timeline"):
        branch = tree.add(title)
        for item in report[title]:
            branch.add(Text("  ".join(text(value) for value in item.values() if value)))
    grow(tree, "evidence", report["evidence"])
    return tree


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)
