"""The content of a message, made fit to go on the wire after DATA.

Pure. Octets are never changed but for the dots that transparency asks for: a relay that rewrites
lines breaks signatures. Line ends that are none are `gateway.smtp_text`'s.

Standards:
    RFC5321 sections 4.1.1.4 (end of data) and 4.5.2 (transparency)
"""

from __future__ import annotations

__all__ = ["DotStuffer"]


class DotStuffer:
    """Doubles each "." that begins a line, in chunks of any size."""

    __slots__ = ("_before",)

    def __init__(self) -> None:
        # The last two octets that went before; the content begins at the beginning of a line.
        self._before = b"\r\n"

    def feed(self, chunk: bytes) -> bytes:
        """Return the next octets for the wire."""
        before = self._before
        joined = before + chunk
        self._before = joined[-2:]
        if b"\r\n." not in joined:
            return chunk
        # "before" never has the dot itself, so it comes out as it went in.
        return joined.replace(b"\r\n.", b"\r\n..")[len(before) :]

    def finish(self) -> bytes:
        """Return the octets that end the data."""
        # RFC5321 4.1.1.4: the CRLF that ends the last line is also the first of CRLF "." CRLF.
        return b".\r\n" if self._before == b"\r\n" else b"\r\n.\r\n"
