"""Zones in text, for real name servers and for our own responder."""

from __future__ import annotations

import base64
from collections.abc import Iterable

import dns.name
import dns.zone
from cryptography import x509

from tests.helpers.pki import der

__all__ = ["cert_record", "cname_record", "srv_record", "zone_of", "zone_text"]


def zone_text(origin: str, records: Iterable[str], *, ttl_s: int = 300) -> str:
    """A zone file: SOA, NS, and the records as they are."""
    head = [
        f"$ORIGIN {origin}.",
        f"$TTL {ttl_s}",
        "@ IN SOA ns1 hostmaster 1 3600 600 86400 60",
        "@ IN NS ns1",
        "ns1 IN A 127.0.0.1",
    ]
    return "\n".join([*head, *records]) + "\n"


def zone_of(
    origin: str, records: Iterable[str], *, ttl_s: int = 300
) -> dict[dns.name.Name, dns.zone.Zone]:
    """The same as dnspython's zone, under its name."""
    zone = dns.zone.from_text(zone_text(origin, records, ttl_s=ttl_s), relativize=False)
    assert zone.origin is not None
    return {zone.origin: zone}


def cert_record(
    owner: str, certificate: x509.Certificate | bytes, *, kind: int = 1, tag: int = 0
) -> str:
    """A CERT record; PKIX unless `kind` says otherwise."""
    data = certificate if isinstance(certificate, bytes) else der(certificate)
    return f"{owner} IN CERT {kind} {tag} 8 {base64.b64encode(data).decode()}"


def srv_record(target: str, port: int, *, priority: int = 0, weight: int = 0) -> str:
    """The SRV record of an LDAP server."""
    return f"_ldap._tcp IN SRV {priority} {weight} {port} {target}"


def cname_record(owner: str, target: str) -> str:
    """An alias."""
    return f"{owner} IN CNAME {target}"
