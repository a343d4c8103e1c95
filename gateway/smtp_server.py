"""The commands of SMTP: what each does, in which order, and when 250 may be said.

Talks to one client through `SmtpConnection`, and to the gateway behind `Reception`. Nothing here
decides about a message. Every verb of aiosmtpd that we offer is overridden: its own take unknown
addresses apart with the e-mail package, know no parameters of RFC3461, and hold content in memory.

Standards:
    RFC5321 sections 3.3, 4.1 and 4.2 · RFC6409 section 4 (submission) · RFC1870 · RFC6152
    RFC2034 · RFC2920 · RFC3207 · RFC3461 · RFC4954
    EDGE 1.2 (STARTTLS and AUTH on the edge), AS-066 (neither is required on the backbone)
"""

# ruff: noqa: N802 - aiosmtpd finds the commands by these names

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar, cast
from uuid import UUID

import structlog
from aiosmtpd import smtp as aiosmtpd

from certs.errors import DirectError, Reason
from gateway.ports import BodySink, Envelope, Role, Session
from gateway.smtp_auth import MECHANISMS, Credentials, exchange
from gateway.smtp_commands import (
    IN_CLEAR,
    NOT_OFFERED,
    OFFERED,
    parse_command,
    parse_mail,
    parse_rcpt,
)
from gateway.smtp_connection import Service, SmtpConnection
from gateway.smtp_intake import receive
from gateway.smtp_transaction import Client, Transaction
from gateway.status import CommandError, Reply

__all__ = ["SmtpServer"]

_log = structlog.get_logger(__name__)
_Answer = TypeVar("_Answer")


class SmtpServer(SmtpConnection):
    """One client's session with one listener."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._role = service.role
        self._reception = service.reception
        self._limits = service.limits
        self._census = service.census
        self._messages = 0
        self._auth_failures = 0
        self._offered = OFFERED | {"AUTH"} if self._role is Role.EDGE else OFFERED
        # RFC3461 is offered to our own users only: on the backbone MDNs tell what became of a
        # message, and one that fails the security checks is answered by nothing (AS-077).
        self._dsn = self._role is Role.EDGE

    def check_command(self, line: bytes) -> None:
        """Return where the verb may be said now and the line is not too long.

        Raises:
            CommandError: 500, 502 or 553.
            DirectError: TLS_REQUIRED.
        """
        verb, _ = parse_command(line)
        if len(line) > self._limits.line_octets and verb != "AUTH":
            raise CommandError(Reply(500, "5.5.2", "Line too long"))
        if verb not in self._offered:
            code = 502 if verb in NOT_OFFERED else 500
            raise CommandError(Reply(code, "5.5.1", "Command not recognized"))
        if self._role is Role.EDGE and verb not in IN_CLEAR and self._tls_facts() is None:
            raise DirectError(Reason.TLS_REQUIRED, verb)

    def _create_session(self) -> aiosmtpd.Session:
        return Client(self.loop)

    def _create_envelope(self) -> aiosmtpd.Envelope:
        return Transaction()

    @property
    def _transaction(self) -> Transaction:
        return cast(Transaction, self.envelope)

    @property
    def _client(self) -> Client:
        return cast(Client, self.session)

    def _now(self) -> Session:
        client = self._client
        return Session(self._role, self.peer, client.host_name or "", self.tls, client.user)

    async def smtp_EHLO(self, hostname: str | None) -> None:
        """RFC5321 4.1.1.1; the extensions are named here."""
        self._greet(hostname, extended=True)
        offers = ["PIPELINING", f"SIZE {self._limits.size_octets}", "8BITMIME"]
        offers.append("ENHANCEDSTATUSCODES")
        if self._dsn:
            offers.append("DSN")
        if self._tls_facts() is None:
            offers.append("STARTTLS")
        elif self._role is Role.EDGE:
            offers.append(f"AUTH {' '.join(MECHANISMS)}")
        # RFC2034 4: no enhanced code in the reply to EHLO.
        await self.say(Reply(250, "", "\n".join([self.hostname, *offers])))

    async def smtp_HELO(self, hostname: str | None) -> None:
        """RFC5321 4.1.1.1."""
        self._greet(hostname, extended=False)
        await self.say(Reply(250, "", self.hostname))

    def _greet(self, hostname: str | None, *, extended: bool) -> None:
        if not hostname or " " in hostname:
            raise CommandError(Reply(501, "5.5.4", "One domain name expected"))
        if self._client.host_name:
            self.idled()
        # RFC5321 4.1.4: a further EHLO is a RSET.
        self.envelope = self._create_envelope()
        self._client.host_name = hostname
        self._client.extended_smtp = extended

    async def smtp_STARTTLS(self, arg: str | None) -> None:
        """RFC3207: aiosmtpd does the handshake."""
        _refuse_argument(arg)
        if self._tls_protocol is not None:
            raise _out_of_order("TLS is active already")
        # RFC3207 4.2: commands that came in clear must not run after the handshake. aiosmtpd drops
        # them when that is done; here they would also hold back the reply and stop the transport.
        await self._input.drop()
        try:
            async with asyncio.timeout(self._limits.handshake_s):
                await super().smtp_STARTTLS("")
        except TimeoutError as error:
            raise aiosmtpd.TLSSetupException from error
        if self._tls_facts() is None:
            # asyncio calls a handshake done where the connection was closed during it.
            raise aiosmtpd.TLSSetupException

    async def smtp_AUTH(self, arg: str | None) -> None:
        """RFC4954 4."""
        client = self._client
        if not client.extended_smtp:
            raise _out_of_order("Send EHLO first")
        if client.user is not None or self._transaction.mail is not None:
            # RFC4954 4: once a session, and not inside a transaction.
            raise _out_of_order("Not now")
        if self._census.is_put_off(self.peer, self.loop.time()):
            raise _put_off()
        claim = await self._claim(arg or "")
        if await self._is_right(claim):
            client.user = claim.user
            await self.say(Reply(235, "2.7.0", "Authentication successful"))
            return
        self._auth_failures += 1
        if self._auth_failures >= self._limits.auth_failures:
            raise CommandError(Reply(421, "4.7.0", "Too many failed authentications"))
        raise DirectError(Reason.AUTHENTICATION_FAILED, "wrong user or password")

    async def _is_right(self, claim: Credentials) -> bool:
        await asyncio.sleep(self._census.delay_s(claim.user, self.loop.time()))
        async with self._service.turn(self.peer):
            # Asked again: other connections have tried since.
            if self._census.is_put_off(self.peer, self.loop.time()):
                raise _put_off()
            right = await _asked(self._reception.authenticate(claim.user, claim.password))
            self._census.tried(self.peer, claim.user, self.loop.time(), right=right)
        return right

    async def _claim(self, argument: str) -> Credentials:
        steps = exchange(argument)
        try:
            challenge = next(steps)
            while True:
                await self.say(Reply(334, "", challenge))
                challenge = steps.send(await self._input.line())
        except StopIteration as end:
            claim: Credentials = end.value
            return claim

    async def smtp_MAIL(self, arg: str | None) -> None:
        """RFC5321 4.1.1.2."""
        if not self._client.host_name:
            raise _out_of_order("Send EHLO first")
        if self._role is Role.EDGE and self._client.user is None:
            raise DirectError(Reason.AUTHENTICATION_REQUIRED, "MAIL")
        if self._transaction.mail is not None:
            raise _out_of_order("One MAIL in a transaction")
        if self._messages >= self._limits.messages:
            raise CommandError(Reply(421, "4.7.0", "Too many messages in one connection"))
        mail = parse_mail(arg or "", dsn=self._dsn)
        if mail.size is not None and mail.size > self._limits.size_octets:
            raise DirectError(Reason.MESSAGE_TOO_BIG, f"SIZE={mail.size}")
        await _asked(self._reception.check_sender(self._now(), mail.sender))
        self._transaction.mail = mail
        await self.say(Reply(250, "2.1.0", "Sender OK"))

    async def smtp_RCPT(self, arg: str | None) -> None:
        """RFC5321 4.1.1.3."""
        if self._transaction.mail is None:
            raise _out_of_order("Send MAIL first")
        recipients = self._transaction.recipients
        rcpt = parse_rcpt(arg or "", dsn=self._dsn)
        if len(recipients) >= self._limits.recipients:
            # RFC5321 4.5.3.1.10
            raise CommandError(Reply(452, "4.5.3", "Too many recipients"))
        await _asked(self._reception.check_recipient(self._now(), rcpt.recipient))
        if rcpt.recipient in recipients:
            self.idled()
        recipients.setdefault(rcpt.recipient, rcpt.wish)
        await self.say(Reply(250, "2.1.5", "Recipient OK"))

    async def smtp_DATA(self, arg: str | None) -> None:
        """RFC5321 4.1.1.4: 250 is said after the commit, never before."""
        _refuse_argument(arg)
        transaction = self._transaction
        if transaction.mail is None or not transaction.recipients:
            raise _out_of_order("Send MAIL and RCPT first")
        self.envelope = self._create_envelope()
        self._messages += 1
        await self.say(Reply(354, "", "End data with <CR><LF>.<CR><LF>"))
        await self.flush()
        sink = self._reception.sink()
        try:
            await receive(self._input, sink, self._limits, self._reset_timeout)
        except (Exception, asyncio.CancelledError):
            await sink.discard()
            raise
        identity = await self._commit(transaction.envelope(transaction.mail), sink)
        self._idle_commands = 0
        await self.say(Reply(250, "2.0.0", f"Accepted as {identity}"))

    async def _commit(self, envelope: Envelope, sink: BodySink) -> UUID:
        # the message is ours once this returns. Whatever happens to the connection and so to
        # this task, the commit runs to its end; a client that hears nothing sends it again, and
        # accepting is idempotent.
        commit = self.loop.create_task(self._accept(envelope, sink))
        self._service.commits.add(commit)
        commit.add_done_callback(self._service.commits.discard)
        return await asyncio.shield(commit)

    async def _accept(self, envelope: Envelope, sink: BodySink) -> UUID:
        try:
            return await _asked(self._reception.accept(self._now(), envelope, sink))
        except Exception as error:
            if self.transport is None:
                # Nobody waits for this task any more.
                _log.warning("smtp commit failed", peer=self.peer, error=type(error).__name__)
            await sink.discard()
            raise

    async def smtp_RSET(self, arg: str | None) -> None:
        """RFC5321 4.1.1.5."""
        _refuse_argument(arg)
        self.idled()
        self.envelope = self._create_envelope()
        await self.say(Reply(250, "2.0.0", "OK"))

    async def smtp_NOOP(self, arg: str | None) -> None:
        """RFC5321 4.1.1.9."""
        self.idled()
        await self.say(Reply(250, "2.0.0", "OK"))

    async def smtp_VRFY(self, arg: str | None) -> None:
        """RFC5321 3.5.3: who exists here is told to RCPT only."""
        self.idled()
        await self.say(Reply(252, "2.5.0", "Cannot VRFY, send RCPT"))

    async def smtp_QUIT(self, arg: str | None) -> None:
        """RFC5321 4.1.1.10."""
        _refuse_argument(arg)
        await self.say(Reply(221, "2.0.0", "Bye"))


async def _asked(question: Awaitable[_Answer]) -> _Answer:
    """Return the gateway's answer; aiosmtpd takes its lost connections for the client's."""
    try:
        return await question
    except ConnectionError as error:
        raise DirectError(Reason.INTERNAL, type(error).__name__) from error


def _refuse_argument(argument: str | None) -> None:
    if argument:
        raise CommandError(Reply(501, "5.5.4", "Command takes no argument"))


def _put_off() -> DirectError:
    return DirectError(Reason.THROTTLED, "too many failed authentications")


def _out_of_order(text: str) -> CommandError:
    return CommandError(Reply(503, "5.5.1", text))
