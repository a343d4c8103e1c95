from __future__ import annotations

import pytest

from fhir_bridge.endpoints import endpoint_of


@pytest.mark.parametrize(
    ("url", "hosts", "place"),
    [
        ("https://bot.example/hook", ["bot.example"], ("bot.example", 443)),
        ("https://BOT.example:443/hook?x=1", ["bot.example"], ("bot.example", 443)),
        ("https://bot.example:8443/", ["bot.example:8443"], ("bot.example", 8443)),
        ("http://10.0.0.5:8080/", ["http://10.0.0.5:8080"], ("10.0.0.5", 8080)),
        ("https://[2001:db8::1]/", ["[2001:db8::1]"], ("2001:db8::1", 443)),
    ],
)
def test_what_the_operator_named_is_allowed(
    url: str, hosts: list[str], place: tuple[str, int]
) -> None:
    found = endpoint_of(url, hosts)
    assert found is not None
    assert (found.host, found.port, found.url) == (*place, url)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("https://evil.example/", id="another-host"),
        pytest.param("https://bot.example.evil.example/", id="longer-name"),
        pytest.param("https://sub.bot.example/", id="sub-domain"),
        pytest.param("http://bot.example/", id="plain"),
        pytest.param("https://bot.example:22/", id="another-port"),
        pytest.param("https://bot.example@evil.example/", id="user-information"),
        pytest.param("https://evil.example#@bot.example/", id="fragment"),
        pytest.param("https://evil.example\\@bot.example/", id="backslash"),
        pytest.param("https://bot.example\\@evil.example/", id="backslash-behind"),
        pytest.param("https://bot.example/\r\nx: y", id="line-break"),
        pytest.param("https://bot.example/a b", id="space"),
        pytest.param("https://bot.example:99999/", id="port-too-big"),
        pytest.param("https://[bot.example/", id="bracket"),
        pytest.param("https://bot.exámple/", id="not-ascii"),
        pytest.param("file:///etc/passwd", id="file"),
        pytest.param("//bot.example/", id="no-scheme"),
        pytest.param("https:bot.example", id="no-authority"),
        pytest.param("https://bot.example/" + "x" * 2048, id="too-long"),
        pytest.param("", id="empty"),
        pytest.param(None, id="none"),
    ],
)
def test_nothing_else_is(url: str | None) -> None:
    assert endpoint_of(url, ["bot.example"]) is None
