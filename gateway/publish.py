"""What a Direct domain publishes so that others find its certificates: zone, LDIF, DNS update.

Pure.

Standards:
    RFC4398 sections 2 and 3.2 (CERT), RFC1035 section 5 (master files)
    RFC2136 (dynamic update)
    RFC2849 (LDIF), RFC4514 (distinguished names), RFC2798 (inetOrgPerson)
    CD-029, CD-051 (what a publisher must do)
"""

from __future__ import annotations

import base64
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import dns.name
import dns.rdata
import dns.update
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from dns.rdataclass import IN
from dns.rdatatype import RdataType

from certs.address import DirectAddress
from certs.dns_cert import PKIX, address_name
from certs.errors import DirectError, Reason
from certs.ldap_cert import ATTRIBUTES

__all__ = ["LdapService", "Publication", "ldif", "nsupdate_script", "update_message", "zone_text"]

LDIF_COLUMNS: Final = 76
BASE64_COLUMNS: Final = 64
ATTRIBUTE: Final = ATTRIBUTES[0]

_PLAIN: Final = frozenset(string.ascii_letters + string.digits + "-_")


@dataclass(frozen=True, slots=True)
class LdapService:
    """An LDAP server to announce: the smallest priority is asked first, then the heaviest."""

    host: str
    port: int = 389
    priority: int = 0
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Publication:
    """Everything to publish for one domain; only certificates that are valid now belong in it.

    `certificates` are by subject: an address, or the domain itself as text. `mail_hosts` are the
    MX hosts, best first. `ttl_s` is in seconds.
    """

    domain: str
    certificates: Sequence[tuple[DirectAddress | str, x509.Certificate]]
    mail_hosts: Sequence[str] = ()
    ldap: Sequence[LdapService] = ()
    ttl_s: int = 3600


def zone_text(publication: Publication) -> str:
    """Return the records as a master file's lines, for BIND, Knot, NSD and others to include.

    Raises:
        DirectError: CONFIGURATION_INVALID; an address has no DNS name.
    """
    lines = []
    for name, kind, rdata in _records(publication):
        fields = rdata.split(" ")
        # A certificate is broken into lines within parentheses (RFC1035 5.1).
        if kind is RdataType.CERT:
            chunks = "\n    ".join(re.findall(f".{{1,{BASE64_COLUMNS}}}", fields[-1]))
            fields[-1] = f"(\n    {chunks} )"
        lines.append(f"{_text(name)} {publication.ttl_s} IN {kind.name} {' '.join(fields)}")
    return "\n".join(lines) + "\n"


def nsupdate_script(publication: Publication) -> str:
    """Return input for `nsupdate` that puts the records in the place of the old ones.

    Raises:
        DirectError: CONFIGURATION_INVALID; an address has no DNS name.
    """
    lines = [f"zone {publication.domain}."]
    records = list(_records(publication))
    lines += [f"update delete {_text(name)} {kind.name}" for name, kind in _sets(records)]
    lines += [
        f"update add {_text(name)} {publication.ttl_s} {kind.name} {rdata}"
        for name, kind, rdata in records
    ]
    return "\n".join([*lines, "send"]) + "\n"


def update_message(publication: Publication) -> dns.update.UpdateMessage:
    """Return the same as an RFC2136 message, to be signed by TSIG and sent.

    Raises:
        DirectError: CONFIGURATION_INVALID; an address has no DNS name.
    """
    message = dns.update.UpdateMessage(dns.name.from_text(publication.domain))
    records = list(_records(publication))
    for name, kind in _sets(records):
        message.delete(name, kind)
    for name, kind, rdata in records:
        message.add(name, publication.ttl_s, dns.rdata.from_text(IN, kind, rdata))
    return message


def ldif(publication: Publication, *, suffix: str) -> str:
    """Return one inetOrgPerson for each subject, below `suffix`, which is there already."""
    by_subject: dict[str, list[x509.Certificate]] = {}
    for subject, certificate in publication.certificates:
        by_subject.setdefault(str(subject), []).append(certificate)
    blocks = []
    for subject, certificates in by_subject.items():
        lines = [
            _line("dn", f"cn={_escaped(subject)},{suffix}"),
            "objectClass: inetOrgPerson",
            _line("cn", subject),
            _line("sn", subject),
            _line("mail", subject),
        ]
        lines += [_binary(ATTRIBUTE, _der(certificate)) for certificate in certificates]
        blocks.append("\n".join(lines))
    # RFC2849 wants "version: 1" at the head. slapadd refuses it and nobody misses it, so it is not
    # written.
    return "\n\n".join(blocks) + "\n"


def _records(publication: Publication) -> Iterator[tuple[dns.name.Name, RdataType, str]]:
    domain = dns.name.from_text(publication.domain)
    for subject, certificate in publication.certificates:
        owner = _owner(subject)
        # CD-023: key tag and algorithm mean nothing here; both are nought.
        encoded = base64.b64encode(_der(certificate)).decode("ascii")
        yield owner, RdataType.CERT, f"{PKIX} 0 0 {encoded}"
    for preference, host in enumerate(publication.mail_hosts):
        yield domain, RdataType.MX, f"{preference * 10} {host}."
    for server in publication.ldap:
        service = dns.name.from_text(f"_ldap._tcp.{publication.domain}")
        rdata = f"{server.priority} {server.weight} {server.port} {server.host}."
        yield service, RdataType.SRV, rdata


def _sets(
    records: Sequence[tuple[dns.name.Name, RdataType, str]],
) -> Sequence[tuple[dns.name.Name, RdataType]]:
    return list(dict.fromkeys((name, kind) for name, kind, _ in records))


def _owner(subject: DirectAddress | str) -> dns.name.Name:
    if isinstance(subject, str):
        return dns.name.from_text(subject)
    name = address_name(subject)
    if name is None:
        raise DirectError(Reason.CONFIGURATION_INVALID, f"{subject} has no DNS name; use LDAP")
    return name


def _text(name: dns.name.Name) -> str:
    # RFC1035 5.1 lets any octet be written as \DDD. Knot refuses "+" and more unless they are.
    labels = (
        "".join(chr(o) if chr(o) in _PLAIN else f"\\{o:03}" for o in label) for label in name.labels
    )
    return ".".join(labels)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _escaped(value: str) -> str:
    # RFC4514 2.4; addresses hold no space at either end.
    return re.sub(r'([,+"\\<>;=#])', r"\\\1", value)


def _line(name: str, value: str) -> str:
    return _folded(f"{name}: {value}")


def _binary(name: str, value: bytes) -> str:
    return _folded(f"{name}:: {base64.b64encode(value).decode('ascii')}")


def _folded(line: str) -> str:
    # RFC2849 note 2: a line goes on in the next, after one space.
    first, rest = line[:LDIF_COLUMNS], line[LDIF_COLUMNS:]
    return "\n ".join([first, *re.findall(f".{{1,{LDIF_COLUMNS - 1}}}", rest)])
