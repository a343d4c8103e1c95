from __future__ import annotations

import pytest

from gateway.share import HOLDER_OCTETS, Share, Sockets


@pytest.mark.parametrize(("others", "processes"), [((), 1), ((4, 5, 6), 4)])
def test_a_share_knows_how_many_processes_there_are(
    others: tuple[int, ...], processes: int
) -> None:
    holder = bytes(HOLDER_OCTETS)
    share = Share(holder=holder, first=True, sockets=Sockets(), bell=3, bells=others, parent=0)
    assert share.processes == processes
