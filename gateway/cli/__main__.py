"""The console script: every noun and verb in one place.

Talks to the terminal.
"""

from __future__ import annotations

import typer

from gateway.cli.anchor import anchors
from gateway.cli.audit import audit
from gateway.cli.bench import bench
from gateway.cli.client import clients, users
from gateway.cli.domain import addresses
from gateway.cli.domain_check import names
from gateway.cli.inspect import inspect
from gateway.cli.lookup import lookup
from gateway.cli.message import messages
from gateway.cli.publish import certs
from gateway.cli.queue import queue
from gateway.cli.sandbox import sandbox
from gateway.cli.selftest import selftest
from gateway.cli.site import check, init, serve

__all__ = ["app", "main"]

app = typer.Typer(
    help="A HISP in one command: Direct secure messaging with a FHIR R4 API.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for verb in (init, serve, check, lookup, inspect, sandbox, bench):
    app.command()(verb)
app.add_typer(names, name="domain")
app.add_typer(addresses, name="address")
app.add_typer(certs, name="cert")
app.add_typer(anchors, name="anchor")
app.add_typer(clients, name="client")
app.add_typer(users, name="user")
app.add_typer(messages, name="message")
app.add_typer(queue, name="queue")
app.add_typer(audit, name="audit")
app.add_typer(selftest, name="selftest")


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
