"""Nouns and verbs that are imported when they are asked for: each call pays for its own only.

Talks to the import system. `Any` stands for the types of typer's own copy of click, which have no
public name.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["LazyGroup", "LazyNoun", "Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a noun (a `typer.Typer`) or a verb (a function) is defined, and what it is about.

    `more`: verbs of the noun that another module adds to it as it is imported.
    """

    module: str
    name: str
    help: str
    more: Mapping[str, Place] = field(default_factory=dict)


class _Lazy(TyperGroup):
    """A group whose list of names needs no more than a line each."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the whole."""
        ctx.meta[__name__] = True
        super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the names that begin like this."""
        ctx.meta[__name__] = True
        return super().shell_complete(ctx, incomplete)

    def listed(self, ctx: Any, name: str, place: Place) -> Any:
        """Return what stands for a command in a list, None where it is wanted itself."""
        if not ctx.meta.get(__name__):
            return None
        return TyperCommand(name, help=place.help, short_help=place.help)


class LazyGroup(_Lazy):
    """The commands of `PLACES`, in their order."""

    PLACES: ClassVar[Mapping[str, Place]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names."""
        return list(self.PLACES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command."""
        place = self.PLACES.get(cmd_name)
        if place is None:
            return None
        return self.listed(ctx, cmd_name, place) or _load(cmd_name, place)


class LazyNoun(_Lazy):
    """The verbs of a noun, and after them those that other modules add."""

    more: Mapping[str, Place]

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names."""
        return [*self.commands, *(name for name in self.more if name not in self.commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command."""
        place = self.more.get(cmd_name)
        if place is None or cmd_name in self.commands:
            return super().get_command(ctx, cmd_name)
        return self.listed(ctx, cmd_name, place) or _noun(place).commands[cmd_name]


def _load(name: str, place: Place) -> Any:
    found = _found(place)
    if isinstance(found, typer.Typer):
        command = _noun(place)
        command.name = name
        return command
    alone = typer.Typer(add_completion=False)
    alone.command(name)(found)
    return typer.main.get_command(alone)


def _noun(place: Place) -> Any:
    found = _found(place)
    found.info.cls = LazyNoun
    command: Any = typer.main.get_group(found)
    command.more = place.more
    return command


def _found(place: Place) -> Any:
    return getattr(importlib.import_module(place.module), place.name)
