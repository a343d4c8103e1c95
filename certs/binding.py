"""Does this certificate speak for this Direct address?

Pure: no I/O, no clock. Dates, chain and revocation are judged in `certs.path`.

Standards:
    AS      Applicability Statement for Secure Health Transport v1.3, sections 1.4 and 4.1
    RFC5280 sections 4.2.1.6 (subjectAltName) and 7.5 (comparing mail addresses)
"""

from __future__ import annotations

from enum import Enum

from cryptography import x509
from cryptography.x509.oid import NameOID

from certs.address import DirectAddress
from certs.errors import DirectError, Reason
from certs.policy import Profile
from certs.profile import extensions_of
from certs.unreadable import UNREADABLE

__all__ = ["Binding", "binding_of"]


class Binding(Enum):
    """How a certificate is tied to an address (AS 1.4). Both are trusted alike."""

    ADDRESS = "address-bound"  # an rfc822Name is the whole address
    DOMAIN = "domain-bound"  # a dNSName is the domain of the address


def binding_of(
    cert: x509.Certificate, address: DirectAddress, profile: Profile = Profile.AS_1_3
) -> Binding:
    """Say how `cert` is bound to `address`.

    A dNSName matches one whole domain; it covers no subdomain and `*` is not special.

    Raises:
        DirectError: CERTIFICATE_NOT_BOUND; no name matches, or there are none, or (as-1.3) the
            certificate claims more than one identity, or (as-1.2) the subject's emailAddress
            speaks against the subjectAltName.
    """
    mailboxes, domains = _names(cert, address)
    binding = _match(mailboxes, domains, address)
    if profile is Profile.AS_1_3:
        # AS-007: the subjectAltName of an end-entity certificate holds one identity.
        if len(mailboxes) + len(domains) > 1:
            raise _not_bound(address, "certificate names more than one identity")
    else:
        _legacy_names_agree(cert, address)
    return binding


def _names(cert: x509.Certificate, address: DirectAddress) -> tuple[list[str], list[str]]:
    try:
        names = extensions_of(cert).get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise _not_bound(address, "certificate has no subjectAltName") from None
    except DirectError:
        raise _not_bound(address, "certificate's extensions do not parse") from None
    mailboxes = sorted({name.lower() for name in names.get_values_for_type(x509.RFC822Name)})
    domains = sorted({name.lower() for name in names.get_values_for_type(x509.DNSName)})
    return mailboxes, domains


def _match(mailboxes: list[str], domains: list[str], address: DirectAddress) -> Binding:
    # RFC5280 7.5 compares the local part exactly. Accredited peers sign for one spelling and
    # send with another, so both parts are compared without case (AS-016, K-04).
    if address.key in mailboxes:
        return Binding.ADDRESS
    # AS-003: where an rfc822Name is present it must contain the address.
    if not mailboxes and address.domain in domains:
        return Binding.DOMAIN
    raise _not_bound(address, "no subjectAltName matches")


def _legacy_names_agree(cert: x509.Certificate, address: DirectAddress) -> None:
    # AS v1.2 4.1.1.2 (AS-005): a legacy emailAddress must agree; v1.3 ignores it (AS-006).
    try:
        claimed = [a.value for a in cert.subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS)]
    except UNREADABLE:
        raise _not_bound(address, "certificate's subject does not parse") from None
    if any(str(value).lower() not in (address.key, address.domain) for value in claimed):
        raise _not_bound(address, "subject emailAddress names somebody else")


def _not_bound(address: DirectAddress, detail: str) -> DirectError:
    return DirectError(Reason.CERTIFICATE_NOT_BOUND, f"{detail} ({address})")
