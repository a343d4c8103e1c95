"""HTTP to places that strangers name: certificates, CRLs, OCSP, bundles.

Talks to http and https servers. Each host is resolved first and only addresses that may be
connected to are used, by number, so that a second look-up cannot lead elsewhere (T-43).

Standards:
    RFC9110 section 15.4 (redirects)
    RFC5280 section 8, RFC6960 appendix A (what may be fetched so)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol
from urllib.parse import urljoin

import httpx

from certs.errors import DirectError, Reason

__all__ = ["HttpClient", "Resolver"]

DEADLINE_S: Final = 15.0  # for one URL with all its redirects
CONNECT_S: Final = 5.0
OCTETS: Final = 5 * 1024 * 1024
REDIRECTS: Final = 3
CONNECTIONS: Final = 1000  # at once; each ends by its deadline


class Resolver(Protocol):
    """Resolves host names to addresses that may be connected to."""

    async def addresses(self, host: str) -> Sequence[str]:
        """Return the IP addresses, or none."""
        ...


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    url: httpx.URL
    content: bytes | None
    headers: dict[str, str]
    redirects: int = 0
    expects: str | None = None


class HttpClient:
    """Fetches within limits. Close it with `aclose`."""

    def __init__(self, *, resolver: Resolver) -> None:
        self._resolver = resolver
        # No connection is used twice: they are known by address, and the TLS name that one was
        # checked for need not be the next one's.
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(CONNECT_S),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=False,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def get(
        self,
        url: str,
        *,
        limit_octets: int = OCTETS,
        deadline_s: float = DEADLINE_S,
        failure: Reason = Reason.DIRECTORY_UNAVAILABLE,
        redirects: int = REDIRECTS,
        media_type: str | None = None,
    ) -> bytes:
        """Return the content at `url`, which must be of `media_type` where one is given.

        Raises:
            DirectError: `failure`; not reachable or not allowed to be, not in time, too big, too
                many redirects, one to another scheme than http(s) or down from https, any status
                but 200, or another media type.
        """
        request = _Request("GET", _parsed(url, failure), None, {}, redirects, media_type)
        return await self._fetch(request, limit_octets, deadline_s, failure)

    async def post(
        self,
        url: str,
        content: bytes,
        *,
        media_type: str,
        limit_octets: int = OCTETS,
        deadline_s: float = DEADLINE_S,
        failure: Reason = Reason.DIRECTORY_UNAVAILABLE,
    ) -> bytes:
        """Return the answer to `content`, as `get` does; no redirect is followed."""
        headers = {"Content-Type": media_type}
        request = _Request("POST", _parsed(url, failure), content, headers)
        return await self._fetch(request, limit_octets, deadline_s, failure)

    async def _fetch(
        self, request: _Request, limit_octets: int, deadline_s: float, failure: Reason
    ) -> bytes:
        try:
            async with asyncio.timeout(deadline_s):
                return await self._follow(request, limit_octets, failure)
        except TimeoutError:
            raise DirectError(failure, f"{request.url.host}: timed out") from None
        except (httpx.HTTPError, ValueError) as error:
            # A ValueError is about a URL or a name that the server sent us to.
            raise DirectError(failure, f"{request.url.host}: {type(error).__name__}") from None

    async def _follow(self, request: _Request, limit_octets: int, failure: Reason) -> bytes:
        for _ in range(request.redirects + 1):
            answer = await self._one(request, limit_octets, failure)
            if isinstance(answer, bytes):
                return answer
            request = replace(request, url=_redirected(request.url, answer, failure))
        raise DirectError(failure, f"{request.url.host}: redirected too often")

    async def _one(self, request: _Request, limit_octets: int, failure: Reason) -> bytes | str:
        """Return the content of one exchange, or the location it sends us to."""
        address = await self._address_of(request.url.host, failure)
        headers = {"Accept-Encoding": "identity", "Host": request.url.netloc.decode("ascii")}
        sent = self._client.build_request(
            request.method,
            request.url.copy_with(host=address),
            content=request.content,
            headers=headers | request.headers,
            extensions={"sni_hostname": request.url.host},
        )
        answer = await self._client.send(sent, stream=True)
        try:
            if answer.has_redirect_location:
                return urljoin(str(request.url), answer.headers["Location"])
            if answer.status_code != httpx.codes.OK:
                raise DirectError(failure, f"{request.url.host}: HTTP {answer.status_code}")
            if request.expects is not None and _media_type(answer) != request.expects:
                raise DirectError(failure, f"{request.url.host}: not {request.expects}")
            return await _body(answer, limit_octets, failure)
        finally:
            await answer.aclose()

    async def _address_of(self, host: str, failure: Reason) -> str:
        addresses = await self._resolver.addresses(host)
        if not addresses:
            raise DirectError(failure, f"{host}: no address that may be connected to")
        return addresses[0]


def _media_type(answer: httpx.Response) -> str:
    return str(answer.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


async def _body(answer: httpx.Response, limit_octets: int, failure: Reason) -> bytes:
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise DirectError(failure, "content is compressed unasked")
    content = bytearray()
    async for chunk in answer.aiter_raw():
        content += chunk
        if len(content) > limit_octets:
            raise DirectError(failure, f"content is over {limit_octets} octets")
    return bytes(content)


def _parsed(url: str, failure: Reason) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise DirectError(failure, "not a URL") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise DirectError(failure, f"URL may not be fetched: {parsed.scheme}")
    return parsed


def _redirected(old: httpx.URL, location: str, failure: Reason) -> httpx.URL:
    new = _parsed(location, failure)
    if old.scheme == "https" and new.scheme != "https":
        raise DirectError(failure, f"{old.host}: redirected out of https")
    return new
