"""`completion`: what lets a shell complete nouns, verbs and options.

Talks to the terminal. The shell asks the program itself, so it never completes what is not there.
"""

from __future__ import annotations

import os
from enum import Enum
from typing import Annotated

import typer

# typer has no public name for these; its own --show-completion goes by the caller's shell, which
# is not the one that a package is made for.
from typer import _completion_classes, _completion_shared

__all__ = ["PROGRAM", "Shell", "completion", "prepare_completion"]

PROGRAM = "direct-gateway"
VARIABLE = "_DIRECT_GATEWAY_COMPLETE"


class Shell(Enum):
    """A shell that completes."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="Which shell.")],
) -> None:
    """Print what a shell needs to complete nouns, verbs and options.

    Example: direct-gateway completion bash > /etc/bash_completion.d/direct-gateway
    """
    script = _completion_shared.get_completion_script(
        prog_name=PROGRAM, complete_var=VARIABLE, shell=shell.value
    )
    typer.echo(script)


def prepare_completion() -> None:
    """Make ready to answer a shell, where it is a shell that asks."""
    if VARIABLE in os.environ:
        _completion_classes.completion_init()
