"""The dialogue with one SMTP client: commands in, replies out, content into a body sink.

Talks to one `SmtpStream` and to the gateway behind `Reception`. Nothing here decides about a
message; the session keeps the order of commands, the limits, and the promise that 250 after the
content is said only once the message is committed.

Standards:
    RFC5321 sections 3.3, 4.1 and 4.2 · RFC6409 section 4 (submission) · RFC1870 · RFC6152
    RFC2034 · RFC2920 · RFC3207 · RFC3461 · RFC4954
    EDGE 1.2 (STARTTLS and AUTH on the edge), AS-066 (neither is required on the backbone)
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import structlog

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from gateway.ports import BodySink, Envelope, Reception, Role, Session
from gateway.smtp_auth import MECHANISMS, Credentials, exchange
from gateway.smtp_commands import Mail, Notify, parse_command, parse_mail, parse_rcpt
from gateway.smtp_intake import receive
from gateway.smtp_limits import AUTH_LINE_OCTETS, Census, Limits
from gateway.smtp_stream import DisconnectedError, SmtpStream
from gateway.status import CommandError, Reply, reply_to

__all__ = ["SmtpSession"]

_log = structlog.get_logger(__name__)

# RFC3207 4: what a client may say before STARTTLS, where that is required.
_IN_CLEAR: Final = frozenset({"EHLO", "HELO", "NOOP", "QUIT", "RSET", "STARTTLS"})
# RFC5321 4.2.4: known, not offered.
_NOT_OFFERED: Final = frozenset({"AUTH", "BDAT", "EXPN", "HELP", "TURN", "ETRN", "SEND", "SAML"})


@dataclass(slots=True)
class _Client:
    """What the client has told of itself; forgotten by STARTTLS (RFC3207 4.2)."""

    helo: str | None = None
    extended: bool = False
    user: str | None = None


@dataclass(slots=True)
class _Transaction:
    """One mail transaction, from MAIL to the end of DATA."""

    mail: Mail
    recipients: dict[DirectAddress, frozenset[Notify]] = field(default_factory=dict)

    def envelope(self) -> Envelope:
        silent = (r for r, notify in self.recipients.items() if Notify.FAILURE not in notify)
        return Envelope(
            self.mail.sender, tuple(self.recipients), self.mail.envelope_id, frozenset(silent)
        )


class SmtpSession:
    """One connection, from greeting to close."""

    def __init__(
        self,
        stream: SmtpStream,
        *,
        role: Role,
        reception: Reception,
        hostname: str,
        tls: ssl.SSLContext,
        limits: Limits,
        census: Census,
    ) -> None:
        self._stream = stream
        self._role = role
        self._reception = reception
        self._hostname = hostname
        self._tls = tls
        self._limits = limits
        self._census = census
        self._client = _Client()
        self._transaction: _Transaction | None = None
        self._messages = 0
        self._errors = 0
        self._auth_failures = 0
        # RFC3461 is offered to our own users only: on the backbone MDNs tell what became of a
        # message, and one that fails the security checks is answered by nothing (AS-077).
        self._dsn = role is Role.EDGE
        self._verbs: dict[str, Callable[[str], Awaitable[Reply | None]]] = {
            "EHLO": self._ehlo,
            "HELO": self._helo,
            "STARTTLS": self._starttls,
            "MAIL": self._mail_from,
            "RCPT": self._rcpt_to,
            "DATA": self._data,
            "RSET": self._rset,
            "NOOP": self._noop,
            "VRFY": self._vrfy,
            "QUIT": self._quit,
        }
        if role is Role.EDGE:
            self._verbs["AUTH"] = self._auth

    async def run(self) -> None:
        """Serve the client until it leaves, or must."""
        reply: Reply | None = Reply(220, "", f"{self._hostname} ESMTP")
        try:
            while reply is None or not reply.closes:
                if reply is not None:
                    self._say(reply)
                reply = await self._next_reply()
            self._say(reply)
        except DisconnectedError:
            pass
        finally:
            self._stream.close()

    async def _next_reply(self) -> Reply | None:
        try:
            return await self._command()
        except DisconnectedError:
            raise
        except CommandError as error:
            reply = error.reply
        except DirectError as error:
            _log.info("smtp refusal", peer=self._stream.peer, reason=error.reason.code)
            reply = reply_to(error.reason)
        except Exception as error:  # noqa: BLE001 - the top of the session's loop
            # A bug or a broken disk must not bounce mail, nor tell the peer of our insides.
            reference = os.urandom(4).hex()
            _log.exception("smtp failure", reference=reference, error=type(error).__name__)
            reply = Reply(451, "4.3.0", f"Internal error {reference}, try again later")
        return self._count_error(reply)

    async def _command(self) -> Reply | None:
        line = await self._stream.line(AUTH_LINE_OCTETS, self._limits.idle_s)
        verb, argument = parse_command(line)
        if len(line) > self._limits.line_octets and verb != "AUTH":
            raise CommandError(Reply(500, "5.5.2", "Line too long"))
        answer = self._verbs.get(verb)
        if answer is None:
            code = 502 if verb in _NOT_OFFERED else 500
            raise CommandError(Reply(code, "5.5.1", "Command not recognized"))
        if self._role is Role.EDGE and self._stream.tls is None and verb not in _IN_CLEAR:
            raise DirectError(Reason.TLS_REQUIRED, verb)
        return await answer(argument)

    def _count_error(self, reply: Reply) -> Reply:
        self._errors += 1
        if self._errors > self._limits.errors and not reply.closes:
            return Reply(421, "4.7.0", "Too many errors")
        return reply

    def _say(self, reply: Reply) -> None:
        # RFC5321 4.2.1: every line but the last has "-" after the code.
        *others, last = reply.text.split("\n")
        lines = [f"{reply.code}-{text}" for text in others]
        lines.append(str(Reply(reply.code, reply.status, last)))
        self._stream.send("".join(f"{line}\r\n" for line in lines).encode("ascii"))

    async def _ehlo(self, argument: str) -> Reply:
        self._greet(argument, extended=True)
        offers = ["PIPELINING", f"SIZE {self._limits.size_octets}", "8BITMIME"]
        offers.append("ENHANCEDSTATUSCODES")
        if self._dsn:
            offers.append("DSN")
        if self._stream.tls is None:
            offers.append("STARTTLS")
        elif self._role is Role.EDGE:
            offers.append(f"AUTH {' '.join(MECHANISMS)}")
        # RFC2034 4: no enhanced code in the reply to EHLO.
        return Reply(250, "", "\n".join([self._hostname, *offers]))

    async def _helo(self, argument: str) -> Reply:
        self._greet(argument, extended=False)
        return Reply(250, "", self._hostname)

    def _greet(self, argument: str, *, extended: bool) -> None:
        if not argument or " " in argument:
            raise CommandError(Reply(501, "5.5.4", "One domain name expected"))
        # RFC5321 4.1.4: a further EHLO is a RSET.
        self._transaction = None
        self._client.helo = argument
        self._client.extended = extended

    async def _starttls(self, argument: str) -> None:
        _refuse_argument(argument)
        if self._stream.tls is not None:
            raise _out_of_order("TLS is active already")
        self._say(Reply(220, "2.0.0", "Ready to start TLS"))
        try:
            await self._stream.start_tls(self._tls, self._limits.handshake_s)
        except ssl.SSLError as error:
            _log.info("smtp handshake failed", peer=self._stream.peer, error=error.reason)
            raise DisconnectedError from error
        # RFC3207 4.2: the client begins again with EHLO.
        self._client = _Client()
        self._transaction = None

    async def _auth(self, argument: str) -> Reply:
        if not self._client.extended:
            raise _out_of_order("Send EHLO first")
        if self._client.user is not None or self._transaction is not None:
            # RFC4954 4: once a session, and not inside a transaction.
            raise _out_of_order("Not now")
        if self._census.is_put_off(self._stream.peer, _now_s()):
            raise DirectError(Reason.THROTTLED, "too many failed authentications")
        claim = await self._claim(argument)
        if await self._reception.authenticate(claim.user, claim.password):
            self._client.user = claim.user
            return Reply(235, "2.7.0", "Authentication successful")
        self._census.failed(self._stream.peer, _now_s())
        self._auth_failures += 1
        if self._auth_failures >= self._limits.auth_failures:
            return Reply(421, "4.7.0", "Too many failed authentications")
        raise DirectError(Reason.AUTHENTICATION_FAILED, "wrong user or password")

    async def _claim(self, argument: str) -> Credentials:
        steps = exchange(argument)
        try:
            challenge = next(steps)
            while True:
                self._say(Reply(334, "", challenge))
                line = await self._stream.line(AUTH_LINE_OCTETS, self._limits.idle_s)
                challenge = steps.send(line)
        except StopIteration as end:
            claim: Credentials = end.value
            return claim

    async def _mail_from(self, argument: str) -> Reply:
        if self._client.helo is None:
            raise _out_of_order("Send EHLO first")
        if self._role is Role.EDGE and self._client.user is None:
            raise DirectError(Reason.AUTHENTICATION_REQUIRED, "MAIL")
        if self._transaction is not None:
            raise _out_of_order("One MAIL in a transaction")
        if self._messages >= self._limits.messages:
            return Reply(421, "4.7.0", "Too many messages in one connection")
        mail = parse_mail(argument, dsn=self._dsn)
        if mail.size is not None and mail.size > self._limits.size_octets:
            raise DirectError(Reason.MESSAGE_TOO_BIG, f"SIZE={mail.size}")
        await self._reception.check_sender(self._session(), mail.sender)
        self._transaction = _Transaction(mail)
        return Reply(250, "2.1.0", "Sender OK")

    async def _rcpt_to(self, argument: str) -> Reply:
        if self._transaction is None:
            raise _out_of_order("Send MAIL first")
        recipients = self._transaction.recipients
        rcpt = parse_rcpt(argument, dsn=self._dsn)
        if len(recipients) >= self._limits.recipients:
            # RFC5321 4.5.3.1.10
            raise CommandError(Reply(452, "4.5.3", "Too many recipients"))
        await self._reception.check_recipient(self._session(), rcpt.recipient)
        recipients.setdefault(rcpt.recipient, rcpt.notify)
        return Reply(250, "2.1.5", "Recipient OK")

    async def _data(self, argument: str) -> Reply:
        _refuse_argument(argument)
        transaction = self._transaction
        if transaction is None or not transaction.recipients:
            raise _out_of_order("Send MAIL and RCPT first")
        self._transaction = None
        self._messages += 1
        self._say(Reply(354, "", "End data with <CR><LF>.<CR><LF>"))
        sink = self._reception.sink()
        try:
            await receive(self._stream, sink, self._limits)
            identity = await self._commit(transaction.envelope(), sink)
        except Exception:
            await sink.discard()
            raise
        return Reply(250, "2.0.0", f"Accepted as {identity}")

    async def _commit(self, envelope: Envelope, sink: BodySink) -> UUID:
        # the message is ours once this returns. Whatever happens to the connection or to
        # this task, the commit runs to its end; a client that hears nothing sends it again, and
        # accepting is idempotent.
        accepting = asyncio.ensure_future(self._reception.accept(self._session(), envelope, sink))
        return await asyncio.shield(accepting)

    async def _rset(self, argument: str) -> Reply:
        _refuse_argument(argument)
        self._transaction = None
        return Reply(250, "2.0.0", "OK")

    async def _noop(self, argument: str) -> Reply:
        return Reply(250, "2.0.0", "OK")

    async def _vrfy(self, argument: str) -> Reply:
        # RFC5321 3.5.3: who exists here is told to RCPT only.
        return Reply(252, "2.5.0", "Cannot VRFY, send RCPT")

    async def _quit(self, argument: str) -> Reply:
        _refuse_argument(argument)
        return Reply(221, "2.0.0", "Bye")

    def _session(self) -> Session:
        return Session(
            self._role,
            self._stream.peer,
            self._client.helo or "",
            self._stream.tls,
            self._client.user,
        )


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _refuse_argument(argument: str) -> None:
    if argument:
        raise CommandError(Reply(501, "5.5.4", "Command takes no argument"))


def _out_of_order(text: str) -> CommandError:
    return CommandError(Reply(503, "5.5.1", text))
