"""Call a subscriber's hook over HTTP.

Talks to the hosts that the operator allows. A name is resolved first and connected to by number,
so that it cannot lead into a private network, unless the operator wrote a number or said so; no
redirect is followed, and nothing of the answer but its status is looked at.

Standards:
    RFC9110 section 15
    fhir.md section 4.4
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection, Sequence
from ipaddress import ip_address
from typing import Final

import httpx

from certs.http_client import Resolver
from certs.targets import may_connect
from fhir_bridge.endpoints import Endpoint, endpoint_of
from fhir_bridge.hook_calls import Hook

__all__ = ["Hooks", "SystemResolver"]

DEADLINE_S: Final = 15.0  # for one call
CONNECTIONS: Final = 100


class SystemResolver:
    """Resolves as the system does, to addresses that may be connected to."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    async def addresses(self, host: str) -> Sequence[str]:
        """Return the IP addresses, or none."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return ()
        addresses = dict.fromkeys(str(item[4][0]) for item in found)
        return [a for a in addresses if may_connect(a, allow_private=self._allow_private)]


class Hooks:
    """Calls hooks. Close it with `aclose`."""

    def __init__(
        self,
        *,
        hosts: Collection[str],
        resolver: Resolver,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.hosts = hosts
        self._resolver = resolver
        # No connection is used twice: they are known by address, and the TLS name that one was
        # checked for need not be the next one's.
        self._http = httpx.AsyncClient(
            timeout=DEADLINE_S,
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def call(self, hook: Hook) -> str | None:
        """Make the call; return what went wrong in words that hold nothing of the peer's."""
        endpoint = endpoint_of(hook.url, self.hosts)
        if endpoint is None:
            return "The operator does not allow this endpoint."
        address = await self._address_of(endpoint)
        if address is None:
            return "The host has no address that may be connected to."
        try:
            async with asyncio.timeout(DEADLINE_S):
                status = await self._status(hook, endpoint, address)
        except TimeoutError:
            return "TimeoutError"
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            return type(error).__name__
        return None if httpx.codes.is_success(status) else f"HTTP {status}"

    async def _address_of(self, endpoint: Endpoint) -> str | None:
        try:
            return str(ip_address(endpoint.host))  # the operator wrote this number
        except ValueError:
            addresses = await self._resolver.addresses(endpoint.host)
        return addresses[0] if addresses else None

    async def _status(self, hook: Hook, endpoint: Endpoint, address: str) -> int:
        url = httpx.URL(hook.url)
        headers = {"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity"}
        request = self._http.build_request(
            hook.method,
            url.copy_with(host=address),
            content=hook.body,
            headers=[*headers.items(), *hook.headers],
            extensions={"sni_hostname": endpoint.host},
        )
        answer = await self._http.send(request, stream=True)
        try:
            return answer.status_code
        finally:
            await answer.aclose()
