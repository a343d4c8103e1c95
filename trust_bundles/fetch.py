"""Fetch a trust bundle: a conditional GET over verified TLS, within limits.

Talks to the HTTPS server that the administrator named, and to those it redirects to. The server
is checked against the web's CAs or the administrator's own, never against Direct anchors. It may
be in anybody's hands, so a redirect must not lead into our own network (T-43).

Standards:
    TBIG    Direct Trust Bundle Implementation Guide v1.0, section 3 (TB-006, TB-007, T-08)
    RFC9110 sections 8.8 (validators), 13.1 (conditional requests) and 15.4 (redirects)
"""

from __future__ import annotations

import asyncio
import ssl
from time import monotonic
from typing import Final
from urllib.parse import urljoin

import httpx

from certs.errors import DirectError
from certs.http_client import Resolver
from trust_bundles.bundle import BUNDLE_OCTETS
from trust_bundles.outcome import Fetched, Validators
from trust_bundles.status import BundleError, Status

__all__ = ["BundleClient"]

DEADLINE_S: Final = 60.0  # for everything, however slowly the octets come
CONNECT_S: Final = 10.0
REDIRECTS: Final = 3
CONTEXTS: Final = 64  # kept
CONTEXT_S: Final = 600.0
VALIDATOR_CHARACTERS: Final = 256
_NOT_FOUND: Final = frozenset({httpx.codes.NOT_FOUND, httpx.codes.GONE})
_ACCEPT: Final = "application/x-pkcs7-certificates, application/pkcs7-mime, */*;q=0.1"


class BundleClient:
    """Fetches bundles. `deadline_s` is in seconds, for one bundle with all its redirects."""

    def __init__(self, *, resolver: Resolver, deadline_s: float = DEADLINE_S) -> None:
        self._resolver = resolver
        self._deadline_s = deadline_s
        self._contexts: dict[str | None, tuple[ssl.SSLContext, float]] = {}

    async def fetch(self, url: str, known: Validators, tls_ca: str | None) -> Fetched:
        """Return what is at `url` now, or that it is what `known` names.

        Raises:
            BundleError: NOT_FOUND, DOWNLOAD_TIMEOUT, TLS_FAILED, UNREACHABLE, TOO_BIG.
        """
        try:
            context = await asyncio.to_thread(self._context, tls_ca)
            async with asyncio.timeout(self._deadline_s):
                # Nothing is shared between bundles: neither connections nor cookies.
                async with httpx.AsyncClient(
                    verify=context,
                    timeout=httpx.Timeout(self._deadline_s, connect=CONNECT_S),
                    trust_env=False,
                ) as client:
                    return await self._follow(client, url, known)
        except (TimeoutError, httpx.TimeoutException):
            raise BundleError(Status.DOWNLOAD_TIMEOUT, "no answer in time") from None
        # ValueError: what a hostile Location can be beside an invalid URL.
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, ValueError) as error:
            raise _failed(error) from None

    def _context(self, tls_ca: str | None) -> ssl.SSLContext:
        # To load the web's CAs takes 20 ms; they change with the system's updates.
        context, made_s = self._contexts.get(tls_ca, (None, 0.0))
        if context is None or monotonic() - made_s > CONTEXT_S:
            context = ssl.create_default_context(cadata=tls_ca)
            self._contexts = {
                **(self._contexts if len(self._contexts) < CONTEXTS else {}),
                tls_ca: (context, monotonic()),
            }
        return context

    async def _follow(self, client: httpx.AsyncClient, url: str, known: Validators) -> Fetched:
        named = httpx.URL(url).host
        for _ in range(REDIRECTS + 1):
            answer = await self._one(client, httpx.URL(url), named, known)
            if isinstance(answer, Fetched):
                return answer
            url = urljoin(url, answer)
            if httpx.URL(url).scheme != "https":
                raise BundleError(Status.UNREACHABLE, "redirected out of https")
        raise BundleError(Status.UNREACHABLE, "redirected too often")

    async def _one(
        self, client: httpx.AsyncClient, url: httpx.URL, named: str, known: Validators
    ) -> Fetched | str:
        """Return the answer of one server, or the location it sends us to."""
        headers = {
            "Accept": _ACCEPT,
            "Accept-Encoding": "identity",
            "Host": url.netloc.decode("ascii"),
            **known.headers,
        }
        extensions = {"sni_hostname": url.host}
        if url.host != named:
            url = url.copy_with(host=await self._public_address(url.host))
        request = client.build_request("GET", url, headers=headers, extensions=extensions)
        answer = await client.send(request, stream=True)
        try:
            if answer.has_redirect_location:
                return answer.headers["Location"]
            if answer.status_code == httpx.codes.NOT_MODIFIED and known.headers:
                return Fetched(None, known)
            if answer.status_code in _NOT_FOUND:
                raise BundleError(Status.NOT_FOUND, f"HTTP {answer.status_code}")
            if answer.status_code != httpx.codes.OK:
                raise BundleError(Status.UNREACHABLE, f"HTTP {answer.status_code}")
            return Fetched(await _body(answer), _validators(answer.headers))
        finally:
            await answer.aclose()

    async def _public_address(self, host: str) -> str:
        # The first host was the administrator's word; this one is the server's.
        try:
            addresses = await self._resolver.addresses(host)
        except DirectError as error:
            raise BundleError(Status.UNREACHABLE, f"redirected: {error.detail}") from None
        if not addresses:
            raise BundleError(Status.UNREACHABLE, "redirected to an address not allowed")
        return addresses[0]


async def _body(answer: httpx.Response) -> bytes:
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise BundleError(Status.UNREACHABLE, "content is compressed unasked")
    content = bytearray()
    async for chunk in answer.aiter_raw():
        content += chunk
        if len(content) > BUNDLE_OCTETS:
            raise BundleError(Status.TOO_BIG, f"over {BUNDLE_OCTETS} octets")
    return bytes(content)


def _validators(headers: httpx.Headers) -> Validators:
    return Validators(_short(headers.get("ETag")), _short(headers.get("Last-Modified")))


def _short(value: str | None) -> str | None:
    # It is kept and sent back: only what a header may hold, and little of it.
    fits = value is not None and len(value) <= VALIDATOR_CHARACTERS and value.isascii()
    return value if fits and value is not None and value.isprintable() else None


def _failed(error: Exception) -> BundleError:
    """Return the status for what the client raised; TLS failures hide below the transport's."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return BundleError(Status.TLS_FAILED, cause.verify_message)
        if isinstance(cause, ssl.SSLError):
            return BundleError(Status.TLS_FAILED, cause.reason or "TLS failed")
        cause = cause.__cause__ or cause.__context__
    return BundleError(Status.UNREACHABLE, type(error).__name__)
