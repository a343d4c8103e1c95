from __future__ import annotations

from itertools import combinations

import pytest

from gateway.notify import USUAL_WISH, Notify, Wish, stored_wish, wish_of

WISHES = [
    frozenset(some)
    for count in (1, 2, 3)
    for some in combinations((Notify.SUCCESS, Notify.FAILURE, Notify.DELAY), count)
]


@pytest.mark.parametrize("original", [None, "rfc822;anna@a.example"])
@pytest.mark.parametrize(
    "notify",
    [frozenset({Notify.NEVER}), *WISHES],
    ids=lambda each: ",".join(sorted(n.value for n in each)),
)
def test_a_wish_is_read_as_it_was_stored(notify: frozenset[Notify], original: str | None) -> None:
    wish = Wish(notify, original)
    stored = stored_wish(wish)
    assert wish_of(**stored) == wish
    # It must fit its column.
    assert len(stored["notify"] or "") <= 32


def test_the_usual_wish_takes_no_room() -> None:
    assert stored_wish(USUAL_WISH) == {"notify": None, "original_recipient": None}
    assert wish_of(None, None) is USUAL_WISH
