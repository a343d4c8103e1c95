"""A bar that moves while something long is done, for people who watch.

Talks to the terminal, on standard error, and only where that is one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["working"]

T = TypeVar("T")


def working(items: Sequence[T], title: str) -> Iterator[T]:
    """Yield the items, with a bar that says how far it is."""
    if not sys.stderr.isatty():
        yield from items
        return
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items)
