"""A small CA of one's own, in the data folder, for tests and small communities.

Talks to the file system. The certificate is public; the key lies in an envelope like every
private key here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.address import DirectAddress
from certs.envelope import open_any, seal_envelope
from certs.errors import DirectError, Reason
from certs.issue import (
    Issuer,
    KeyKind,
    PublicKey,
    SigningKey,
    Use,
    Validity,
    ca_certificate,
    end_entity_certificate,
    generate_key,
)
from certs.pkcs12 import KeyBundle
from certs.rollover import rewrap_any
from gateway.files import replace_secret, write_secret

__all__ = ["OwnCa", "rewrap_ca"]

CA_LIFE: Final = timedelta(days=3650)
# Certificates are made valid a little earlier than now: clocks of peers differ.
SKEW: Final = timedelta(minutes=5)
_CONTEXT: Final = b"direct-gateway own CA"


class OwnCa:
    """Issues certificates to our own addresses and domains."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    @property
    def certificate(self) -> x509.Certificate:
        """The CA's certificate: the anchor that a peer adds."""
        return self._issuer.certificate

    @classmethod
    def open(cls, folder: Path, *, keks: Sequence[bytes], name: str, now: datetime) -> OwnCa:
        """Return the CA in `folder`; make it, called `name`, where there is none.

        Raises:
            DirectError: CONFIGURATION_INVALID; its files cannot be read, or not with any of `keks`.
        """
        certificate_file, key_file = folder / "ca.crt", folder / "ca.key"
        if not key_file.exists():
            issuer = _make(name, now)
            # The key last: where it is there, both are, whenever the power fails.
            certificate_file.write_bytes(issuer.certificate.public_bytes(Encoding.PEM))
            write_secret(key_file, seal_envelope(issuer.key, kek=keks[-1], context=_CONTEXT))
            return cls(issuer)
        try:
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            key = open_any(key_file.read_bytes(), keks, context=_CONTEXT)
        except (OSError, ValueError) as error:
            detail = f"{folder}: the CA cannot be read: {type(error).__name__}"
            raise DirectError(Reason.CONFIGURATION_INVALID, detail) from None
        if not isinstance(key, SigningKey):
            raise DirectError(Reason.CONFIGURATION_INVALID, f"{key_file}: not a signing key")
        return cls(Issuer(certificate, key))

    def issue(
        self,
        subject: DirectAddress | str,
        *,
        kind: KeyKind,
        days: int,
        now: datetime,
        uses: frozenset[Use] = frozenset(Use),
    ) -> KeyBundle:
        """Return a new key with a certificate bound to an address, or to a domain given as text."""
        key = generate_key(kind)
        certificate = self.certify(key.public_key(), subject, days=days, now=now, uses=uses)
        return KeyBundle(key, certificate, ())

    def certify(
        self,
        key: PublicKey,
        subject: DirectAddress | str,
        *,
        days: int,
        now: datetime,
        uses: frozenset[Use] = frozenset(Use),
    ) -> x509.Certificate:
        """Return a certificate for a key that somebody holds.

        Raises:
            DirectError: CERTIFICATE_UNFIT; the key cannot be used so.
        """
        end = min(now + timedelta(days=days), self.certificate.not_valid_after_utc)
        return end_entity_certificate(
            key, subject, issuer=self._issuer, validity=Validity(now - SKEW, end), uses=uses
        )


def rewrap_ca(folder: Path, *, old_keks: Sequence[bytes], new_kek: bytes) -> bool:
    """Seal the CA's key in `folder` under `new_kek`; say whether there is a CA.

    Raises:
        DirectError: CONFIGURATION_INVALID; none of the keys opens it.
    """
    key_file = folder / "ca.key"
    if not key_file.exists():
        return False
    replace_secret(key_file, rewrap_any(key_file.read_bytes(), [new_kek, *old_keks], new_kek))
    return True


def _make(name: str, now: datetime) -> Issuer:
    key = generate_key(KeyKind.RSA_2048)
    certificate = ca_certificate(
        key, name=name, validity=Validity(now - SKEW, now + CA_LIFE), path_length=0
    )
    return Issuer(certificate, key)
