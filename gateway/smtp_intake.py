"""The content of one message, from the connection into a body sink.

Talks to one `SmtpStream` and one `BodySink`. The content is read to its end whatever is wrong with
it, since the end is where the next command begins; what is wrong is said after it.

Standards:
    RFC5321 sections 4.1.1.4 and 4.5.3.2 · RFC1870 section 6.3 (size, checked while reading)
"""

from __future__ import annotations

import asyncio

from certs.errors import DirectError, Reason
from gateway.ports import BodySink
from gateway.smtp_data import DotDecoder
from gateway.smtp_limits import Limits, Pace
from gateway.smtp_stream import SmtpStream
from gateway.status import CommandError, Reply

__all__ = ["receive"]


async def receive(stream: SmtpStream, sink: BodySink, limits: Limits) -> None:
    """Take the content up to CRLF "." CRLF into `sink`.

    Raises:
        CommandError: 550; a bare CR or LF, which would break the signature and may be smuggling.
            421; too slow.
        DirectError: MESSAGE_TOO_BIG; INTERNAL where the sink cannot take it.
        DisconnectedError: the peer is gone before the end.
    """
    clock = asyncio.get_running_loop().time
    pace = Pace(limits, clock())
    decoder = DotDecoder()
    fault: Exception | None = None
    rest: bytes | None = None
    while rest is None:
        block = await stream.block(pace.wait_s(decoder.size, clock()))
        content, rest = decoder.feed(block)
        fault = fault or _fault_of(decoder, limits) or _put(content, sink)
    stream.unread(rest)
    if fault is not None:
        raise fault


def _fault_of(decoder: DotDecoder, limits: Limits) -> Exception | None:
    if decoder.size > limits.size_octets:
        return DirectError(Reason.MESSAGE_TOO_BIG, f"more than {limits.size_octets} octets")
    if decoder.bare:
        # RFC5321 2.3.8
        return CommandError(Reply(550, "5.6.0", "Lines end in CR LF; bare CR or LF refused"))
    return None


def _put(content: bytes, sink: BodySink) -> Exception | None:
    try:
        sink.write(content)
    except OSError as error:
        return DirectError(Reason.INTERNAL, f"body sink: {error.strerror}")
    return None
