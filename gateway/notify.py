"""What the sender of a message wants to hear of each recipient, and under which name.

Pure.

Standards:
    RFC3461 sections 4.1 (NOTIFY) and 4.2 (ORCPT)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

__all__ = ["USUAL_WISH", "Notify", "Wish", "stored_wish", "wish_of"]


@unique
class Notify(Enum):
    """Of what the sender wants a DSN (RFC3461 4.1)."""

    NEVER = "NEVER"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    DELAY = "DELAY"


@dataclass(frozen=True, slots=True)
class Wish:
    """What was wished of one recipient; without a word of it the sender hears of failures.

    `original` is the recipient's first address as its sender wrote it, such as
    "rfc822;anna@a.example" (ORCPT, decoded); each DSN returns it.
    """

    notify: frozenset[Notify] = frozenset({Notify.FAILURE})
    original: str | None = None


USUAL_WISH: Final = Wish()


def stored_wish(wish: Wish) -> dict[str, str | None]:
    """Return the columns that `wish_of` reads again; what is usual is None."""
    notify = None
    if wish.notify != USUAL_WISH.notify:
        notify = ",".join(sorted(each.value for each in wish.notify))
    return {"notify": notify, "original_recipient": wish.original}


def wish_of(notify: str | None, original_recipient: str | None) -> Wish:
    """Return the wish whose `stored_wish` these are."""
    if notify is None:
        return USUAL_WISH if original_recipient is None else Wish(original=original_recipient)
    return Wish(frozenset(map(Notify, notify.split(","))), original_recipient)
