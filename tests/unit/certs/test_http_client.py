from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from certs.errors import DirectError, Reason
from certs.http_client import HttpClient
from tests.helpers.web import Exchange, Handler, Web, web


class Hosts:
    """Resolves by a table; what is not in it has no address that may be connected to."""

    def __init__(self) -> None:
        self.known = {"127.0.0.1": ["127.0.0.1"], "named.example.org": ["127.0.0.1"]}

    async def addresses(self, host: str) -> Sequence[str]:
        return self.known.get(host, [])


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Web]:
    async with web() as served:
        yield served


@pytest_asyncio.fixture
async def client() -> AsyncIterator[HttpClient]:
    opened = HttpClient(resolver=Hosts())
    yield opened
    await opened.aclose()


async def refused(client: HttpClient, url: str, **limits: float) -> str:
    with pytest.raises(DirectError) as caught:
        await client.get(url, failure=Reason.REVOCATION_UNKNOWN, **limits)  # type: ignore[arg-type]  # by name
    assert caught.value.reason is Reason.REVOCATION_UNKNOWN
    return caught.value.detail


async def test_content_comes_from_the_address_under_the_name(site: Web, client: HttpClient) -> None:
    site.files["/a"] = b"content"
    port = site.base.rpartition(":")[2]
    assert await client.get(f"http://named.example.org:{port}/a") == b"content"


async def test_post_sends_its_body(site: Web, client: HttpClient) -> None:
    async def echo(exchange: Exchange) -> None:
        await exchange.answer(exchange.method.encode() + b" " + exchange.body)

    site.handlers["/ocsp"] = echo
    answer = await client.post(site.url("/ocsp"), b"asked", media_type="application/ocsp-request")
    assert answer == b"POST asked"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://user:secret@127.0.0.1/",
        "http:///nothing",
        "http://[",
        "http://unknown.example.org/",
        "http://127.0.0.2/",
    ],
)
async def test_what_may_not_be_fetched_is_not(client: HttpClient, url: str) -> None:
    """T-43."""
    assert "secret" not in await refused(client, url)


async def test_redirects_are_followed_a_few_times_and_checked(
    site: Web, client: HttpClient
) -> None:
    site.files["/end"] = b"content"
    for path, target in (
        ("/1", "/2"),
        ("/2", site.url("/end")),
        ("/loop", "/loop"),
        ("/out", "http://127.0.0.2/"),
        ("/file", "file:///etc/passwd"),
    ):
        site.handlers[path] = _redirect(target)
    assert await client.get(site.url("/1")) == b"content"
    site.asked.clear()
    assert "redirected too often" in await refused(client, site.url("/loop"))
    assert len(site.asked) == 4
    assert "no address" in await refused(client, site.url("/out"))
    assert "file" in await refused(client, site.url("/file"))


async def test_post_is_not_redirected(site: Web, client: HttpClient) -> None:
    site.handlers["/a"] = _redirect("/b")
    with pytest.raises(DirectError):
        await client.post(site.url("/a"), b"", media_type="text/plain")
    assert site.asked == ["/a"]


@pytest.mark.parametrize("status", ["404 Not Found", "500 Internal Server Error", "204 No"])
async def test_any_status_but_200_is_a_failure(site: Web, client: HttpClient, status: str) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(b"", status=status)

    site.handlers["/a"] = answer
    await refused(client, site.url("/a"))


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("Content-Type: text/plain\r\n", True),
        ("Content-Type: Text/Plain; charset=utf-8\r\n", True),
        ("Content-Type: text/html\r\n", False),
        ("", False),
    ],
)
async def test_content_of_another_media_type_than_asked_for_is_refused(
    site: Web, client: HttpClient, header: str, *, taken: bool
) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(b"x", headers=header)

    site.handlers["/a"] = answer
    if taken:
        assert await client.get(site.url("/a"), media_type="text/plain") == b"x"
    else:
        with pytest.raises(DirectError, match="not text/plain"):
            await client.get(site.url("/a"), media_type="text/plain")


async def test_content_over_the_limit_is_cut_off(site: Web, client: HttpClient) -> None:
    site.files["/big"] = b"\0" * 1_000_000
    assert "over 1000 octets" in await refused(client, site.url("/big"), limit_octets=1000)


async def test_endless_content_is_cut_off(site: Web, client: HttpClient) -> None:
    sent = 0

    async def flood(exchange: Exchange) -> None:
        nonlocal sent
        exchange.writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            exchange.writer.write(b"\0" * 65536)
            sent += 65536
            await exchange.writer.drain()

    site.handlers["/flood"] = flood
    await refused(client, site.url("/flood"), limit_octets=1_000_000)
    assert sent < 10_000_000


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_dribbled_answer_ends_at_the_deadline(
    site: Web, client: HttpClient, start: bytes
) -> None:
    async def dribble(exchange: Exchange) -> None:
        exchange.writer.write(start)
        while True:
            exchange.writer.write(b"x")
            await exchange.writer.drain()
            await asyncio.sleep(0.01)

    site.handlers["/slow"] = dribble
    began = time.monotonic()
    assert "timed out" in await refused(client, site.url("/slow"), deadline_s=0.3)
    assert time.monotonic() - began < 2


async def test_compressed_content_is_not_unpacked(site: Web, client: HttpClient) -> None:
    async def bomb(exchange: Exchange) -> None:
        await exchange.answer(b"x", headers="Content-Encoding: gzip\r\n")

    site.handlers["/a"] = bomb
    assert "compressed" in await refused(client, site.url("/a"))


async def test_what_is_no_http_is_a_failure(site: Web, client: HttpClient) -> None:
    async def babble(exchange: Exchange) -> None:
        exchange.writer.write(b"220 mail.example.org ESMTP\r\n")

    site.handlers["/a"] = babble
    await refused(client, site.url("/a"))


def _redirect(target: str) -> Handler:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(b"", status="302 Found", headers=f"Location: {target}\r\n")

    return answer
