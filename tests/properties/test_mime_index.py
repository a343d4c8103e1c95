"""fhir_bridge.mime: each part is found where it was put, whatever its octets are."""

from __future__ import annotations

import io

from hypothesis import example, given
from hypothesis import strategies as st

from fhir_bridge.mime import BLOCK_OCTETS, index

# What a boundary line begins with, ends with, and might be taken for.
PIECES = [b"-", b"--", b"\r", b"\n", b"\r\n", b"x", b"--=_", b"--=_bb", b"\r\n--=_bb\r\n"]
BODIES = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)


@given(
    parts=st.lists(st.tuples(BODIES, st.integers(-6, 6), st.booleans(), BODIES), max_size=4),
    closed=st.booleans(),
)
@example(parts=[(b"", 0, True, b"\r\n")], closed=False)
def test_parts_are_where_they_were_put(
    parts: list[tuple[bytes, int, bool, bytes]], closed: bool
) -> None:
    bodies = [
        before + b"y" * (BLOCK_OCTETS + offset if large else 0) + after
        for before, offset, large, after in parts
    ]
    head = b'Content-Type: multipart/mixed; boundary="=_b"\r\n\r\npreamble'
    whole = head + b"".join(b"\r\n--=_b\r\n\r\n" + body for body in bodies)
    if closed:
        whole += b"\r\n--=_b--\r\nepilogue\r\n--=_b\r\n"
    found = index(io.BytesIO(whole))
    octets = [whole[part.offset : part.offset + part.length] for part in found.root.children]
    assert octets == bodies
    assert not found.partial
