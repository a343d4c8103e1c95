"""Certificates in the DNS: owner names for an address, and CERT records to certificates.

Pure.

Standards:
    RFC4398 sections 2 (CERT) and 3.2 (owner names of mail addresses)
    RFC1035 section 2.3.4 (sizes), RFC4343 (case)
    AS      Applicability Statement for Secure Health Transport v1.3, chapter 5
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import dns.name
from cryptography import x509
from dns.rdata import Rdata
from dns.rdtypes.ANY.CERT import CERT

from certs.address import DirectAddress
from certs.cert_files import certificate_from

__all__ = ["Records", "address_name", "certificates_from", "domain_name", "read_records"]

# RFC4398 2.1. CD-025: every other type is skipped.
PKIX: Final = 1
IPKIX: Final = 4
RECORDS: Final = 50  # looked at in one set
URL_OCTETS: Final = 2048


@dataclass(frozen=True, slots=True)
class Records:
    """What a set of CERT records holds: certificates, and URLs of certificates (IPKIX)."""

    certificates: tuple[x509.Certificate, ...]
    urls: tuple[str, ...]


def address_name(address: DirectAddress) -> dns.name.Name | None:
    """Return the owner name of an address, or None where it is no DNS name (CD-021).

    Octets that no host name may have are legal in a label; too long ones are not.
    """
    # RFC4398 3.2: "@" in the address becomes "."; the dots of the local part separate labels.
    local_part = _unquoted(address.local_part).lower()
    labels = [label.encode("ascii") for label in local_part.split(".")]
    if not all(labels):
        return None
    try:
        return dns.name.Name([*labels, *domain_name(address).labels])
    except dns.exception.DNSException:
        return None


def domain_name(address: DirectAddress) -> dns.name.Name:
    """Return the owner name of exactly the address's health domain (CD-011)."""
    return dns.name.from_text(address.domain)


def read_records(rdatas: Iterable[Rdata]) -> Records:
    """Return what the records hold; those of other types and those that do not parse are skipped.

    CD-023: the key tag and algorithm fields are the publisher's business and not looked at.
    """
    certificates: list[x509.Certificate] = []
    urls: list[str] = []
    for rdata in list(rdatas)[:RECORDS]:
        match rdata:
            case CERT(certificate_type=type_, certificate=data) if type_ == PKIX:
                certificates += certificates_from([data])
            case CERT(certificate_type=type_, certificate=data) if type_ == IPKIX:
                urls += [data.decode("ascii")] if _is_url(data) else []
            case _:
                pass
    return Records(tuple(certificates), tuple(urls))


def certificates_from(encoded: Iterable[bytes]) -> list[x509.Certificate]:
    """Return the certificates among the values, each once; what does not parse is skipped."""
    certificates: dict[bytes, x509.Certificate] = {}
    for der in encoded:
        try:
            certificates[der] = certificate_from(der)
        except ValueError:
            continue
    return list(certificates.values())


def _unquoted(local_part: str) -> str:
    if not local_part.startswith('"'):
        return local_part
    return re.sub(r"\\(.)", r"\1", local_part[1:-1])


def _is_url(data: bytes) -> bool:
    return len(data) <= URL_OCTETS and re.fullmatch(rb"https?://[\x21-\x7e]+", data) is not None
