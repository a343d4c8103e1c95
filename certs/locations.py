"""Where a certificate says its issuer's certificate, CRL and OCSP responder are.

Pure. Whoever made the certificate chose these URLs: they are not fetched before a path to an
anchor exists, or is being built within bounds, and never from where `certs.http_client` forbids.

Standards:
    RFC5280 sections 4.2.1.13 (cRLDistributionPoints), 4.2.1.15 (freshestCRL) and 4.2.2.1
            (authorityInfoAccess)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from certs.errors import DirectError
from certs.profile import extensions_of

__all__ = ["crl_urls", "issuer_urls", "ocsp_urls"]

URLS: Final = 4  # of one kind, from one certificate


def crl_urls(cert: x509.Certificate) -> tuple[str, ...]:
    """Return where the CRL is, and the delta CRL; http and https only, LDAP is not processed."""
    try:
        values = [extension.value for extension in extensions_of(cert)]
    except DirectError:
        return ()
    return _web(
        name
        for value in values
        if isinstance(value, x509.CRLDistributionPoints | x509.FreshestCRL)
        for point in value
        for name in point.full_name or ()
    )


def ocsp_urls(cert: x509.Certificate) -> tuple[str, ...]:
    """Return the OCSP responders, http and https only."""
    return _access(cert, AuthorityInformationAccessOID.OCSP)


def issuer_urls(cert: x509.Certificate) -> tuple[str, ...]:
    """Return where the issuer's certificate is, http and https only."""
    return _access(cert, AuthorityInformationAccessOID.CA_ISSUERS)


def _access(cert: x509.Certificate, method: x509.ObjectIdentifier) -> tuple[str, ...]:
    try:
        access = extensions_of(cert).get_extension_for_class(x509.AuthorityInformationAccess)
    except (DirectError, x509.ExtensionNotFound):
        return ()
    return _web(item.access_location for item in access.value if item.access_method == method)


def _web(names: Iterable[x509.GeneralName]) -> tuple[str, ...]:
    urls = (name.value for name in names if isinstance(name, x509.UniformResourceIdentifier))
    return tuple(url for url in urls if url.lower().startswith(("http://", "https://")))[:URLS]
