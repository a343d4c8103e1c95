"""`batch`: many verbs in one process, as lines of a file or of standard input.

Talks to the terminal.
"""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.common import Json, fail, read_file

__all__ = ["batch"]


def batch(
    file: Annotated[Path | None, typer.Argument(help="Lines to run; default: read them.")] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Go on after a line that did not exit 0.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run verbs, one a line, as you would type them without `direct-gateway`; '#' begins a comment.

    Stops at the first line that does not exit 0, with its exit status. With --json each line gives
    a line of JSON: its number, its status, and what it said.

    Example: direct-gateway batch new-clinic.txt
    """
    # Imported here, for it imports this module's registration in turn.
    from gateway.cli.__main__ import call

    data = read_file(file) if file else sys.stdin.buffer.read()
    try:
        lines = [shlex.split(line, comments=True) for line in data.decode("utf-8").splitlines()]
    except UnicodeDecodeError:
        fail("not UTF-8")
    except ValueError as error:
        fail(f"a line does not parse: {error}")
    worst = 0
    for number, words in enumerate(lines, start=1):
        if not words:
            continue
        status = _told(number, words, call) if as_json else call(words)
        worst = worst or status
        if status and not as_json:
            typer.echo(f"line {number}: exit status {status}", err=True)
        if status and not keep_going:
            break
    raise typer.Exit(worst)


def _told(number: int, words: list[str], call: Callable[[list[str]], int]) -> int:
    """Run a line and say in JSON what it said: as values where it is JSON itself."""
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        status = call(words)
    output: Any = out.getvalue()
    with suppress(ValueError):
        output = json.loads(output)
    said = {"line": number, "status": status, "output": output, "error": error.getvalue()}
    typer.echo(json.dumps(said, ensure_ascii=False))
    return status
