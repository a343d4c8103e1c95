"""The content of one message, from the connection into a body sink.

Talks to one `SmtpReader` and one `BodySink`. The content is read to its end whatever is wrong with
it, since the end is where the next command begins; what is wrong is said after it.

Standards:
    RFC5321 sections 4.1.1.4 and 4.5.3.2 · RFC1870 section 6.3 (size, checked while reading)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from certs.errors import DirectError, Reason
from gateway.ports import BodySink
from gateway.smtp_data import DotDecoder
from gateway.smtp_limits import Limits, Pace
from gateway.smtp_reader import TIMED_OUT, SmtpReader
from gateway.status import CommandError, Reply

__all__ = ["receive"]


async def receive(
    reader: SmtpReader, sink: BodySink, limits: Limits, expect_in: Callable[[float], None]
) -> None:
    """Take the content up to CRLF "." CRLF into `sink`.

    `expect_in` sets the timer of the connection, in seconds, before each wait for more.

    Raises:
        CommandError: 550; a bare CR or LF, which would break the signature and may be smuggling.
            421; too slow.
        DirectError: MESSAGE_TOO_BIG; what the sink says where it cannot take the content.
        ConnectionResetError: the client is gone before the end.
    """
    clock = asyncio.get_running_loop().time
    pace = Pace(limits, clock())
    decoder = DotDecoder()
    fault: Exception | None = None
    rest: bytes | None = None
    while rest is None:
        wait_s = pace.wait_s(decoder.size, clock())
        if wait_s <= 0:
            raise CommandError(TIMED_OUT)
        expect_in(wait_s)
        content, rest = decoder.feed(await reader.block())
        fault = fault or _fault_of(decoder, limits) or _put(content, sink)
    reader.unread(rest)
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
    except Exception as error:  # noqa: BLE001 - raised after the end; content is no commands
        return error
    return None
