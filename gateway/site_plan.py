"""What would make a site as it is declared: the steps from what is there to what is wanted.

Pure: values in, values out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from gateway.site_file import KINDS, Thing

__all__ = ["Act", "Step", "plan", "undeclared"]


class Act(Enum):
    """What is done to a thing."""

    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Step:
    """One change. `thing` is as it shall be, or what goes; `before` is what is there."""

    act: Act
    thing: Thing
    before: Thing | None = None

    @property
    def old(self) -> dict[str, Any]:
        """The values of before."""
        return dict(self.before.values) if self.before else {}

    @property
    def new(self) -> dict[str, Any]:
        """The values of after."""
        return {} if self.act is Act.REMOVE else dict(self.thing.values)

    @property
    def changed(self) -> tuple[str, ...]:
        """The names of the values that become others."""
        old, new = self.old, self.new
        return tuple(name for name in {**old, **new} if old.get(name) != new.get(name))


def plan(wanted: Sequence[Thing], present: Sequence[Thing], *, prune: bool) -> list[Step]:
    """Return the steps in an order in which each can be taken; none where all is as wanted.

    What is there and not declared is left alone, or removed with `prune`: users before their
    addresses, addresses before their domains.
    """
    there = {(thing.kind, thing.key): thing for thing in present}
    steps = []
    for thing in sorted(wanted, key=_order):
        before = there.get((thing.kind, thing.key))
        if before is None:
            steps.append(Step(Act.ADD, thing))
        elif before.values != thing.values:
            steps.append(Step(Act.CHANGE, thing, before))
    if prune:
        gone = sorted(undeclared(wanted, present), key=_order, reverse=True)
        steps += [Step(Act.REMOVE, thing, thing) for thing in gone]
    return steps


def undeclared(wanted: Sequence[Thing], present: Sequence[Thing]) -> list[Thing]:
    """Return what is there and not declared."""
    declared = {(thing.kind, thing.key) for thing in wanted}
    return [thing for thing in present if (thing.kind, thing.key) not in declared]


def _order(thing: Thing) -> int:
    return KINDS.index(thing.kind)
