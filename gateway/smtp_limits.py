"""What one client may ask of an SMTP listener: sizes, counts and times.

Pure; time is an argument in seconds of a monotonic clock.

Standards:
    RFC5321 sections 4.5.3.1 (sizes) and 4.5.3.2 (time-outs)
    RFC4954 section 4 (length of authentication exchanges)
    RFC4291 section 2.5.5.2 (IPv4-mapped addresses)
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from gateway.status import Reply

__all__ = ["AUTH_LINE_OCTETS", "Census", "Limits", "Pace", "client_key", "plain_address"]

# RFC4954 4: 12,288 octets are enough for every deployed mechanism.
AUTH_LINE_OCTETS: Final = 12_288
# An IPv6 /48, of which one client may have every /64, counts as so many clients.
SITE_CLIENTS: Final = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one listener; the defaults are those of large mail servers.

    Attributes:
        size_octets: largest message, announced with SIZE.
        line_octets: longest command line (RFC5321 4.5.3.1.4 asks for 512 and extensions).
        recipients: of one message; RFC5321 4.5.3.1.8 asks for at least 100.
        messages: of one connection.
        errors: 4xx and 5xx replies before the connection is closed.
        idle_commands: commands that bring no message further (NOOP, RSET, VRFY, EHLO once more)
            before the connection is closed; each message accepted begins the count anew.
        auth_failures: failed authentications before the connection is closed.
        auth_failures_per_ip: failed authentications of one client in `auth_window_s` before
            it is put off without being asked.
        auth_failures_per_user: failed authentications as one user, from anywhere, before each
            further try waits `auth_delay_s`. It is not refused: the right user may be the next.
        connections: open at once.
        connections_per_ip: open at once from one client (IPv6: from one /64, and twice as many
            from one /48).
        connections_per_minute: new from one client.
        crowd: the share of `connections` from which on nobody may dawdle: then `crowd_idle_s` and
            `crowd_idle_commands` hold instead of `idle_s`, for commands, and `idle_commands`.
        idle_s: wait for the next command or block (RFC5321 4.5.3.2.7: at least 5 minutes).
        handshake_s: a whole TLS handshake, and a PROXY header.
        session_s: a whole connection; it ends at the next command after this.
        data_s: the content of one message.
        data_grace_s: how long content may come at any pace.
        data_octets_per_s: pace of the content after that, on average.
    """

    size_octets: int = 50 * 1024 * 1024
    line_octets: int = 2048
    recipients: int = 100
    messages: int = 100
    errors: int = 20
    idle_commands: int = 100
    auth_failures: int = 3
    auth_failures_per_ip: int = 20
    auth_failures_per_user: int = 50
    auth_delay_s: float = 5.0
    auth_window_s: float = 600.0
    connections: int = 100
    connections_per_ip: int = 20
    connections_per_minute: int = 300
    crowd: float = 0.8
    crowd_idle_s: float = 15.0
    crowd_idle_commands: int = 5
    idle_s: float = 300.0
    handshake_s: float = 30.0
    session_s: float = 3600.0
    data_s: float = 600.0
    data_grace_s: float = 60.0
    data_octets_per_s: int = 1024

    def shared_by(self, processes: int) -> Limits:
        """Return the limits of each of so many processes, of those that are simple to share.

        Who guesses passwords comes to whichever is free. Connections stay each process's own: they
        come to few of them, and an honest peer's would be refused by one while others have room.
        """
        return replace(
            self,
            auth_failures_per_ip=max(1, self.auth_failures_per_ip // processes),
            auth_failures_per_user=max(1, self.auth_failures_per_user // processes),
        )


class Pace:
    """The moving deadline of a message's content: an average rate and a total."""

    def __init__(self, limits: Limits, started_s: float) -> None:
        self._limits = limits
        self._started_s = started_s

    def wait_s(self, octets: int, now_s: float) -> float:
        """Return how long to wait for more after `octets`; 0 or less where time is over."""
        earned_s = octets / self._limits.data_octets_per_s
        allowed_s = min(self._limits.data_s, self._limits.data_grace_s + earned_s)
        return min(self._limits.idle_s, self._started_s + allowed_s - now_s)


class Census:
    """Who is connected, who connects too often, and who fails to authenticate too often."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: Counter[str] = Counter()
        self._sites: Counter[str] = Counter()
        self._arrivals = _Window(60.0)
        self._failures = _Window(limits.auth_window_s)
        self._tries = _Window(limits.auth_window_s)

    @property
    def crowded(self) -> bool:
        """Are so many connected that who does nothing has to make room?"""
        return self._open.total() >= self._limits.crowd * self._limits.connections

    def admit(self, peer: str, now_s: float) -> Reply | None:
        """Count `peer` in and return None, or return why it may not come in."""
        client, site = client_key(peer), _site(peer)
        if self._open.total() >= self._limits.connections:
            return Reply(421, "4.3.2", "Too many connections, try again later")
        if (
            self._open[client] >= self._limits.connections_per_ip
            or self._sites[site] >= self._limits.connections_per_ip * SITE_CLIENTS
            or self._arrivals.add(client, now_s) > self._limits.connections_per_minute
        ):
            return Reply(421, "4.7.0", "Too many connections from your address")
        self._open[client] += 1
        self._sites[site] += 1
        return None

    def leave(self, peer: str) -> None:
        """Count `peer`, which was admitted, out."""
        for counts, key in ((self._open, client_key(peer)), (self._sites, _site(peer))):
            counts[key] -= 1
            if not counts[key]:
                del counts[key]

    def is_put_off(self, peer: str, now_s: float) -> bool:
        """Say whether `peer` has failed so often that its next try is not even looked at."""
        failures = self._failures.count(client_key(peer), now_s)
        return failures >= self._limits.auth_failures_per_ip

    def delay_s(self, user: str, now_s: float) -> float:
        """Count a try at this user's password, and return how long it has to wait."""
        tries = self._tries.add(_user(user), now_s)
        return self._limits.auth_delay_s if tries > self._limits.auth_failures_per_user else 0.0

    def tried(self, peer: str, user: str, now_s: float, *, right: bool) -> None:
        """Record what became of a try."""
        if right:
            self._tries.take(_user(user), now_s)
        else:
            self._failures.add(client_key(peer), now_s)


class _Window:
    """Counts by key in consecutive windows of `length_s`, forgetting all at the end of each."""

    def __init__(self, length_s: float) -> None:
        self._length_s = length_s
        self._ends_s = 0.0
        self._counts: Counter[str] = Counter()

    def add(self, key: str, now_s: float) -> int:
        self._roll(now_s)
        self._counts[key] += 1
        return self._counts[key]

    def take(self, key: str, now_s: float) -> None:
        self._roll(now_s)
        if self._counts[key] > 0:
            self._counts[key] -= 1

    def count(self, key: str, now_s: float) -> int:
        self._roll(now_s)
        return self._counts[key]

    def _roll(self, now_s: float) -> None:
        if now_s >= self._ends_s:
            self._ends_s = now_s + self._length_s
            self._counts.clear()


def client_key(peer: str) -> str:
    """Return the key one client is counted by: whoever has an IPv6 address has its /64."""
    return _network(peer, 64)


def _site(peer: str) -> str:
    """Return the key of all that one client may have: a whole /48 is not hard to come by."""
    return _network(peer, 48)


def _network(peer: str, ipv6_bits: int) -> str:
    try:
        address = plain_address(peer)
    except ValueError:
        return peer
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, ipv6_bits), strict=False))
    return str(address)


def plain_address(peer: str) -> IPv4Address | IPv6Address:
    """Return the address, where it is an IPv4 address in IPv6 (RFC4291 2.5.5.2) that one.

    Raises:
        ValueError: it is none.
    """
    address = ip_address(peer)
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _user(name: str) -> str:
    # What is counted is kept, and a name may have the length of a line.
    return hashlib.sha256(name.casefold().encode()).hexdigest()
