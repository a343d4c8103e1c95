"""The TLS context of a listener.

Talks to the file system.

Standards:
    RFC9325 section 3.1 (TLS 1.2 and up)
"""

from __future__ import annotations

import ssl
from pathlib import Path

from certs.errors import DirectError, Reason

__all__ = ["server_context"]


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a server's context with this PEM chain and key.

    Raises:
        DirectError: CONFIGURATION_INVALID; a file cannot be read, or they do not fit together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        detail = f"TLS certificate {certificate}: {error.strerror or error}"
        raise DirectError(Reason.CONFIGURATION_INVALID, detail) from None
    return context
