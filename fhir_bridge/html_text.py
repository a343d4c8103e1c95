"""Plain text from an HTML body, for messages that carry no text of their own (fhir.md 3.3).

Pure. The result is marked as derived; the HTML itself is kept beside it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from html.parser import HTMLParser
from typing import Final

__all__ = ["text_of_html"]

# What has no end is read anew from each of its characters by `close`: hours, for a body's length.
UNFINISHED_MAX: Final = 4096
_SILENT: Final = frozenset({"script", "style", "head", "title", "template"})
_BLOCKS: Final = frozenset(
    re.findall(
        r"\w+",
        "address article blockquote br dd div dl dt footer h1 h2 h3 h4 h5 h6 header hr li ol p pre "
        "section table tr ul",
    )
)


def text_of_html(html: str) -> str:
    """Return the readable text of `html`: a line for each block, single spaces within."""
    reader = _Reader()
    # What it has read until then is the text: a declaration that is none is an AssertionError.
    with suppress(AssertionError):
        reader.feed(html)
        if len(reader.rawdata) <= UNFINISHED_MAX:
            reader.close()
    lines = (re.sub(r"\s+", " ", line).strip() for line in "".join(reader.out).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[str] = []
        self.silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT:
            self.silent += 1
        elif tag in _BLOCKS:
            self.out.append("\n")
        elif tag in ("td", "th"):
            self.out.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self.silent = max(0, self.silent - 1)
        elif tag in _BLOCKS and tag != "br":
            self.out.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.out.append(re.sub(r"\s+", " ", data))
