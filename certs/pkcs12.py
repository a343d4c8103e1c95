"""PKCS#12 files: read within bounds, and written.

Pure.

Standards:
    RFC7292 (PKCS#12)
    RFC8018 (PBES2)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from asn1crypto import pkcs12 as asn1_pkcs12  # type: ignore[import-untyped]  # ships no types
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from certs.errors import DirectError, Reason
from certs.identity import SupportedPrivateKey

__all__ = ["KeyBundle", "load_pkcs12", "write_pkcs12"]

FILE_OCTETS: Final = 1024 * 1024
ITERATIONS: Final = 5_000_000  # some seconds of work; real files have 2,048 to 600,000
CERTIFICATES: Final = 20


@dataclass(frozen=True, slots=True)
class KeyBundle:
    """A private key, its certificate, and the intermediates (leaf's issuer first)."""

    key: SupportedPrivateKey
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]


def load_pkcs12(data: bytes, password: str | None = None) -> KeyBundle:
    """Return what the file holds; an RSA key is checked, which takes 36 ms and more.

    Raises:
        DirectError: CONFIGURATION_INVALID; not PKCS#12, wrong password, over the limits, no key
            or no certificate for it, or a key of a kind that Direct has no use for.
    """
    if len(data) > FILE_OCTETS:
        raise _invalid("PKCS#12 file is over 1 MiB")
    _bounded_work(data)
    try:
        content = pkcs12.load_pkcs12(data, password.encode() if password else None)
    except (ValueError, UnsupportedAlgorithm):
        raise _invalid("not a PKCS#12 file, or the password is wrong") from None
    if content.key is None or content.cert is None:
        raise _invalid("PKCS#12 file lacks the key or its certificate")
    if not isinstance(content.key, SupportedPrivateKey):
        raise _invalid("private key is of an unknown kind")
    others = [entry.certificate for entry in content.additional_certs[:CERTIFICATES]]
    leaf = content.cert.certificate
    return KeyBundle(content.key, leaf, _ordered(leaf, others))


def write_pkcs12(bundle: KeyBundle, *, password: str, name: str) -> bytes:
    """Return a PKCS#12 file under `password` (PBES2, AES-256).

    Raises:
        DirectError: CONFIGURATION_INVALID; PKCS#12 has no place for an X25519 key.
    """
    if isinstance(bundle.key, x25519.X25519PrivateKey):
        raise _invalid("an X25519 key does not go into PKCS#12")
    return pkcs12.serialize_key_and_certificates(
        name.encode(),
        bundle.key,
        bundle.certificate,
        list(bundle.chain),
        BestAvailableEncryption(password.encode()),
    )


def _bounded_work(data: bytes) -> None:
    """Refuse a file that asks for years of key derivation, before deriving anything."""
    try:
        file = asn1_pkcs12.Pfx.load(data)
        counts = list(_iterations(file))
    except (ValueError, TypeError, KeyError):
        raise _invalid("not a PKCS#12 file") from None
    if any(count > ITERATIONS for count in counts):
        raise _invalid(f"PKCS#12 file asks for {max(counts)} iterations")


def _iterations(file: Any) -> Iterator[int]:
    if file["mac_data"].native is not None:
        yield file["mac_data"]["iterations"].native
    for content in file.authenticated_safe:
        if content["content_type"].native == "encrypted_data":
            information = content["content"]["encrypted_content_info"]
            yield information["content_encryption_algorithm"].kdf_iterations
        elif content["content_type"].native == "data":
            bags = asn1_pkcs12.SafeContents.load(content["content"].native)
            for bag in bags:
                if bag["bag_id"].native == "pkcs8_shrouded_key_bag":
                    yield bag["bag_value"]["encryption_algorithm"].kdf_iterations


def _ordered(
    leaf: x509.Certificate, others: list[x509.Certificate]
) -> tuple[x509.Certificate, ...]:
    chain: list[x509.Certificate] = []
    last = leaf
    while issuer := next((c for c in others if c.subject == last.issuer and c not in chain), None):
        # The self-signed root is for the other side to have, not for us to send.
        if issuer.subject == issuer.issuer:
            break
        chain.append(issuer)
        last = issuer
    return tuple(chain)


def _invalid(detail: str) -> DirectError:
    return DirectError(Reason.CONFIGURATION_INVALID, detail)
