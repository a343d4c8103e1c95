"""TLS contexts: of our servers, and of our client for each demand of a policy.

Talks to files of certificates and keys, when a context is made.

Standards:
    RFC9325 sections 3.1 (TLS 1.2 and up) and 4.2 (forward secrecy and AEAD)
    RFC7435 (opportunistic security) · RFC6125 (names in certificates) · RFC7671 section 5.2
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from certs.errors import DirectError, Reason

__all__ = [
    "anchored_context",
    "peer_chain",
    "server_context",
    "unverified_context",
    "verifying_context",
]

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


def anchored_context(anchor: bytes) -> ssl.SSLContext:
    """Return a client's context that demands a certificate issued under `anchor`, a CA in DER.

    RFC7671 5.2: it need not be a root.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=anchor)
    return context


def peer_chain(tunnel: ssl.SSLObject) -> tuple[bytes, ...]:
    """Return the certificates that the server has sent, in DER, its own first.

    Of a resumed session there is its own only.
    """
    # Python shows them from 3.13 on; until then what lies under it does.
    inner: Any = getattr(tunnel, "_sslobj", tunnel)
    sent: Iterable[Any] = inner.get_unverified_chain() or ()
    chain = tuple(ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in sent)
    own = tunnel.getpeercert(binary_form=True)
    return chain or ((own,) if own else ())
