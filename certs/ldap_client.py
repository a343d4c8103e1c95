"""One LDAP search for certificates on one server.

Talks to an LDAP server, anonymously. `ldap3` blocks, so a search runs in a thread of a small pool;
at its deadline the socket is shut, which ends the thread's wait at once.

Standards:
    CD      Certificate Discovery for Direct v4.1, section 2
    RFC4511 (LDAPv3), RFC4512 section 5.1 (rootDSE)
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from certs.errors import DirectError, Reason
from certs.ldap_cert import filter_for

if TYPE_CHECKING:
    from certs.ldap_search import LdapSearch

__all__ = ["LdapClient"]

SEARCH_S: Final = 10.0
THREADS: Final = 32
THREADS_PER_SERVER: Final = 4


class LdapClient:
    """A pool of threads for LDAP searches. Close it to end them.

    `search_s` is in seconds, for one search with its connection and all naming contexts.
    """

    def __init__(self, *, search_s: float = SEARCH_S) -> None:
        self._search_s = search_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ldap")
        self._gates: WeakValueDictionary[tuple[str, int], asyncio.Semaphore] = WeakValueDictionary()

    def close(self) -> None:
        """Let no more searches start; those that run end by their deadline."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def certificates(self, address: str, port: int, mail: str) -> tuple[bytes, ...]:
        """Return every userCertificate value of the entries whose `mail` it is, unparsed.

        `address` is an IP address that may be connected to.

        Raises:
            DirectError: DIRECTORY_UNAVAILABLE; not reachable, not in time, not LDAP, too much, or
                not open to everybody.
        """
        # A slow server may not take all threads: others are asked meanwhile.
        gate = self._gates.setdefault((address, port), asyncio.Semaphore(THREADS_PER_SERVER))
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._threads)
        search: LdapSearch | None = None
        try:
            async with asyncio.timeout(self._search_s), gate:
                search = await in_thread(_search_of, address, port, filter_for(mail))
                return await in_thread(search.run)
        except TimeoutError:
            raise DirectError(Reason.DIRECTORY_UNAVAILABLE, "LDAP: timed out") from None
        finally:
            if search is not None:
                search.abort()


def _search_of(address: str, port: int, wanted: str) -> LdapSearch:
    # Imported here, for it costs a tenth of a second: most verbs and many gateways ask no LDAP.
    from certs.ldap_search import LdapSearch

    return LdapSearch(address, port, wanted)
