"""What a person is asked: to confirm, and for passwords.

Talks to the terminal, and to the file that holds a password. A password is never an argument:
every user of the machine can read those.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from certs.errors import DirectError
from certs.kek import read_secret
from gateway.cli.common import fail

__all__ = ["PasswordFile", "confirm", "password_of"]

PasswordFile = Annotated[
    Path | None, typer.Option(help="File with the password; default: it is asked for.")
]


def confirm(question: str, *, yes: bool) -> None:
    """Go on where the answer is yes; exit 1 where it is no.

    Where nobody can be asked it must have been said beforehand: exit 2.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Nobody can be asked here: say --yes.")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)


def password_of(file: Path | None, prompt: str, *, twice: bool = False) -> str:
    """Return the password in the first line of a file, or what is typed unseen."""
    if file is not None:
        try:
            return read_secret(file).decode("utf-8").partition("\n")[0].rstrip("\r")
        except DirectError as error:
            fail(error)
        except UnicodeDecodeError:
            fail(f"{file}: not UTF-8")
    if not sys.stdin.isatty():
        fail(f"{prompt}: nobody can be asked here: say --password-file FILE")
    answer: str = typer.prompt(prompt, hide_input=True, confirmation_prompt=twice, err=True)
    return answer
