"""TLS contexts: of our servers, and of our client for each demand of a policy.

Talks to files of certificates and keys, when a context is made.

Standards:
    RFC9325 sections 3.1 (TLS 1.2 and up) and 4.2 (forward secrecy and AEAD)
    RFC7435 (opportunistic security) · RFC6125 (names in certificates)
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from certs.errors import DirectError, Reason

__all__ = ["server_context", "unverified_context", "verifying_context"]

# RFC9325 4.2; those of TLS 1.3 are all of this kind and need no list.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!aNULL"


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a server's context.

    Raises:
        DirectError: CONFIGURATION_INVALID; certificate or key cannot be read, or do not match.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        detail = f"TLS certificate {certificate}: {error.strerror or error}"
        raise DirectError(Reason.CONFIGURATION_INVALID, detail) from None
    return context


def unverified_context() -> ssl.SSLContext:
    """Return a client's context that encrypts to whoever answers.

    HISPs' certificates for SMTP are often self-signed, and confidentiality is S/MIME's (R-063).
    With DANE, the certificate is compared after the handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def verifying_context(anchors: Path | None = None) -> ssl.SSLContext:
    """Return a client's context that demands a certificate of the server's name.

    `anchors` is a PEM file of CAs in place of the system's.
    """
    context = ssl.create_default_context(cafile=str(anchors) if anchors else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
