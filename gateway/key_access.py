"""The key-encryption key and the PKCS#11 token that the configuration names.

Talks to the files and the token.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from certs.envelope import KEK_OCTETS
from certs.errors import DirectError, Reason
from certs.identity import PrivateKey
from certs.kek import KekKind, KekSource, parse_source, read_keks, read_secret
from gateway.config import Config
from gateway.files import write_secret

if TYPE_CHECKING:
    from certs.hsm import Token

__all__ = [
    "KeyAccess",
    "adopt_next_kek",
    "kek_source",
    "key_access",
    "make_kek",
    "next_kek",
]


class KeyAccess:
    """What opens our private keys. The token is logged in to at its first use."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._token: Token | None = None

    @property
    def has_token(self) -> bool:
        """Whether a token is configured."""
        return self._config.keys.pkcs11_module is not None

    def kek(self) -> bytes:
        """Return the key that private keys are sealed under from now on.

        Raises:
            DirectError: CONFIGURATION_INVALID; it cannot be read. INTERNAL; the token is away.
        """
        return self.keks()[-1]

    def keks(self) -> Sequence[bytes]:
        """Return every key that private keys may be sealed under now: two during a rotation."""
        former = self._config.keys.former_kek
        sources = [
            *([parse_source(former, folder=self._config.gateway.data)] if former else []),
            kek_source(self._config),
        ]
        return [kek for source in sources for kek in read_keks(source, self.unseal)]

    def unseal(self, sealed: bytes, label: str) -> bytes:
        """Return what the token sealed under its key of this label."""
        return self.token().unseal(sealed, label)

    def token_key(self, label: str) -> PrivateKey:
        """Return a private key in the token."""
        return self.token().key(label)

    def token(self) -> Token:
        """Return the token.

        Raises:
            DirectError: CONFIGURATION_INVALID; none is configured, or what speaks to it is not
                installed.
        """
        if self._token is None:
            self._token = _token(self._config)
        return self._token

    def close(self) -> None:
        """Log out of the token."""
        if self._token is not None:
            self._token.close()


@contextmanager
def key_access(config: Config) -> Iterator[KeyAccess]:
    """Have access to the keys for as long as the context lasts."""
    access = KeyAccess(config)
    try:
        yield access
    finally:
        access.close()


def kek_source(config: Config) -> KekSource:
    """Return where the key-encryption key lies; relative paths count from the data folder."""
    return parse_source(config.keys.kek, folder=config.gateway.data)


def make_kek(config: Config, access: KeyAccess) -> None:
    """Make the key-encryption key where there is none and it is ours to make.

    A credential is the administrator's to make.
    """
    source = kek_source(config)
    if source.kind is not KekKind.CREDENTIAL and not source.path.exists():
        _make(source, source.path, access)


def next_kek(config: Config, access: KeyAccess) -> None:
    """Make the key that the key-encryption key is rotated to, unless a rotation broke off.

    Raises:
        DirectError: CONFIGURATION_INVALID; a credential is the administrator's to rotate.
    """
    source = kek_source(config)
    if source.kind is KekKind.CREDENTIAL:
        detail = "make another credential, name it in keys.kek and the old one in keys.former_kek"
        raise DirectError(Reason.CONFIGURATION_INVALID, detail)
    if not source.following.exists():
        _make(source, source.following, access)


def adopt_next_kek(config: Config) -> None:
    """Make the next key the key, now that everything is sealed under it."""
    source = kek_source(config)
    source.following.replace(source.path)


def _make(source: KekSource, path: Path, access: KeyAccess) -> None:
    key = os.urandom(KEK_OCTETS)
    write_secret(path, access.token().seal(key, source.label) if source.label else key)


def _token(config: Config) -> Token:
    keys = config.keys
    if keys.pkcs11_module is None:
        raise DirectError(
            Reason.CONFIGURATION_INVALID, "no token is configured: set keys.pkcs11_module"
        )
    try:
        # Imported here, for few have a token: the package that speaks to it is an extra.
        from certs.hsm import Token
    except ImportError:
        detail = "a token needs python-pkcs11: pip install 'direct-gateway[pkcs11]'"
        raise DirectError(Reason.CONFIGURATION_INVALID, detail) from None
    pin = read_secret(parse_source(keys.pkcs11_pin, folder=config.gateway.data).path)
    return Token(
        module=str(keys.pkcs11_module),
        label=keys.pkcs11_token,
        pin=pin.decode("utf-8", "replace").rstrip("\r\n"),
    )
