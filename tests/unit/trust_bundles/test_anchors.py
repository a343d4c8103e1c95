from __future__ import annotations

from datetime import timedelta

from tests.helpers.pki import NOW, Ca
from trust_bundles.anchors import Anchors, difference

ONE, TWO = (Ca.create(name).certificate for name in ("One", "Two"))
ENDING = Ca.create("Ending", not_after=NOW + timedelta(days=10)).certificate


def test_set_keeps_order_and_counts_each_once() -> None:
    anchors = Anchors([ONE, TWO, ONE])
    assert list(anchors) == [ONE, TWO]
    assert len(anchors) == 2
    assert anchors[1] == TWO
    assert list(anchors[:1]) == [ONE]
    assert ONE in anchors
    assert ENDING not in anchors
    assert "ONE" not in anchors


def test_digest_names_the_set_in_any_order() -> None:
    assert Anchors([ONE, TWO]).digest == Anchors([TWO, ONE]).digest
    assert Anchors([ONE]).digest != Anchors([ONE, TWO]).digest


def test_difference_tells_added_removed_and_expiring() -> None:
    changed = difference(
        Anchors([ONE, TWO]), Anchors([TWO, ENDING]), now=NOW, warn_before=timedelta(days=30)
    )
    assert changed.added == (ENDING,)
    assert changed.removed == (ONE,)
    assert changed.expiring == (ENDING,)
