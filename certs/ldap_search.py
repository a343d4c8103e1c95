"""What one LDAP server is asked about one address.

Talks to an LDAP server, anonymously, and blocks: `certs.ldap_client` runs it in a thread.

Standards:
    CD      Certificate Discovery for Direct v4.1, section 2
    RFC4511 (LDAPv3), RFC4512 section 5.1 (rootDSE)
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

import ldap3
from ldap3.core.exceptions import LDAPException

from certs.errors import DirectError, Reason
from certs.ldap_cert import ATTRIBUTES

__all__ = ["LdapSearch"]

Scope = Literal["BASE", "LEVEL", "SUBTREE"]

CONNECT_S: Final = 5
READ_S: Final = 5
ANSWER_OCTETS: Final = 2 * 1024 * 1024
ENTRIES: Final = 50
CONTEXTS: Final = 16
ATTRIBUTE: Final = "usercertificate"

# RFC4511 4.1.9: operationsError, timeLimitExceeded, busy, unavailable, other. Any other refusal,
# such as of access, is an answer that will be the same the next time.
_PASSING: Final = frozenset({1, 3, 51, 52, 80})


class LdapSearch:
    """One connection and what is asked over it; `run` in a thread, `abort` from any."""

    def __init__(self, address: str, port: int, wanted: str) -> None:
        self._wanted = wanted
        self._socket: _Metered | None = None
        self._refused: str | None = None
        # T-42: no schema and no rootDSE fetched on connecting; minimal servers fail on that.
        server = ldap3.Server(address, port, get_info=ldap3.NONE, connect_timeout=CONNECT_S)
        self._connection = ldap3.Connection(
            server,
            authentication=ldap3.ANONYMOUS,  # CD-045
            client_strategy=ldap3.SAFE_SYNC,
            receive_timeout=READ_S,
            auto_referrals=False,  # CD-050
            check_names=False,  # T-42: it knows no attribute options
            read_only=True,
        )

    def run(self) -> tuple[bytes, ...]:
        """Return the values.

        Raises:
            DirectError: DIRECTORY_UNAVAILABLE.
        """
        try:
            self._connection.open(read_server_info=False)
            self._socket = _Metered(self._connection.socket)
            self._connection.socket = self._socket
            values = tuple(self._values())
        # The library lets out its own errors and, on answers that are not LDAP, Python's.
        except (LDAPException, OSError, ValueError, TypeError, IndexError, KeyError) as error:
            raise _unavailable(type(error).__name__) from None
        finally:
            self.abort()
        # CD-006: nothing found where something was not answered is no absence.
        if self._refused is not None and not values:
            raise _unavailable(self._refused)
        return values

    def abort(self) -> None:
        """End the connection; a thread that waits on it wakes with an error."""
        if self._socket is not None:
            self._socket.shut()

    def _values(self) -> Iterator[bytes]:
        bound, result, *_ = self._connection.bind(read_server_info=False)
        if not bound:
            raise _unavailable(f"bind: {result['description']}")
        # CD-046: the rootDSE names the contexts; one that answers with an error is left out.
        for context in self._naming_contexts():
            for entry in self._search(context, self._wanted, "SUBTREE", ATTRIBUTES):
                for name, values in entry["raw_attributes"].items():
                    if name.lower().partition(";")[0] == ATTRIBUTE:
                        yield from values

    def _naming_contexts(self) -> list[str]:
        entries = self._search("", "(objectClass=*)", "BASE", ("namingContexts",))
        return [
            value.decode("utf-8")
            for entry in entries
            for values in entry["raw_attributes"].values()
            for value in values
        ][:CONTEXTS]

    def _search(
        self, base: str, wanted: str, scope: Scope, attributes: Sequence[str]
    ) -> list[dict[str, Any]]:
        _, result, response, _ = self._connection.search(
            base, wanted, scope, attributes=attributes, size_limit=ENTRIES, time_limit=READ_S
        )
        if result["result"] in _PASSING:
            self._refused = result["description"]
        return [entry for entry in response or () if entry["type"] == "searchResEntry"]


class _Metered:
    """A socket that breaks when the server has sent more than it may."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self._left = ANSWER_OCTETS

    def recv(self, size: int) -> bytes:
        data = self._inner.recv(size)
        self._left -= len(data)
        if self._left < 0:
            raise OSError("answer is too big")
        return data

    def shut(self) -> None:
        try:
            self._inner.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # It is closed already, or was never connected.
        finally:
            self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _unavailable(detail: str) -> DirectError:
    return DirectError(Reason.DIRECTORY_UNAVAILABLE, f"LDAP: {detail}")
