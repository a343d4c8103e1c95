"""What the library raises on encodings that it does not understand.

Pure. It reads most parts of a certificate, a list or an answer when they are asked for, so every
such question about what a stranger sent may end so.

Standards:
    RFC5280 sections 4.1 and 5.1, RFC6960 section 4.2 (what there is to ask for)
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

__all__ = ["UNREADABLE"]

UNREADABLE: Final = (
    ValueError,
    TypeError,  # of a name with a value of a kind that its attribute does not have
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
