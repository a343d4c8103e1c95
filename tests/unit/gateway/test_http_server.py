from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from certs.errors import DirectError, Reason
from gateway.http_server import HttpServer
from tests.helpers.tls import server_context

GRACE_S = 5.0


class Pages:
    """One page that answers at once, and one that answers when it is let go."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/", self._now), Route("/slow", self._slow)])

    async def _now(self, _: Request) -> PlainTextResponse:
        return PlainTextResponse("now")

    async def _slow(self, _: Request) -> PlainTextResponse:
        self.asked.set()
        await self.go.wait()
        return PlainTextResponse("slow")


async def test_requests_are_answered_from_start_to_stop() -> None:
    server = HttpServer(tls=None)
    host, port = server.bind("127.0.0.1", 0)
    await server.start(Pages().app())
    async with httpx.AsyncClient() as http:
        response = await http.get(f"http://{host}:{port}/")
        assert response.text == "now"
        assert "server" not in response.headers
    await server.stop(GRACE_S)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)


async def test_request_in_progress_ends_before_the_server_does() -> None:
    pages, server = Pages(), HttpServer(tls=None)
    host, port = server.bind("127.0.0.1", 0)
    await server.start(pages.app())
    async with httpx.AsyncClient() as http:
        request = asyncio.create_task(http.get(f"http://{host}:{port}/slow"))
        await pages.asked.wait()
        stopping = asyncio.create_task(server.stop(GRACE_S))
        pages.go.set()
        assert (await request).text == "slow"
        await stopping


async def test_request_that_does_not_end_is_cut_off_after_the_grace_period() -> None:
    pages, server = Pages(), HttpServer(tls=None)
    host, port = server.bind("127.0.0.1", 0)
    await server.start(pages.app())
    async with httpx.AsyncClient() as http:
        request = asyncio.create_task(http.get(f"http://{host}:{port}/slow"))
        await pages.asked.wait()
        async with asyncio.timeout(GRACE_S):
            await server.stop(0.1)
        request.cancel()
    pages.go.set()


async def test_tls_is_spoken_where_there_is_a_certificate() -> None:
    server = HttpServer(tls=server_context("localhost"))
    host, port = server.bind("127.0.0.1", 0)
    await server.start(Pages().app())
    async with httpx.AsyncClient(verify=False) as http:
        assert (await http.get(f"https://{host}:{port}/")).text == "now"
    await server.stop(GRACE_S)


def test_address_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(DirectError) as caught:
        HttpServer(tls=None).bind("127.0.0.1", taken.getsockname()[1])
    assert caught.value.reason is Reason.CONFIGURATION_INVALID


async def test_address_is_taken_before_the_start() -> None:
    with pytest.raises(DirectError) as caught:
        await HttpServer(tls=None).start(Pages().app())
    assert caught.value.reason is Reason.INTERNAL


async def test_server_that_cannot_start_says_so() -> None:
    server = HttpServer(tls=None)
    server.bind("127.0.0.1", 0)
    await server.stop(GRACE_S)  # closes the socket
    with pytest.raises(DirectError) as caught:
        async with asyncio.timeout(GRACE_S):
            await server.start(Pages().app())
    assert caught.value.reason is Reason.INTERNAL
    await server.stop(GRACE_S)


async def test_server_that_never_started_gives_its_address_back() -> None:
    server = HttpServer(tls=None)
    host, port = server.bind("::1", 0)
    await server.stop(GRACE_S)
    with socket.create_server((host, port), family=socket.AF_INET6):
        pass
    await HttpServer(tls=None).stop(GRACE_S)
