"""Delivery of one message to one target: over which connection, and what became of it.

Talks to SMTP and LMTP servers. Every failure but that of reaching the target is a value, so that
one recipient's does not become another's.

Standards:
    RFC5321 sections 3.8 (421), 4.2.1 (reply classes) and 4.5.3.1.10 (552 that means 452)
    RFC1870 (SIZE) · RFC3463 · RFC2033 section 4.2 (LMTP answers for each recipient)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import BinaryIO, Final

from certs.address import DirectAddress
from certs.errors import Reason
from gateway.ports import Attempt, Delivery
from gateway.smtp_client import BrokenError, SmtpClient
from gateway.smtp_pool import Connections, Target, UnreachableError
from gateway.smtp_reply import PeerReply
from gateway.smtp_text import PLAIN, Text
from gateway.tls_policy import OPPORTUNISTIC, TlsPolicy

__all__ = ["Deliverer", "Parcel", "may_try_another", "undelivered"]

REPLY_CHARACTERS: Final = 500

_IN_DOUBT: Final = PeerReply(451, "4.4.2", "Connection broke within the content")


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is to be delivered; `content` is seekable and `size` is in octets, on the wire."""

    sender: DirectAddress | None
    recipients: tuple[DirectAddress, ...]
    content: BinaryIO
    size: int
    text: Text = PLAIN


class Deliverer:
    """Delivers over the connections it is given, and keeps them for the next message."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def deliver(self, target: Target, parcel: Parcel) -> Delivery:
        """Return what became of each recipient.

        Raises:
            UnreachableError: there is no connection, and the server has not got the message.
        """
        if target.lmtp and len(parcel.recipients) > 1:
            # RFC2033 4.2 has one reply for each recipient after the content. aiosmtplib reads
            # one, so each recipient gets its own transaction.
            singles = [replace(parcel, recipients=(one,)) for one in parcel.recipients]
            deliveries = [await self._deliver(target, single) for single in singles]
            attempts = tuple(a for delivery in deliveries for a in delivery.attempts)
            return replace(deliveries[-1], attempts=attempts)
        return await self._deliver(target, parcel)

    async def _deliver(self, target: Target, parcel: Parcel) -> Delivery:
        while (client := self._connections.kept(target)) is not None:
            try:
                return await self._hand_over(target, client, parcel)
            except UnreachableError:
                continue  # The server has tired of that connection.
        return await self._hand_over(target, await self._connections.new(target), parcel)

    async def _hand_over(self, target: Target, client: SmtpClient, parcel: Parcel) -> Delivery:
        tls = client.tls
        try:
            replies = await _replies(client, parcel)
        except BrokenError as error:
            client.abort()
            if not client.in_doubt:
                raise UnreachableError(f"lost the connection to {target.host}") from error
            # The host may have the message; another host must not get it now.
            replies = [_IN_DOUBT for _ in parcel.recipients]
        if any(reply.code == 421 for reply in replies):
            # RFC5321 3.8: the host closes the connection, perhaps only because it is an old one.
            client.abort()
            if all(reply.code == 421 for reply in replies):
                raise UnreachableError(f"{target.host} closes: {replies[0].text}")
        elif client.alive:
            self._connections.keep(target, client)
        return Delivery(
            attempts=tuple(map(_attempt, parcel.recipients, replies)),
            host=target.host,
            tls=tls,
            verified=client.verified,
            tls_policy=target.policy.source.value,
            tls_failure=client.tls_failure,
        )


def undelivered(
    host: str, parcel: Parcel, reply: PeerReply, policy: TlsPolicy = OPPORTUNISTIC
) -> Delivery:
    """Return the delivery that did not come to pass, for one and the same reason for all."""
    attempts = tuple(_attempt(recipient, reply) for recipient in parcel.recipients)
    return Delivery(attempts, host, None, verified=False, tls_policy=policy.source.value)


def may_try_another(delivery: Delivery) -> bool:
    """Say whether the next host may have the answer.

    RFC5321 5.1: it may where this one has taken nothing, for now.
    """
    return all(
        attempt.reason is Reason.BACKBONE_UNAVAILABLE and attempt.status != _IN_DOUBT.status
        for attempt in delivery.attempts
    )


async def _replies(client: SmtpClient, parcel: Parcel) -> list[PeerReply]:
    limit = client.offers.get("size", "")
    if limit.isdecimal() and 0 < int(limit) < parcel.size:
        # the host has told what it takes.
        too_big = PeerReply(552, "5.3.4", f"The host takes at most {limit} octets")
        return [too_big for _ in parcel.recipients]
    parcel.content.seek(0)
    return await client.deliver(
        parcel.sender, parcel.recipients, parcel.content, parcel.size, parcel.text
    )


def _attempt(recipient: DirectAddress, reply: PeerReply) -> Attempt:
    words = f"{reply.code} {reply.text}".replace("\n", " ")[:REPLY_CHARACTERS]
    return Attempt(recipient, _reason(reply), reply.status, words)


def _reason(reply: PeerReply) -> Reason | None:
    if reply.positive:
        return None
    # RFC5321 4.5.3.1.10: a 552 that speaks of too many recipients is a 452.
    too_many = reply.code == 552 and reply.status == "5.5.3"
    if reply.code < 500 or too_many:
        return Reason.BACKBONE_UNAVAILABLE
    return Reason.BACKBONE_REFUSED
