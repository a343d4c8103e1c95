"""Which network addresses may be connected to on somebody else's word.

Pure. SRV targets, CRL, OCSP, AIA and IPKIX locations are chosen by strangers, before anything is
trusted: they must not lead into our own network (T-43).

Standards:
    RFC6890 (special-purpose addresses)
    RFC4291 section 2.5.5.2, RFC6052 section 2.1, RFC3056 (IPv4 inside IPv6)
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

__all__ = ["may_connect"]

_NAT64: Final = IPv6Network("64:ff9b::/96")


def may_connect(address: str, *, allow_private: bool) -> bool:
    """Say whether `address`, an IP address as text, is public, or private ones are allowed."""
    try:
        ip = _innermost(ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    if ip.is_multicast or ip.is_unspecified:
        return False
    return allow_private or ip.is_global


def _innermost(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(ip, IPv4Address):
        return ip
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip
