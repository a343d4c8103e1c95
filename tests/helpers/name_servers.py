"""BIND, NSD and Unbound on loopback, on free ports, in their folders; Knot is in `servers`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.helpers.servers import answers_dns, free_port, running

__all__ = ["bind", "nsd", "unbound"]


@contextmanager
def bind(
    folder: Path, zones: Mapping[str, str], *, extra: str = "", options: str = ""
) -> Iterator[tuple[str, int]]:
    """Run BIND over zone texts by origin; `options` is what its configuration says of each zone."""
    port = free_port()
    _write(folder, zones)
    listed = "".join(
        f'zone "{origin}" {{ type primary; file "{origin}.zone"; {options} }};\n'
        for origin in zones
    )
    config = folder / "named.conf"
    config.write_text(
        f'options {{ directory "{folder}"; pid-file none; listen-on-v6 {{ none; }};\n'
        f"  listen-on port {port} {{ 127.0.0.1; }}; recursion no; dnssec-validation no;\n"
        f'  session-keyfile "{folder}/session.key"; managed-keys-directory "{folder}"; }};\n'
        f"controls {{ }};\n{extra}\n{listed}"
    )
    # "-g": in the foreground. It runs as whoever runs the tests.
    command = ["/usr/sbin/named", "-g", "-n", "1", "-c", str(config)]
    with running(command, folder, partial(answers_dns, port, next(iter(zones)))):
        yield "127.0.0.1", port


@contextmanager
def nsd(folder: Path, zones: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Run NSD over zone texts by origin."""
    port = free_port()
    _write(folder, zones)
    listed = "".join(f"zone:\n  name: {origin}\n  zonefile: {origin}.zone\n" for origin in zones)
    config = folder / "nsd.conf"
    config.write_text(
        f'server:\n  ip-address: 127.0.0.1@{port}\n  zonesdir: {folder}\n  database: ""\n'
        f'  username: ""\n  pidfile: {folder}/nsd.pid\n  xfrdfile: {folder}/xfrd\n'
        f"  xfrdir: {folder}\n  zonelistfile: {folder}/zone.list\n  server-count: 1\n"
        f"remote-control:\n  control-enable: no\n{listed}"
    )
    command = ["/usr/sbin/nsd", "-d", "-c", str(config)]
    with running(command, folder, partial(answers_dns, port, next(iter(zones)))):
        yield "127.0.0.1", port


@contextmanager
def unbound(
    folder: Path, zones: Mapping[str, int], *, extra: str = ""
) -> Iterator[tuple[str, int]]:
    """Run Unbound, which asks the ports of loopback that are named for each zone."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    stubs = "".join(
        f"stub-zone:\n  name: {origin}\n  stub-addr: 127.0.0.1@{at}\n"
        for origin, at in zones.items()
    )
    config = folder / "unbound.conf"
    config.write_text(
        f"server:\n  interface: 127.0.0.1@{port}\n  chroot: ''\n  username: ''\n"
        f"  directory: {folder}\n  pidfile: {folder}/unbound.pid\n  use-syslog: no\n"
        f"  do-daemonize: no\n  do-not-query-localhost: no\n  num-threads: 1\n"
        f"  module-config: iterator\n  local-zone: 'example.' nodefault\n{extra}{stubs}"
    )
    command = ["/usr/sbin/unbound", "-d", "-p", "-c", str(config)]
    ready = partial(answers_dns, port, next(iter(zones)))
    with running(command, folder, ready):
        yield "127.0.0.1", port


def _write(folder: Path, zones: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for origin, text in zones.items():
        (folder / f"{origin}.zone").write_text(text)
