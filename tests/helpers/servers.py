"""Real name and directory servers on loopback: Knot and slapd, on free ports, in their folders."""

from __future__ import annotations

import base64
import contextlib
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import dns.exception
import dns.message
import dns.query
from cryptography import x509

from tests.helpers.pki import der

__all__ = ["SUFFIX", "Entry", "answers_dns", "free_port", "knot", "running", "slapd"]

START_S: Final = 15.0
SUFFIX: Final = "ou=dcdt"
SCHEMA: Final = Path("/etc/ldap/schema")


@dataclass(frozen=True)
class Entry:
    """An inetOrgPerson: its name, `mail` and certificates, or whatever lies in their place."""

    name: str
    mail: str
    certificates: Sequence[x509.Certificate | bytes] = ()


def free_port() -> int:
    """A port that is free now, below those that the kernel gives out by itself.

    A port of the kernel's choice may be given to somebody else before the server takes it.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            return port


@contextmanager
def knot(
    folder: Path,
    zones: Mapping[str, str],
    *,
    extra: str = "",
    options: str = "    journal-content: none\n",
) -> Iterator[tuple[str, int]]:
    """Run Knot over zone texts by origin.

    `extra` is more of its configuration, `options` what it says of every zone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    for origin, text in zones.items():
        (folder / f"{origin}.zone").write_text(text)
    listed = "\n".join(f"  - domain: {origin}\n    file: {origin}.zone" for origin in zones)
    config = folder / "knot.conf"
    config.write_text(
        f"server:\n  listen: 127.0.0.1@{port}\n  rundir: {folder}\n"
        f"database:\n  storage: {folder}\n"
        f"{extra}\n"
        f"template:\n  - id: default\n    storage: {folder}\n"
        f"    zonefile-sync: -1\n{options}"
        f"zone:\n{listed}\n"
    )

    ready = partial(answers_dns, port, next(iter(zones)))
    with running(["/usr/sbin/knotd", "-c", str(config)], folder, ready):
        yield "127.0.0.1", port


@contextmanager
def slapd(
    folder: Path, entries: Sequence[Entry], *, port: int = 0, extra: str = "", ldif: str = ""
) -> Iterator[tuple[str, int]]:
    """Run slapd over the entries, in `ou=dcdt`; `extra` is more of its configuration.

    `ldif` is more entries, loaded after the others.

    Its rootDSE lists a second context that answers nobody, as some servers' own ones do.
    """
    (folder / "data").mkdir(parents=True)
    (folder / "closed").mkdir()
    port = port or free_port()
    config = folder / "slapd.conf"
    schemas = "\n".join(
        f"include {SCHEMA}/{name}.schema" for name in ("core", "cosine", "inetorgperson")
    )
    config.write_text(
        f"{schemas}\npidfile {folder}/pid\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n{extra}\n"
        f'database mdb\nsuffix "ou=closed"\nrootdn "cn=admin,ou=closed"\n'
        f"directory {folder}/closed\naccess to * by * none\n"
        f'database mdb\nsuffix "{SUFFIX}"\nrootdn "cn=admin,{SUFFIX}"\n'
        f"directory {folder}/data\nindex mail eq\naccess to * by * read\n"
    )
    for number, text in enumerate(filter(None, (_ldif(entries), ldif))):
        file = folder / f"data{number}.ldif"
        file.write_text(text)
        load = ["/usr/sbin/slapadd", "-q", "-f", str(config), "-b", SUFFIX, "-l", str(file)]
        subprocess.run(load, check=True, capture_output=True, timeout=START_S)

    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
        except OSError:
            return False
        return True

    run = ["/usr/sbin/slapd", "-f", str(config), "-h", f"ldap://127.0.0.1:{port}", "-d", "0"]
    with running(run, folder, answers):
        yield "127.0.0.1", port


def _ldif(entries: Sequence[Entry]) -> str:
    blocks = [f"dn: {SUFFIX}\nobjectClass: organizationalUnit\nou: dcdt\n"]
    for entry in entries:
        lines = [
            f"dn: cn={entry.name},{SUFFIX}",
            "objectClass: inetOrgPerson",
            f"cn: {entry.name}",
            f"sn: {entry.name}",
            f"mail: {entry.mail}",
        ]
        for certificate in entry.certificates:
            data = certificate if isinstance(certificate, bytes) else der(certificate)
            lines.append(f"userCertificate;binary:: {base64.b64encode(data).decode()}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def answers_dns(port: int, zone: str) -> bool:
    """Say whether a name server answers for this zone."""
    query = dns.message.make_query(zone, "SOA")
    try:
        return bool(dns.query.udp(query, "127.0.0.1", timeout=0.2, port=port).answer)
    except (dns.exception.DNSException, OSError):
        return False


@contextmanager
def running(command: list[str], folder: Path, answers: Callable[[], bool]) -> Iterator[None]:
    """Run a server until the block ends; it begins when the server answers."""
    log = (folder / "log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        end = time.monotonic() + START_S
        while not answers():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, f"{command[0]} does not answer"
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(START_S)
        log.close()
