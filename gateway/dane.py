"""TLSA records of a mail host: which are usable, and whether a certificate satisfies one.

Pure.

Standards:
    RFC6698 section 2.1 (fields of a TLSA record)
    RFC7671 section 5 (how each usage is judged) · RFC7672 section 3.1 (usages in SMTP)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = ["Tlsa", "satisfied"]

_DANE_EE: Final = 3
_WHOLE, _KEY = 0, 1
_DIGESTS: Final = {1: hashlib.sha256, 2: hashlib.sha512}


@dataclass(frozen=True, slots=True)
class Tlsa:
    """One record: certificate usage, selector, matching type and association data."""

    usage: int
    selector: int
    matching: int
    data: bytes

    @property
    def usable(self) -> bool:
        """Can we judge by it?

        RFC7672 3.1.3: PKIX usages (0, 1) are not for SMTP. DANE-TA (2) is; but it needs the chain
        the server sent, which Python before 3.13 does not show, so hosts that publish only it
        get mandatory TLS without authentication, as with records nobody understands.
        """
        known = self.selector in (_WHOLE, _KEY) and self.matching in (0, *_DIGESTS)
        return self.usage == _DANE_EE and known and bool(self.data)


def satisfied(records: Iterable[Tlsa], certificate: bytes) -> bool:
    """Say whether the server's own certificate, in DER, is one that a record names.

    RFC7671 5.1: with DANE-EE neither its names nor its dates count. What does not parse, or is
    empty, satisfies nothing.
    """
    return any(_selected(record, certificate) == record.data for record in records)


def _selected(record: Tlsa, certificate: bytes) -> bytes:
    chosen = certificate if record.selector == _WHOLE else _public_key(certificate)
    digest = _DIGESTS.get(record.matching)
    return digest(chosen).digest() if digest else chosen


def _public_key(certificate: bytes) -> bytes:
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except ValueError:
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
