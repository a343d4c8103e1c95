"""The life of a sent message, for one recipient: which event moves it where, and when it is late.

Pure: a transition table. A pair that is not in the table is ignored and recorded by the caller,
never guessed.

Mode A is a plain message: it is complete when the peer's STA has processed it. Mode B is a message
whose sender asked for delivery notification (timely and reliable): it is complete when it was
processed and dispatched, two notices that may arrive in either order.

Standards:
    DNIG    Implementation Guide for Delivery Notification in Direct v1.0, sections 1.4 and 1.5
    DN-010 to DN-015 of the requirements: per recipient, one terminal outcome, late notices ignored
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, unique
from types import MappingProxyType
from typing import Final

__all__ = [
    "DELAY",
    "TRANSITIONS",
    "WINDOW",
    "Event",
    "State",
    "Windows",
    "advance",
    "is_final",
    "late",
]

# DN-017: the time a receiving system has to answer, from when the message was queued.
WINDOW: Final = timedelta(minutes=60)
# Mail servers tell of a delay after some hours; here the window is over by then.
DELAY: Final = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class Windows:
    """How long a sender waits for notifications; `by_domain` has those of its own.

    `delay` is when a sender who asked is told that a message is still with us (RFC3461 4.1).
    """

    default: timedelta = WINDOW
    by_domain: Mapping[str, timedelta] = field(default_factory=dict)
    delay: timedelta = DELAY

    def of(self, domain: str) -> timedelta:
        """Return how long senders of `domain` wait."""
        return self.by_domain.get(domain, self.default)


@unique
class State(Enum):
    """How far a message came on its way to one recipient."""

    QUEUED = "queued"  # accepted by us, not yet by the peer
    RELAYED = "relayed"  # the peer said 250
    PROCESSED = "processed"  # the peer's STA has decrypted it and trusts it
    EARLY = "early"  # mode B: dispatched came before processed, which is still awaited
    DISPATCHED = "dispatched"  # it is where the recipient reads it
    FAILED = "failed"  # the sender is told so


@unique
class Event(Enum):
    """What happens to a message on its way to one recipient."""

    RELAYED = "relayed"  # the peer said 250
    GAVE_UP = "gave-up"  # our queue has tried long enough
    REFUSED = "refused"  # the peer said 5xx, or there is no certificate or no trust
    MDN_PROCESSED = "mdn-processed"
    MDN_DISPATCHED = "mdn-dispatched"  # in mode B only one that carries the DNIG field (DN-010)
    MDN_FAILED = "mdn-failed"
    DSN_FAILED = "dsn-failed"
    TIME_OUT = "time-out"  # `late` said so


_EITHER_MODE: Final[Mapping[tuple[State, Event], State]] = {
    (State.QUEUED, Event.RELAYED): State.RELAYED,
    (State.QUEUED, Event.GAVE_UP): State.FAILED,
    (State.QUEUED, Event.REFUSED): State.FAILED,
    # A notice can overtake the record of our own delivery; the record then changes nothing.
    (State.QUEUED, Event.MDN_PROCESSED): State.PROCESSED,
    (State.QUEUED, Event.MDN_FAILED): State.FAILED,
    (State.QUEUED, Event.DSN_FAILED): State.FAILED,
    # DN-011: the window is shorter than our queue's patience.
    (State.QUEUED, Event.TIME_OUT): State.FAILED,
    (State.RELAYED, Event.MDN_PROCESSED): State.PROCESSED,
    (State.RELAYED, Event.MDN_FAILED): State.FAILED,
    (State.RELAYED, Event.DSN_FAILED): State.FAILED,
    (State.RELAYED, Event.TIME_OUT): State.FAILED,
    (State.PROCESSED, Event.MDN_DISPATCHED): State.DISPATCHED,
    # DN-006, DN-013: a trusted message that could not be delivered. In mode A as well, where the
    # sender has heard of no success that this would contradict (DN-014).
    (State.PROCESSED, Event.MDN_FAILED): State.FAILED,
    (State.PROCESSED, Event.DSN_FAILED): State.FAILED,
}

_MODE_A: Final[Mapping[tuple[State, Event], State]] = {
    # DN-010: any positive notice completes a message that asked for none.
    (State.QUEUED, Event.MDN_DISPATCHED): State.DISPATCHED,
    (State.RELAYED, Event.MDN_DISPATCHED): State.DISPATCHED,
}

_MODE_B: Final[Mapping[tuple[State, Event], State]] = {
    (State.QUEUED, Event.MDN_DISPATCHED): State.EARLY,
    (State.RELAYED, Event.MDN_DISPATCHED): State.EARLY,
    (State.EARLY, Event.MDN_PROCESSED): State.DISPATCHED,
    (State.EARLY, Event.MDN_FAILED): State.FAILED,
    (State.EARLY, Event.DSN_FAILED): State.FAILED,
    (State.EARLY, Event.TIME_OUT): State.FAILED,  # DN-011: no processed notice
    (State.PROCESSED, Event.TIME_OUT): State.FAILED,  # DN-012: no dispatched notice
}

# By mode: False is A, True is B (the sender wants dispatched notices).
TRANSITIONS: Final[Mapping[bool, Mapping[tuple[State, Event], State]]] = MappingProxyType(
    {
        False: MappingProxyType({**_EITHER_MODE, **_MODE_A}),
        True: MappingProxyType({**_EITHER_MODE, **_MODE_B}),
    }
)


def advance(state: State, event: Event, *, wants_dispatched: bool) -> State | None:
    """Return the state after `event`, or None where the event changes nothing (DN-014)."""
    return TRANSITIONS[wants_dispatched].get((state, event))


def is_final(state: State, *, wants_dispatched: bool) -> bool:
    """Say whether nothing more is awaited, so that no time-out runs."""
    if state is State.PROCESSED:
        return not wants_dispatched
    return state in (State.DISPATCHED, State.FAILED)


def late(
    state: State,
    *,
    queued_at: datetime,
    now: datetime,
    wants_dispatched: bool,
    window: timedelta = WINDOW,
) -> bool:
    """Say whether the notices a message still waits for are overdue (DN-011, DN-012, DN-017)."""
    return not is_final(state, wants_dispatched=wants_dispatched) and now >= queued_at + window
