"""A small CA for tests: hierarchies, end-entity certificates, CRLs and OCSP answers.

All is made at run time; keys are cached per session by kind and label, so RSA is paid once.
Everything is valid around `NOW`; what a test wants wrong it asks for: `issue(not_after=...)`,
`reissue(...)`, `resign_sha1`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final, Protocol

from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509 import ocsp

from certs.address import parse_address
from certs.identity import Identity, SoftwareKey, SupportedPrivateKey
from certs.issue import (
    Issuer,
    KeyKind,
    Locations,
    SigningKey,
    Use,
    Validity,
    ca_certificate,
    end_entity_certificate,
    generate_key,
)
from gateway import bench_crl

__all__ = [
    "NOW",
    "Ca",
    "der",
    "large_crl",
    "pem",
    "pkcs12_of",
    "private_key_of",
    "reissue",
    "resign_sha1",
    "session_key",
]

NOW: Final = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
YEAR: Final = timedelta(days=365)
BOTH: Final = frozenset(Use)
NOWHERE: Final = Locations()
BIT_STRING: Final = 0x03


class HasPublicKey(Protocol):
    """A private key, or what stands for one where only the public half matters."""

    def public_key(self) -> Any:
        """The public key, of any kind a certificate can hold."""


@cache
def session_key(kind: str, label: str) -> SupportedPrivateKey:
    """The key of `kind` ("p256", "rsa2048", ..., also "rsa1024" and "x25519") under `label`."""
    if kind == "rsa1024":
        return rsa.generate_private_key(65537, 1024)
    if kind == "x25519":
        return x25519.X25519PrivateKey.generate()
    return generate_key(KeyKind(kind))


@dataclass(frozen=True)
class Ca:
    """A certification authority. `chain` is itself and those above it, without the root."""

    certificate: x509.Certificate
    key: SigningKey
    chain: tuple[x509.Certificate, ...] = ()

    @classmethod
    def create(
        cls,
        name: str = "Test Root",
        *,
        key: str = "p256",
        parent: Ca | None = None,
        not_before: datetime = NOW - YEAR,
        not_after: datetime = NOW + 10 * YEAR,
        path_length: int | None = None,
        locations: Locations = NOWHERE,
        label: str | None = None,
    ) -> Ca:
        """A root, or an intermediate under `parent`."""
        own = session_key(key, label or name)
        assert not isinstance(own, x25519.X25519PrivateKey)
        certificate = ca_certificate(
            own,
            name=name,
            validity=Validity(not_before, not_after),
            issuer=parent.issuer if parent else None,
            path_length=path_length,
            locations=locations,
        )
        return cls(certificate, own, (certificate, *parent.chain) if parent else ())

    @property
    def issuer(self) -> Issuer:
        """This CA as `certs.issue` wants it."""
        return Issuer(self.certificate, self.key)

    def issue(
        self,
        *,
        address: str | None = None,
        domain: str | None = None,
        key: str = "p256",
        not_before: datetime = NOW - timedelta(days=30),
        not_after: datetime = NOW + YEAR,
        uses: frozenset[Use] = BOTH,
        locations: Locations = NOWHERE,
        label: str | None = None,
    ) -> Identity:
        """An end-entity identity bound to `address` or to `domain`."""
        subject = parse_address(address) if address is not None else domain
        assert subject is not None, "say address= or domain="
        own = session_key(key, label or str(subject))
        certificate = end_entity_certificate(
            own.public_key(),
            subject,
            issuer=self.issuer,
            validity=Validity(not_before, not_after),
            uses=uses - {Use.ENCRYPT} if key == "ed25519" else uses,
            locations=locations,
        )
        return Identity(certificate, self.chain, SoftwareKey(own))

    def expired(self, *, address: str | None = None, domain: str | None = None) -> Identity:
        """An identity that ran out a day before `NOW`."""
        return self.issue(
            address=address,
            domain=domain,
            not_before=NOW - YEAR,
            not_after=NOW - timedelta(days=1),
            label=f"expired {address or domain}",
        )

    def crl(
        self,
        revoked: Iterable[x509.Certificate | int] = (),
        *,
        this_update: datetime = NOW - timedelta(hours=1),
        next_update: datetime = NOW + timedelta(days=1),
        reason: x509.ReasonFlags | None = x509.ReasonFlags.key_compromise,
        number: int = 1,
        extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
    ) -> x509.CertificateRevocationList:
        """A CRL of this CA over the given certificates or serial numbers."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(this_update)
            .next_update(next_update)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for item in revoked:
            serial = item if isinstance(item, int) else item.serial_number
            entry = x509.RevokedCertificateBuilder(serial, this_update - timedelta(days=1))
            if reason is not None:
                entry = entry.add_extension(x509.CRLReason(reason), critical=False)
            builder = builder.add_revoked_certificate(entry.build())
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())

    def ocsp(
        self,
        certificate: x509.Certificate,
        status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
        *,
        responder: Identity | None = None,
        this_update: datetime = NOW - timedelta(hours=1),
        next_update: datetime | None = NOW + timedelta(hours=12),
    ) -> ocsp.OCSPResponse:
        """An OCSP answer about `certificate`, signed by this CA or by its delegate."""
        revoked = status is ocsp.OCSPCertStatus.REVOKED
        signer = responder.certificate if responder else self.certificate
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                cert=certificate,
                issuer=self.certificate,
                algorithm=hashes.SHA1(),
                cert_status=status,
                this_update=this_update,
                next_update=next_update,
                revocation_time=this_update if revoked else None,
                revocation_reason=x509.ReasonFlags.key_compromise if revoked else None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, signer)
        )
        if responder:
            builder = builder.certificates([responder.certificate])
        key = private_key_of(responder) if responder else self.key
        assert not isinstance(key, x25519.X25519PrivateKey)
        return builder.sign(key, hashes.SHA256())


def reissue(
    certificate: x509.Certificate,
    ca: Ca,
    *,
    extensions: Mapping[type[x509.ExtensionType], x509.ExtensionType | None] | None = None,
    critical: bool = False,
    subject: x509.Name | None = None,
    serial: int | None = None,
    public_key: HasPublicKey | None = None,
) -> x509.Certificate:
    """`certificate` signed again by `ca`, with extensions replaced, added or (None) dropped."""
    changes = dict(extensions or {})
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject if subject is None else subject)
        .issuer_name(ca.certificate.subject)
        .public_key((public_key or _Holder(certificate)).public_key())
        .serial_number(x509.random_serial_number() if serial is None else serial)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
    )
    for extension in certificate.extensions:
        if type(extension.value) not in changes:
            builder = builder.add_extension(extension.value, extension.critical)
    for value in changes.values():
        if value is not None:
            builder = builder.add_extension(value, critical)
    return builder.sign(ca.key, hashes.SHA256())


def resign_sha1(certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> x509.Certificate:
    """`certificate` under a SHA-1 signature, which `cryptography` no longer makes."""
    algorithm = {"algorithm": "sha1_rsa"}
    parsed = asn1_x509.Certificate.load(der(certificate))
    parsed["tbs_certificate"]["signature"] = algorithm
    parsed["signature_algorithm"] = algorithm
    body = parsed["tbs_certificate"].dump(force=True)
    parsed["signature_value"] = key.sign(body, padding.PKCS1v15(), hashes.SHA1())
    return x509.load_der_x509_certificate(parsed.dump(force=True))


def large_crl(ca: Ca, entries: int) -> bytes:
    """A CRL over the serial numbers from 2**152 on."""
    return bench_crl.large_crl(ca.issuer, entries, now=NOW)


def private_key_of(identity: Identity) -> SupportedPrivateKey:
    """The key object inside a software identity."""
    assert isinstance(identity.key, SoftwareKey)
    return identity.key._key


def pkcs12_of(identity: Identity, password: str | None = None, name: str = "test") -> bytes:
    """The identity as PKCS#12, with its chain."""
    key = private_key_of(identity)
    assert not isinstance(key, x25519.X25519PrivateKey)
    return pkcs12.serialize_key_and_certificates(
        name.encode(),
        key,
        identity.certificate,
        list(identity.chain),
        BestAvailableEncryption(password.encode()) if password else NoEncryption(),
    )


def der(certificate: x509.Certificate) -> bytes:
    """DER."""
    return certificate.public_bytes(Encoding.DER)


def pem(item: x509.Certificate | SupportedPrivateKey) -> bytes:
    """PEM of a certificate, or PKCS#8 PEM of a key."""
    if isinstance(item, x509.Certificate):
        return item.public_bytes(Encoding.PEM)
    return item.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class _Holder:
    """Gives a certificate's key under the name a private key has for it."""

    def __init__(self, certificate: x509.Certificate) -> None:
        self._key = certificate.public_key()

    def public_key(self) -> Any:
        return self._key
