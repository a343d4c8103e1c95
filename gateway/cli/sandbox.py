"""`sandbox`: two HISPs on this machine exchange a clinical document, step by step.

Talks to the terminal.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import structlog
import typer

from gateway.cli.common import fail, read_file
from gateway.clock import utc_now
from gateway.sample_ccda import continuity_of_care_document

__all__ = ["sandbox"]


def sandbox(
    document: Annotated[
        Path | None, typer.Option(help="Document to send; default: a sample C-CDA.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Keep the data here; default: a temporary folder.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Do not stay up after it.")] = False,
) -> None:
    """Run two HISPs on loopback and the exchange between them.

    Stays up until Ctrl-C where standard input is a terminal; exits 0 after an exchange that
    succeeded and 1 after one that failed.

    Example: direct-gateway sandbox --document summary.xml
    """
    # Imported here, for it imports the whole gateway: the other verbs start in a third of the time.
    from gateway.cli.sandbox_view import show

    content = read_file(document) if document else continuity_of_care_document(now=utc_now())
    stay = sys.stdin.isatty() and not once
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory(prefix="direct-sandbox-") as temporary:
        try:
            succeeded = asyncio.run(show(folder or Path(temporary), content, stay=stay))
        except OSError as error:
            fail(f"the sandbox cannot run here: {error.strerror}")
    raise typer.Exit(0 if succeeded else 1)
