"""Text of HTML, whatever is called HTML."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.html_text import text_of_html

PIECES = [
    "<",
    ">",
    "<!",
    "<![",
    "<!--",
    "-->",
    "</",
    "<a href='",
    '"',
    "&",
    "&lt;",
    "]]>",
    "<p>",
    "x",
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_whatever_it_is_there_is_a_text(html: str) -> None:
    assert "\n\n\n" not in text_of_html(html)


@pytest.mark.parametrize(
    "html", ["a<p>b<![if x", "a<p>b<![<![", "a<p>b<!\x00x[>", "a<p>b<a href='c"], ids=range(4)
)
def test_what_comes_before_broken_markup_is_read(html: str) -> None:
    assert text_of_html(html).startswith("a\nb")


@pytest.mark.parametrize("opening", ["<a href='", "<!--", "</", "<?"])
def test_markup_without_end_is_not_read_from_each_of_its_characters(opening: str) -> None:
    # From each of them to the end, this would take half an hour.
    assert text_of_html(f"<p>before</p>{opening * 200_000}") == "before"
