"""A bar that moves while something long is done, for people who watch.

Talks to the terminal, on standard error, and only where that is one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["counting", "working"]

T = TypeVar("T")


@contextmanager
def counting(total: int, title: str) -> Iterator[Callable[[], None]]:
    """Show a bar, and yield what to call as each of the `total` is done."""
    if not sys.stderr.isatty():
        yield _nothing
        return
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield partial(progress.advance, progress.add_task(title, total=total))


def working(items: Sequence[T], title: str) -> Iterator[T]:
    """Yield the items, with a bar that says how far it is."""
    with counting(len(items), title) as done:
        for item in items:
            yield item
            done()


def _nothing() -> None:
    pass
