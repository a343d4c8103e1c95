"""Does the world see of a domain what it should see? Wanted against found, row by row.

Pure: `gateway.domain_view` gathers what is seen.

Standards:
    CD-029, CD-051 and cases H1 to H4 of requirements 7.4 (what a publisher must do)
    RFC5321 section 5.1 (MX), RFC3207 (STARTTLS), RFC6125 (names in certificates)
    RFC8461 (MTA-STS), RFC8460 section 3 (TLS-RPT)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from gateway.mta_sts import Mode, StsPolicy

__all__ = ["Finding", "Seen", "Status", "Sts", "Tls", "View", "Wanted", "examine"]

NONE: Final = "none"


class Status(Enum):
    """What a row says. ABSENT is something good to have that nobody must."""

    OK = "ok"
    WRONG = "wrong"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Finding:
    """One row: what was looked for at `name`, what should be there, and what is."""

    check: str
    name: str
    wanted: str
    found: str
    status: Status


@dataclass(frozen=True, slots=True)
class Wanted:
    """What our side says of the domain.

    `certificates` are digests by subject, which is an address or the domain itself. A subject with
    none is an address that the domain's certificates serve. `mail_hosts` and `ldap` ("host:port")
    are in order; `ldap` empty: whatever is announced may be, and is looked into.
    """

    domain: str
    certificates: Mapping[str, frozenset[str]]
    mail_hosts: Sequence[str]
    ldap: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer: its values, in order, or why there is none."""

    values: tuple[str, ...] = ()
    failure: str | None = None

    def __str__(self) -> str:
        return f"failed: {self.failure}" if self.failure else _listed(self.values)


@dataclass(frozen=True, slots=True)
class Tls:
    """What an SMTP server at one address shows. `version` None: it offers no STARTTLS.

    `verified` says that the certificate is the host's by one of the system's CAs.
    """

    address: str
    version: str | None = None
    names: tuple[str, ...] = ()
    expires: datetime | None = None
    verified: bool = False
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Sts:
    """What is seen of MTA-STS. `announced` says that there is a TXT record."""

    announced: bool = False
    policy: StsPolicy | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """All that was seen of a domain.

    `certificates` are digests by subject, from the resolver; `by_tcp` the same from each name
    server, by subject and server; `entries` from each LDAP server, by subject and server.
    """

    certificates: Mapping[str, Seen]
    by_tcp: Mapping[tuple[str, str], Seen]
    mail_hosts: Seen
    tls: Mapping[str, Sequence[Tls]]
    ldap: Seen
    entries: Mapping[tuple[str, str], Seen]
    sts: Sts
    tls_report: Seen


def examine(wanted: Wanted, view: View, now: datetime) -> Sequence[Finding]:
    """Return a row for each thing that was looked at; none WRONG means that others find us."""
    return [
        *_in_dns(wanted, view),
        *_by_tcp(wanted, view),
        *_in_ldap(wanted, view),
        *_mail(wanted, view, now),
        *_policies(view),
    ]


def _in_dns(wanted: Wanted, view: View) -> Iterator[Finding]:
    for subject, seen in view.certificates.items():
        digests = _due_in_dns(subject, wanted, view)
        finding = _compared("CERT", subject, digests, seen)
        if not wanted.certificates[subject] and not wanted.certificates[wanted.domain]:
            # Nobody can write to an address that has no certificate, nor its domain.
            text = "a certificate of the address or its domain"
            finding = Finding("CERT", subject, text, finding.found, Status.WRONG)
        elif digests != wanted.certificates[subject]:
            finding = Finding("CERT", subject, "none, since LDAP has it", finding.found, Status.OK)
        yield finding


def _due_in_dns(subject: str, wanted: Wanted, view: View) -> frozenset[str]:
    """Return which certificates DNS must have: none where all is in LDAP instead."""
    digests = wanted.certificates[subject]
    # CD-002: LDAP is asked where neither the address nor the domain has anything in DNS.
    absent = all(
        seen.failure is None and not seen.values
        for seen in (view.certificates[subject], view.certificates[wanted.domain])
    )
    listed = any(
        who == subject and frozenset(seen.values) == digests
        for (who, _), seen in view.entries.items()
    )
    return frozenset() if absent and listed else digests


def _by_tcp(wanted: Wanted, view: View) -> Iterator[Finding]:
    for (subject, server), seen in view.by_tcp.items():
        digests = _due_in_dns(subject, wanted, view)
        yield _compared("CERT by TCP", f"{subject} at {server}", digests, seen)
    if not view.by_tcp:
        text = "name servers that answer"
        yield Finding("CERT by TCP", wanted.domain, text, NONE, Status.WRONG)


def _in_ldap(wanted: Wanted, view: View) -> Iterator[Finding]:
    seen = view.ldap
    text = _listed(wanted.ldap) if wanted.ldap else "LDAP servers, if you have any"
    if seen.failure is not None or (wanted.ldap and list(seen.values) != list(wanted.ldap)):
        status = Status.WRONG
    else:
        status = Status.OK if seen.values else Status.ABSENT
    yield Finding("SRV", f"_ldap._tcp.{wanted.domain}", text, str(seen), status)
    for (subject, server), entry in view.entries.items():
        yield _compared("LDAP", f"{subject} at {server}", wanted.certificates[subject], entry)


def _mail(wanted: Wanted, view: View, now: datetime) -> Iterator[Finding]:
    hosts = view.mail_hosts
    right = bool(hosts.values) and set(hosts.values) <= set(wanted.mail_hosts)
    status = Status.OK if right and not hosts.failure else Status.WRONG
    yield Finding("MX", wanted.domain, _listed(wanted.mail_hosts), str(hosts), status)
    for host, servers in view.tls.items():
        if not servers:
            yield Finding("TLS", host, "an address to connect to", NONE, Status.WRONG)
        for server in servers:
            yield _tls(host, server, view.sts.policy, now)


def _tls(host: str, server: Tls, policy: StsPolicy | None, now: datetime) -> Finding:
    demanded = policy is not None and policy.mode is not Mode.NONE
    text = f"STARTTLS, a certificate for {host}" + (" by a public CA" if demanded else "")
    expired = server.expires is not None and server.expires < now
    named = any(_matches(name, host) for name in server.names)
    good = server.version is not None and named and not expired
    if server.failure is not None:
        found = f"failed: {server.failure}"
    elif server.version is None:
        found = "no STARTTLS"
    else:
        found = f"{server.version}, a certificate for {_listed(server.names)}"
        found += ", expired" if expired else ""
        found += "" if server.verified else ", by no public CA"
    status = Status.OK if good and (server.verified or not demanded) else Status.WRONG
    return Finding("TLS", f"{host} at {server.address}", text, found, status)


def _policies(view: View) -> Iterator[Finding]:
    sts = view.sts
    hosts = view.mail_hosts.values
    text = "a policy that allows every MX host"
    if sts.failure is not None:
        yield Finding("MTA-STS", "policy", text, f"failed: {sts.failure}", Status.WRONG)
    elif sts.policy is None:
        status = Status.WRONG if sts.announced else Status.ABSENT
        yield Finding("MTA-STS", "policy", text, NONE, status)
    else:
        forbidden = [host for host in hosts if not sts.policy.allows(host)]
        strict = sts.policy.mode is not Mode.NONE
        found = f"{sts.policy.mode.value}: {_listed(sts.policy.hosts)}"
        status = Status.WRONG if strict and forbidden else Status.OK
        yield Finding("MTA-STS", "policy", text, found, status)
    reports = [value for value in view.tls_report.values if "rua=" in value]
    status = Status.OK if len(reports) == 1 else Status.ABSENT
    if view.tls_report.failure is not None or len(reports) > 1:
        status = Status.WRONG
    yield Finding("TLS-RPT", "record", "where to report failures", str(view.tls_report), status)


def _compared(check: str, name: str, wanted: frozenset[str], seen: Seen) -> Finding:
    """Compare digests: another's certificate is as wrong as a missing one (CD-029)."""
    status = Status.OK if not seen.failure and set(seen.values) == wanted else Status.WRONG
    found = str(seen) if seen.failure else _listed(sorted(v[:16] for v in seen.values))
    return Finding(check, name, _listed(sorted(digest[:16] for digest in wanted)), found, status)


def _matches(name: str, host: str) -> bool:
    # RFC6125 6.4.3: a wildcard is the whole leftmost label, and stands for one.
    name, host = name.lower().rstrip("."), host.lower().rstrip(".")
    return name == host or (name[:2] == "*." and name[2:] == host.partition(".")[2] != "")


def _listed(values: Sequence[str]) -> str:
    return ", ".join(values) or NONE
