"""Real mail servers on loopback: Postfix and Dovecot, on free ports, in folders of their own."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.helpers.servers import free_port
from tests.helpers.tls import server_certificate

__all__ = ["Dovecot", "Postfix", "dovecot", "postfix"]

START_S: Final = 15.0

_MAIN_CF: Final = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
myhostname = {hostname}
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
local_recipient_maps =
default_database_type = hash
smtpd_tls_security_level = may
smtpd_tls_cert_file = {folder}/tls.pem
smtpd_tls_key_file = {folder}/tls.key
smtp_tls_security_level = {outward}
smtp_tls_loglevel = 1
disable_dns_lookups = yes
smtpd_recipient_restrictions = permit_mynetworks, reject
mynetworks = 127.0.0.0/8
relayhost = {relayhost}
virtual_mailbox_domains = {domains}
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = inline:{{ {mailboxes} }}
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
message_size_limit = 102400000
virtual_mailbox_limit = 0
minimal_backoff_time = 1s
queue_run_delay = 1s
transport_retry_time = 1s
{extra}
"""

_MASTER_CF: Final = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix n - n 60  1 pickup
cleanup   unix n - n -   0 cleanup
qmgr      unix n - n 300 1 qmgr
rewrite   unix - - n -   - trivial-rewrite
bounce    unix - - n -   0 bounce
defer     unix - - n -   0 bounce
trace     unix - - n -   0 bounce
proxymap  unix - - n -   - proxymap
smtp      unix - - n -   - smtp
relay     unix - - n -   - smtp
error     unix - - n -   - error
retry     unix - - n -   - error
discard   unix - - n -   - discard
virtual   unix - n n -   - virtual
anvil     unix - - n -   1 anvil
scache    unix - - n -   1 scache
tlsmgr    unix - - n 1000? 1 tlsmgr
postlog   unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True)
class Postfix:
    """A running Postfix. Mail for its own mailboxes lands in `mail`, one folder each."""

    address: tuple[str, int]
    folder: Path

    @property
    def log(self) -> str:
        """All it has logged."""
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""

    def mail(self, mailbox: str) -> list[bytes]:
        """The messages delivered to a mailbox, as they lie in its folder."""
        new = self.folder / "mail" / mailbox / "new"
        return [path.read_bytes() for path in sorted(new.iterdir())] if new.exists() else []


@contextmanager
def postfix(
    *,
    hostname: str = "mx.b.example",
    mailboxes: Sequence[str] = (),
    relayhost: tuple[str, int] | None = None,
    outward: str = "may",
    extra: str = "",
) -> Iterator[Postfix]:
    """Run Postfix: a final destination for `mailboxes`, and a relay to `relayhost` for the rest."""
    user, port = pwd.getpwnam("postfix"), free_port()
    # Its processes run as their own user, who may not enter pytest's folders.
    with tempfile.TemporaryDirectory(prefix="postfix", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("queue", "data", "mail", "etc"):
            (folder / part).mkdir()
        os.chown(folder / "data", user.pw_uid, user.pw_gid)
        os.chown(folder / "mail", user.pw_uid, user.pw_gid)
        server_certificate(hostname).write(folder)
        (folder / "etc/main.cf").write_text(
            _MAIN_CF.format(
                folder=folder,
                hostname=hostname,
                outward=outward,
                relayhost=f"[{relayhost[0]}]:{relayhost[1]}" if relayhost else "",
                domains=" ".join(sorted({box.partition("@")[2] for box in mailboxes})),
                mailboxes=", ".join(f"{{{box} = {box}/}}" for box in mailboxes),
                uid=user.pw_uid,
                gid=user.pw_gid,
                extra=extra,
            )
        )
        (folder / "etc/master.cf").write_text(_MASTER_CF.format(port=port))
        log = folder / "log"
        command = ["/usr/sbin/postfix", "-c", str(folder / "etc")]
        subprocess.run([*command, "start"], check=True, capture_output=True, timeout=START_S)
        try:
            _wait_for(port, log)
            yield Postfix(("127.0.0.1", port), folder)
        finally:
            subprocess.run([*command, "stop"], check=True, capture_output=True, timeout=START_S)


_DOVECOT_CONF: Final = """\
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
default_internal_user = {user}
default_login_user = {user}
default_internal_group = {group}
protocols = imap lmtp
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain
mail_location = maildir:{folder}/mail/%u
first_valid_uid = 1
first_valid_gid = 1
mail_uid = {uid}
mail_gid = {gid}
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder}/mail/%u allow_all_users=yes
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    address = 127.0.0.1
    port = {imap_port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp_port}
  }}
}}
protocol lmtp {{
  mail_plugins = $mail_plugins {plugins}
}}
{extra}
"""


@dataclass(frozen=True)
class Dovecot:
    """A running Dovecot: LMTP in, IMAP out; every user exists and has the same password."""

    lmtp: tuple[str, int]
    imap: tuple[str, int]
    password: str
    folder: Path


@contextmanager
def dovecot(*, plugins: str = "", extra: str = "") -> Iterator[Dovecot]:
    """Run Dovecot."""
    user = pwd.getpwnam("dovecot")
    lmtp_port, imap_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="dovecot", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "mail").mkdir()
        os.chown(folder / "mail", user.pw_uid, user.pw_gid)
        config = folder / "dovecot.conf"
        config.write_text(
            _DOVECOT_CONF.format(
                folder=folder,
                user=user.pw_name,
                group=grp.getgrgid(user.pw_gid).gr_name,
                uid=user.pw_uid,
                gid=user.pw_gid,
                password="secret",
                lmtp_port=lmtp_port,
                imap_port=imap_port,
                plugins=plugins,
                extra=extra,
            )
        )
        log = folder / "log"
        process = subprocess.Popen(["/usr/sbin/dovecot", "-F", "-c", str(config)])
        try:
            _wait_for(lmtp_port, log)
            _wait_for(imap_port, log)
            yield Dovecot(("127.0.0.1", lmtp_port), ("127.0.0.1", imap_port), "secret", folder)
        finally:
            process.terminate()
            process.wait(START_S)


def _wait_for(port: int, log: Path) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.settimeout(START_S)
                assert connection.recv(10), "no greeting"
                return
        except ConnectionRefusedError:
            said = log.read_text() if log.exists() else "nothing"
            assert time.monotonic() < end, f"no answer; the log says {said}"
            time.sleep(0.02)
