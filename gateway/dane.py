"""TLSA records of a mail host: which are usable, and which of its certificates they name.

Pure.

Standards:
    RFC6698 section 2.1 (fields of a TLSA record)
    RFC7671 section 5 (how each usage is judged) · RFC7672 section 3.1 (usages in SMTP)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = ["Tlsa", "named_anchor", "satisfied"]

_DANE_TA: Final = 2
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

        RFC7672 3.1.3: PKIX usages (0, 1) are not for SMTP.
        """
        known = self.selector in (_WHOLE, _KEY) and self.matching in (0, *_DIGESTS)
        return self.usage in (_DANE_TA, _DANE_EE) and known and bool(self.data)


def satisfied(records: Iterable[Tlsa], certificate: bytes) -> bool:
    """Say whether the server's own certificate, in DER, is one that a record names.

    RFC7671 5.1: with DANE-EE neither its names nor its dates count. What does not parse, or is
    empty, satisfies nothing.
    """
    return any(
        record.usage == _DANE_EE and _selected(record, certificate) == record.data
        for record in records
    )


def named_anchor(records: Iterable[Tlsa], chain: Sequence[bytes]) -> bytes | None:
    """Return the CA in the server's chain, in DER, that a record names; None: there is none.

    RFC7672 3.1.2: a server whose records name its CA sends that CA's certificate too. Whether the
    server's own is issued under it, by name and date, is for the TLS library to say (RFC7671 5.2).
    """
    for record in records:
        if record.usage == _DANE_TA:
            for certificate in chain[1:]:
                if _selected(record, certificate) == record.data:
                    return certificate
    return None


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
