"""A throw-away Postfix that accepts mail, queues it durably and discards it.

Talks to the file system, to `postfix`, and to /proc. It needs root, as Postfix does.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pwd import getpwnam
from typing import Final

from gateway.sandbox import free_port

__all__ = ["Postfix", "postfix"]

START_S: Final = 10.0

_MAIN_CF: Final = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
myhostname = postfix.example
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
default_transport = discard
smtpd_recipient_restrictions = permit_mynetworks, reject
mynetworks = 127.0.0.0/8
disable_dns_lookups = yes
"""

_MASTER_CF: Final = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix n - n 60  1 pickup
cleanup   unix n - n -   0 cleanup
qmgr      unix n - n 300 1 qmgr
rewrite   unix - - n -   - trivial-rewrite
bounce    unix - - n -   0 bounce
defer     unix - - n -   0 bounce
proxymap  unix - - n -   - proxymap
error     unix - - n -   - error
retry     unix - - n -   - error
discard   unix - - n -   - discard
anvil     unix - - n -   1 anvil
tlsmgr    unix - - n 1000? 1 tlsmgr
postlog   unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True, slots=True)
class Postfix:
    """A running Postfix."""

    port: int
    master: int  # its first process


@contextmanager
def postfix(folder: Path) -> Iterator[Postfix | None]:
    """Run Postfix in `folder`; None where it is not installed or we may not."""
    command = shutil.which("postfix", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if command is None or os.geteuid() != 0:
        yield None
        return
    port = free_port()
    for part in ("queue", "data", "etc"):
        (folder / part).mkdir()
    folder.chmod(0o755)  # its processes run as their own user
    user = getpwnam("postfix")
    os.chown(folder / "data", user.pw_uid, user.pw_gid)
    (folder / "etc/main.cf").write_text(_MAIN_CF.format(folder=folder), encoding="utf-8")
    (folder / "etc/master.cf").write_text(_MASTER_CF.format(port=port), encoding="utf-8")
    run = [command, "-c", str(folder / "etc")]
    subprocess.run([*run, "start"], check=True, capture_output=True, timeout=START_S)
    try:
        _wait_for(port)
        yield Postfix(port, int((folder / "queue/pid/master.pid").read_text()))
    finally:
        subprocess.run([*run, "stop"], check=True, capture_output=True, timeout=START_S)


def _wait_for(port: int) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=START_S) as connection:
                connection.recv(10)
                return
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
