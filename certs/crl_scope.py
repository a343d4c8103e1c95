"""Which certificates, and which reasons, a CRL speaks about.

Pure.

Standards:
    RFC5280 sections 5.2 (CRL extensions) and 6.3.3 (b), (d), (e) (scope of a list)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

from cryptography import x509

__all__ = ["ALL_REASONS", "Reasons", "Scope", "extension_of"]

T = TypeVar("T", bound=x509.ExtensionType)
Reasons = frozenset[x509.ReasonFlags]

ALL_REASONS: Final[Reasons] = frozenset(x509.ReasonFlags) - {
    x509.ReasonFlags.unspecified,
    x509.ReasonFlags.remove_from_crl,
}
_PROCESSED: Final = (
    x509.IssuingDistributionPoint,
    x509.AuthorityKeyIdentifier,
    x509.CRLNumber,
    x509.DeltaCRLIndicator,
    x509.FreshestCRL,
)


class Scope:
    """The scope of one list, and its place in the sequence of lists.

    `base` is the number of the list that a delta list changes, None for a complete list. `point`
    is what complete and delta list must have in common.
    """

    def __init__(self, parsed: x509.CertificateRevocationList) -> None:
        extensions = parsed.extensions
        self._issuer = parsed.issuer
        self.point: Final = extension_of(extensions, x509.IssuingDistributionPoint)
        number = extension_of(extensions, x509.CRLNumber)
        delta = extension_of(extensions, x509.DeltaCRLIndicator)
        self.number: Final = number.crl_number if number else None
        self.base: Final = delta.crl_number if delta else None
        # RFC5280 5.2: a list with a critical extension one does not process may not be used.
        self._understood = all(
            isinstance(extension.value, _PROCESSED)
            for extension in extensions
            if extension.critical
        )

    def reasons_for(self, cert: x509.Certificate) -> Reasons:
        """Return for which reasons this list would name `cert`; none where it is out of scope."""
        if not self._understood:
            return frozenset()
        if self.point is None:
            return ALL_REASONS
        constraints = extension_of(cert.extensions, x509.BasicConstraints)
        is_ca = constraints is not None and constraints.ca
        wrong_kind = (
            self.point.only_contains_attribute_certs
            or (self.point.only_contains_user_certs and is_ca)
            or (self.point.only_contains_ca_certs and not is_ca)
        )
        mine = self._names(self.point.full_name, self.point.relative_name, self._issuer)
        if wrong_kind or (mine and not self._share(mine, cert)):
            return frozenset()
        return self.point.only_some_reasons or ALL_REASONS

    def _share(self, mine: frozenset[x509.GeneralName], cert: x509.Certificate) -> bool:
        points = extension_of(cert.extensions, x509.CRLDistributionPoints) or ()
        for point in points:
            # RFC5280 6.3.3 (b) (1): a point that names another CRL issuer is not this list's.
            if point.crl_issuer and x509.DirectoryName(self._issuer) not in point.crl_issuer:
                continue
            theirs = self._names(point.full_name, point.relative_name, cert.issuer)
            # RFC5280 6.3.3 (b) (2) (i): a point without a name is known by its CRL issuer.
            if mine & (theirs or frozenset(point.crl_issuer or ())):
                return True
        return False

    def _names(
        self,
        full_name: Iterable[x509.GeneralName] | None,
        relative_name: x509.RelativeDistinguishedName | None,
        issuer: x509.Name,
    ) -> frozenset[x509.GeneralName]:
        if relative_name is not None:
            return frozenset({x509.DirectoryName(x509.Name([*issuer.rdns, relative_name]))})
        return frozenset(full_name or ())


def extension_of(extensions: x509.Extensions, kind: type[T]) -> T | None:
    """Return the value of an extension, None where it is not there."""
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
