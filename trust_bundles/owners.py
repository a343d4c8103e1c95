"""Who may own trust: a health domain, or one Direct address of it.

Pure.
"""

from __future__ import annotations

from certs.address import parse_address, parse_domain

__all__ = ["owner_of"]


def owner_of(domain_or_address: str) -> str:
    """Return the domain name or the address key that rows of trust are kept under.

    Raises:
        DirectError: ADDRESS_MALFORMED.
    """
    if "@" in domain_or_address:
        return parse_address(domain_or_address).key
    return parse_domain(domain_or_address)
