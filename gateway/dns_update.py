"""Push records to our own name server by dynamic update.

Talks to a DNS server, over TCP, signed by TSIG.

Standards:
    RFC2136 (dynamic update), RFC8945 (TSIG)
"""

from __future__ import annotations

from typing import Final

import dns.asyncquery
import dns.exception
import dns.name
import dns.rcode
import dns.tsig
import dns.update

from certs.errors import DirectError, Reason

__all__ = ["push_update"]

TIMEOUT_S: Final = 10.0


async def push_update(
    message: dns.update.UpdateMessage, *, server: tuple[str, int], key: dns.tsig.Key
) -> None:
    """Send an update to `server` (address and port), signed with `key`.

    Raises:
        DirectError: DIRECTORY_UNAVAILABLE where there is no answer; CONFIGURATION_INVALID where
            the server refuses the key or the change.
    """
    message.use_tsig(key)
    host, port = server
    try:
        response = await dns.asyncquery.tcp(message, host, timeout=TIMEOUT_S, port=port)
    except dns.tsig.PeerError as error:
        raise DirectError(
            Reason.CONFIGURATION_INVALID, f"{host}: key refused: {type(error).__name__}"
        ) from None
    except dns.exception.FormError:
        # A server that does not know the zone or the key answers without a signature.
        raise DirectError(Reason.CONFIGURATION_INVALID, f"{host}: answer is not signed") from None
    except (dns.exception.DNSException, OSError) as error:
        raise DirectError(Reason.DIRECTORY_UNAVAILABLE, f"{host}: {type(error).__name__}") from None
    if response.rcode() != dns.rcode.NOERROR:
        raise DirectError(
            Reason.CONFIGURATION_INVALID, f"{host}: {dns.rcode.to_text(response.rcode())}"
        )
