"""Our own certificates and private keys, in the database.

Talks to the database. Keys lie there as envelopes (`certs.envelope`), or in a PKCS#11 token.
`certs.stored_keys` opens them for the pipeline.

Standards:
    AS      Applicability Statement for Secure Health Transport v1.3, sections 1.4 and 2
    RFC8550 section 4.4.2 (key usage)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.address import DirectAddress
from certs.binding import Binding, binding_of
from certs.envelope import open_any, seal_envelope
from certs.errors import DirectError, Reason
from certs.ids import new_id
from certs.issue import Use
from certs.issuers import sha256_of
from certs.pkcs12 import KeyBundle
from certs.policy import CertificatePolicy
from certs.profile import fit_to_encrypt, fit_to_sign
from certs.tables import own_identity

__all__ = [
    "SELECT",
    "HeldKey",
    "OwnIdentity",
    "add",
    "described",
    "export",
    "find",
    "keep",
    "list_identities",
    "public_sha256",
]

DEFAULT_POLICY: Final = CertificatePolicy()


@dataclass(frozen=True, slots=True)
class OwnIdentity:
    """One of our certificates, without its key."""

    id: UUID
    subject: str
    binding: Binding
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    uses: frozenset[Use]
    sha256: str
    created_at: datetime
    publish_at: datetime | None
    sign_from: datetime | None
    sign_until: datetime | None
    retired_at: datetime | None
    token_label: str | None

    def is_retired(self, now: datetime) -> bool:
        """Say whether it is published no more and signs no more."""
        return self.retired_at is not None and self.retired_at <= now

    def is_valid(self, now: datetime) -> bool:
        """Say whether `now` lies between the certificate's own dates."""
        certificate = self.certificate
        return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc

    def is_published(self, now: datetime) -> bool:
        """Say whether peers are to find it: it is encrypted to, and its time has come."""
        come = self.publish_at is None or self.publish_at <= now
        return come and Use.ENCRYPT in self.uses and self.is_valid(now) and not self.is_retired(now)

    def signs(self, now: datetime) -> bool:
        """Say whether it signs, as `StoredKeys` asks the database."""
        come = self.sign_from is None or self.sign_from <= now
        gone = self.sign_until is not None and self.sign_until <= now
        usable = self.is_valid(now) and not self.is_retired(now)
        return Use.SIGN in self.uses and come and not gone and usable


@dataclass(frozen=True, slots=True)
class HeldKey:
    """Where a private key lies: sealed in an envelope for the row `id`, or in a token."""

    id: UUID
    public: CertificatePublicKeyTypes
    envelope: bytes | None = None
    token_label: str | None = None


def add(
    connection: sa.Connection,
    bundle: KeyBundle,
    *,
    subject: DirectAddress | str,
    kek: bytes,
    now: datetime,
    uses: frozenset[Use] | None = None,
    policy: CertificatePolicy = DEFAULT_POLICY,
) -> UUID:
    """Keep a key and its certificate for an address, or for a whole domain given as text.

    `uses` is what the key is for; None means all that the certificate permits.

    Raises:
        DirectError: CERTIFICATE_NOT_BOUND; CERTIFICATE_UNFIT where it permits none of the uses;
            CONFIGURATION_INVALID where key and certificate do not belong together, or we have
            the certificate already.
    """
    identifier = new_id(now)
    held = HeldKey(
        identifier,
        bundle.key.public_key(),
        seal_envelope(bundle.key, kek=kek, context=identifier.bytes),
    )
    return keep(
        connection,
        held,
        bundle.certificate,
        bundle.chain,
        subject=subject,
        now=now,
        uses=uses,
        policy=policy,
    )


def keep(
    connection: sa.Connection,
    held: HeldKey,
    certificate: x509.Certificate,
    chain: Sequence[x509.Certificate],
    *,
    subject: DirectAddress | str,
    now: datetime,
    uses: frozenset[Use] | None = None,
    policy: CertificatePolicy = DEFAULT_POLICY,
) -> UUID:
    """Keep a certificate for a key that is sealed already, or lies in a token.

    Raises:
        DirectError: as for `add`.
    """
    sha256 = sha256_of(certificate).hex()
    if public_sha256(held.public) != public_sha256(certificate.public_key()):
        raise DirectError(Reason.CONFIGURATION_INVALID, "certificate is not for this key")
    if connection.execute(SELECT.where(own_identity.c.sha256 == sha256)).first():
        raise DirectError(Reason.CONFIGURATION_INVALID, f"certificate {sha256} is here already")
    name, binding = _bound(certificate, subject, policy)
    permitted = _permitted(certificate, policy, wanted=uses or frozenset(Use))
    connection.execute(
        sa.insert(own_identity).values(
            id=held.id,
            subject=name,
            kind=binding.value,
            certificate=certificate.public_bytes(Encoding.DER),
            chain=b"".join(cert.public_bytes(Encoding.PEM) for cert in chain),
            key_envelope=held.envelope,
            token_label=held.token_label,
            signs=Use.SIGN in permitted,
            decrypts=Use.ENCRYPT in permitted,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            sha256=sha256,
            created_at=now,
        )
    )
    return held.id


def list_identities(
    connection: sa.Connection, subjects: Sequence[str] | None = None
) -> Sequence[OwnIdentity]:
    """Return our certificates: all, or those of the given address keys and domains."""
    query = SELECT.order_by(own_identity.c.subject, own_identity.c.not_before.desc())
    if subjects is not None:
        query = query.where(own_identity.c.subject.in_(subjects))
    return [described(row) for row in connection.execute(query).mappings()]


def find(connection: sa.Connection, sha256: str) -> OwnIdentity:
    """Return the certificate whose fingerprint begins like this, colons and case aside.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; RESOURCE_CONFLICT where several begin so.
    """
    wanted = sha256.replace(":", "").lower()
    rows = connection.execute(
        SELECT.where(own_identity.c.sha256.startswith(wanted, autoescape=True)).limit(2)
    )
    found = [described(row) for row in rows.mappings()]
    if not found or not wanted:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no certificate {sha256}")
    if len(found) > 1:
        raise DirectError(Reason.RESOURCE_CONFLICT, f"several certificates begin with {sha256}")
    return found[0]


def export(connection: sa.Connection, sha256: str, *, keks: Sequence[bytes]) -> KeyBundle:
    """Return an identity with its private key.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; CONFIGURATION_INVALID for the wrong key-encryption key,
            or a key in a token, which cannot be taken out.
    """
    row = connection.execute(SELECT.where(own_identity.c.sha256 == sha256)).mappings().first()
    if row is None:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no certificate {sha256}")
    own = described(row)
    if row["key_envelope"] is None:
        raise DirectError(Reason.CONFIGURATION_INVALID, "the key is in a token and stays there")
    key = open_any(row["key_envelope"], keks, context=own.id.bytes)
    return KeyBundle(key, own.certificate, own.chain)


def public_sha256(key: CertificatePublicKeyTypes) -> str:
    """Return the SHA-256 of a public key (SubjectPublicKeyInfo) in hexadecimal."""
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def _bound(
    certificate: x509.Certificate, subject: DirectAddress | str, policy: CertificatePolicy
) -> tuple[str, Binding]:
    if isinstance(subject, DirectAddress):
        name, wanted, address = subject.key, Binding.ADDRESS, subject
    else:
        name, wanted, address = subject, Binding.DOMAIN, DirectAddress("postmaster", subject)
    binding = binding_of(certificate, address, policy.profile)
    if binding is not wanted:
        raise DirectError(Reason.CERTIFICATE_NOT_BOUND, f"certificate is not for {name} itself")
    return name, binding


def _permitted(
    certificate: x509.Certificate, policy: CertificatePolicy, *, wanted: frozenset[Use]
) -> frozenset[Use]:
    failure = None
    permitted = set()
    for use, fit in ((Use.SIGN, fit_to_sign), (Use.ENCRYPT, fit_to_encrypt)):
        try:
            fit(certificate, policy)
            permitted.add(use)
        except DirectError as error:
            failure = error
    if failure is not None and not wanted & permitted:
        raise failure
    return wanted & permitted


def described(row: sa.RowMapping) -> OwnIdentity:
    """Return what a row of `SELECT` says."""
    uses = {Use.SIGN: row["signs"], Use.ENCRYPT: row["decrypts"]}
    chain = row["chain"]
    return OwnIdentity(
        id=row["id"],
        subject=row["subject"],
        binding=Binding(row["kind"]),
        certificate=x509.load_der_x509_certificate(row["certificate"]),
        chain=tuple(x509.load_pem_x509_certificates(chain)) if chain else (),
        uses=frozenset(use for use, granted in uses.items() if granted),
        sha256=row["sha256"],
        created_at=row["created_at"],
        publish_at=row["publish_at"],
        sign_from=row["sign_from"],
        sign_until=row["sign_until"],
        retired_at=row["retired_at"],
        token_label=row["token_label"],
    )


SELECT: Final = sa.select(own_identity)
