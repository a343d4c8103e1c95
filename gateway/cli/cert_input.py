"""Certificates and keys as an administrator hands them over: PKCS#12, or PEM beside PEM.

Talks to the files it is given, and asks for their passwords.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from certs.cert_files import certificates_in
from certs.errors import DirectError, Reason
from certs.identity import SupportedPrivateKey
from certs.pkcs12 import KeyBundle, load_pkcs12
from gateway.cli.asking import password_of
from gateway.cli.common import fail, read_file

__all__ = ["certificates_of", "key_bundle_of"]


def certificates_of(data: bytes) -> Sequence[x509.Certificate]:
    """Return the certificates in a file; none where it is something else, such as PKCS#12."""
    try:
        return certificates_in(data)
    except DirectError:
        return ()


def key_bundle_of(
    data: bytes,
    certificates: Sequence[x509.Certificate],
    key: Path | None,
    password_file: Path | None,
) -> KeyBundle | None:
    """Return key and certificate of a PKCS#12 file, or of PEM files; None where no key is given.

    A password is asked for where one is needed and somebody is there; exit 2 otherwise.
    """
    try:
        if not certificates:
            return _pkcs12(data, password_file)
        if key is None:
            return None
        leaf, *chain = certificates
        return KeyBundle(_pem_key(read_file(key), password_file), leaf, tuple(chain))
    except DirectError as error:
        fail(error)


def _pkcs12(data: bytes, password_file: Path | None) -> KeyBundle:
    if password_file is None:
        try:
            return load_pkcs12(data, None)
        except DirectError:
            if not sys.stdin.isatty():
                raise
    return load_pkcs12(data, password_of(password_file, "Password of the PKCS#12 file"))


def _pem_key(data: bytes, password_file: Path | None) -> SupportedPrivateKey:
    sealed = b"ENCRYPTED" in data
    password = password_of(password_file, "Password of the private key") if sealed else None
    try:
        private = serialization.load_pem_private_key(data, password.encode() if password else None)
    except (ValueError, TypeError):
        detail = "not a PEM private key, or the password is wrong"
        raise DirectError(Reason.CONFIGURATION_INVALID, detail) from None
    if not isinstance(private, SupportedPrivateKey):
        raise DirectError(Reason.CONFIGURATION_INVALID, "private key is of an unknown kind")
    return private
