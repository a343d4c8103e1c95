"""What came of a job, as its handler tells the worker.

Pure: declarations only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from sqlalchemy import Connection

from certs.errors import Reason
from gateway.queue import NewJob

__all__ = ["Done", "Failed", "Next", "Record", "Result", "Retry", "nothing"]

Record: TypeAlias = Callable[[Connection], object]


def nothing(_: Connection) -> None:
    """Record nothing."""


def _always() -> bool:
    """Say yes."""
    return True


@dataclass(frozen=True, slots=True)
class Next:
    """A job that follows from another. `known` is for its handler, where it is done at once.

    `wanted` is asked once the outcome of the other is written.
    """

    job: NewJob
    known: object
    wanted: Callable[[], bool] = _always


@dataclass(frozen=True, slots=True)
class Done:
    """The job is done; `record` writes what came of it, and `then` is what follows."""

    record: Record = nothing
    then: Sequence[Next] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """The job is to be tried again at `due_at`.

    `answered`: the job's destination is there and works, whatever the reason.
    """

    due_at: datetime
    reason: Reason
    detail: str
    record: Record = nothing
    answered: bool = False
    then: Sequence[Next] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The job cannot be done; it is kept as a dead letter."""

    reason: Reason
    detail: str
    record: Record = nothing


Result: TypeAlias = Done | Retry | Failed
