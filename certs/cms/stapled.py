"""Revocation answers that a signer sends along in its message.

Pure. They are read and nothing more: whoever signed the message chose them. `certs.chains` keeps
those that a CA of the signer's path has signed, and `certs.revocation` judges them like fetched
ones, so that an answer from here never takes the place of one that says more.

Standards:
    RFC5652 section 10.2.1 (RevocationInfoChoices)
    RFC5940 section 2.1 (OCSP responses in CMS)
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from cryptography.x509 import ocsp

from certs.cms import der
from certs.cms.ber import Element, children
from certs.crl import Crl, read_crl
from certs.errors import DirectError
from certs.evidence import Revocation
from certs.ocsp import read_answer

__all__ = ["stapled_in"]

CRLS: Final = 8
OCSP_RESPONSES: Final = 16
CHOICES: Final = 64

_OTHER: Final = der.context(1)
# id-ri-ocsp-response, 1.3.6.1.5.5.7.16.2
_OCSP_RESPONSE: Final = bytes.fromhex("06082b06010505071002")


def stapled_in(choices: Element) -> Revocation:
    """Return the answers in `choices`; what does not parse or is of another kind is passed over.

    Raises:
        DirectError: MESSAGE_MALFORMED; the frame does not parse, or has more than 64 choices.
    """
    crls: list[Crl] = []
    responses: list[ocsp.OCSPResponse] = []
    for choice in children(choices.content, limit=CHOICES):
        # An answer that does not parse says nothing, as if it were not there.
        with suppress(DirectError):
            if choice.tag == der.SEQUENCE and len(crls) < CRLS:
                crls.append(read_crl(choice.encoded))
            elif choice.tag == _OTHER and len(responses) < OCSP_RESPONSES:
                responses += _responses(choice)
    return Revocation(tuple(crls), tuple(responses))


def _responses(other: Element) -> list[ocsp.OCSPResponse]:
    # OtherRevocationInfoFormat ::= SEQUENCE { otherRevInfoFormat OID, otherRevInfo ANY }
    match children(other.content, limit=2):
        case [kind, value] if kind.encoded == _OCSP_RESPONSE:
            return [read_answer(value.encoded)]
        case _:
            return []
