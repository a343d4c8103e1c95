"""Our own certificates and private keys, in the database.

Talks to the database; keys lie there as envelopes (`certs.envelope`) and are opened once.

Standards:
    AS      Applicability Statement for Secure Health Transport v1.3, sections 1.4 and 2
    RFC8550 section 4.4.2 (key usage)
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.address import DirectAddress
from certs.binding import Binding, binding_of
from certs.envelope import KEK_OCTETS, open_envelope, seal_envelope
from certs.errors import DirectError, Reason
from certs.identity import Identity, SoftwareKey
from certs.ids import new_id
from certs.issue import Use
from certs.issuers import sha256_of
from certs.pkcs12 import KeyBundle
from certs.policy import CertificatePolicy
from certs.ports import Database
from certs.profile import fit_to_encrypt, fit_to_sign
from certs.tables import own_identity

__all__ = [
    "OwnIdentity",
    "StoredKeys",
    "add",
    "export",
    "list_identities",
    "read_kek",
    "retire",
]

IDENTITIES_CACHED: Final = 10_000
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
    retired_at: datetime | None


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
    certificate, sha256 = bundle.certificate, sha256_of(bundle.certificate).hex()
    if _public_bytes(bundle.key.public_key()) != _public_bytes(certificate.public_key()):
        raise DirectError(Reason.CONFIGURATION_INVALID, "certificate is not for this key")
    if connection.execute(_SELECT.where(own_identity.c.sha256 == sha256)).first():
        raise DirectError(Reason.CONFIGURATION_INVALID, f"certificate {sha256} is here already")
    name, binding = _bound(certificate, subject, policy)
    permitted = _permitted(certificate, policy, wanted=uses or frozenset(Use))
    identifier = new_id(now)
    connection.execute(
        sa.insert(own_identity).values(
            id=identifier,
            subject=name,
            kind=binding.value,
            certificate=certificate.public_bytes(Encoding.DER),
            chain=b"".join(cert.public_bytes(Encoding.PEM) for cert in bundle.chain),
            key_envelope=seal_envelope(bundle.key, kek=kek, context=identifier.bytes),
            signs=Use.SIGN in permitted,
            decrypts=Use.ENCRYPT in permitted,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            sha256=sha256,
            created_at=now,
        )
    )
    return identifier


def list_identities(
    connection: sa.Connection, subjects: Sequence[str] | None = None
) -> Sequence[OwnIdentity]:
    """Return our certificates: all, or those of the given address keys and domains."""
    query = _SELECT.order_by(own_identity.c.subject, own_identity.c.not_before.desc())
    if subjects is not None:
        query = query.where(own_identity.c.subject.in_(subjects))
    return [_described(row) for row in connection.execute(query).mappings()]


def retire(connection: sa.Connection, sha256: str, now: datetime) -> bool:
    """Sign with it no more; mail encrypted to it can still be opened. Return if it was in use."""
    query = (
        sa.update(own_identity)
        .where(own_identity.c.sha256 == sha256, own_identity.c.retired_at.is_(None))
        .values(retired_at=now)
    )
    return connection.execute(query).rowcount == 1


def export(connection: sa.Connection, sha256: str, *, kek: bytes) -> KeyBundle:
    """Return an identity with its private key.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; CONFIGURATION_INVALID for the wrong key-encryption key.
    """
    row = connection.execute(_SELECT.where(own_identity.c.sha256 == sha256)).mappings().first()
    if row is None:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no certificate {sha256}")
    own = _described(row)
    key = open_envelope(row["key_envelope"], kek=kek, context=own.id.bytes)
    return KeyBundle(key, own.certificate, own.chain)


def read_kek(path: Path) -> bytes:
    """Return the key-encryption key: the 32 octets, or 64 hexadecimal digits, in a file.

    Raises:
        DirectError: CONFIGURATION_INVALID; no such file, or of another length.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DirectError(Reason.CONFIGURATION_INVALID, f"{path}: {error.strerror}") from None
    if len(data) == KEK_OCTETS:
        return data
    try:
        key = bytes.fromhex(data.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEK_OCTETS:
        raise DirectError(Reason.CONFIGURATION_INVALID, f"{path}: not a key of 32 octets")
    return key


class StoredKeys:
    """Our identities, opened on first use and kept. Implements `gateway.ports.Keys`."""

    def __init__(self, *, database: Database, kek: bytes) -> None:
        self._database = database
        self._kek = kek
        self._opened: OrderedDict[UUID, Identity] = OrderedDict()
        self._lock = Lock()

    async def signing(self, address: DirectAddress, now: datetime) -> Sequence[Identity]:
        """Return the identities that sign for `address` now, the newest first.

        The address's own, or its domain's where it has none: the narrower claim signs alone.
        """
        table = own_identity.c
        query = (
            _SELECT.where(table.subject.in_((address.key, address.domain)))
            .where(table.signs, table.retired_at.is_(None))
            .where(table.not_before <= now, table.not_after >= now)
        )
        rows = await self._rows(query)
        own = [row for row in rows if row["kind"] == Binding.ADDRESS.value]
        return await self._identities(own or rows)

    async def decrypting(self, addresses: Sequence[DirectAddress]) -> Sequence[Identity]:
        """Return every identity, of any age, that may open mail to any of `addresses`.

        AS-071: expired and retired ones too, since mail outlives certificates.
        """
        subjects = {name for address in addresses for name in (address.key, address.domain)}
        query = _SELECT.where(own_identity.c.subject.in_(subjects)).where(own_identity.c.decrypts)
        return await self._identities(await self._rows(query))

    async def _rows(self, query: sa.Select[Any]) -> Sequence[sa.RowMapping]:
        ordered = query.order_by(own_identity.c.kind, own_identity.c.not_before.desc())
        return await self._database.read(lambda c: c.execute(ordered).mappings().all())

    async def _identities(self, rows: Sequence[sa.RowMapping]) -> Sequence[Identity]:
        if all(row["id"] in self._opened for row in rows):
            return [self._open(row) for row in rows]
        return await asyncio.to_thread(lambda: [self._open(row) for row in rows])

    def _open(self, row: sa.RowMapping) -> Identity:
        with self._lock:
            identity = self._opened.get(row["id"])
            if identity is not None:
                self._opened.move_to_end(row["id"])
                return identity
        own = _described(row)
        key = open_envelope(row["key_envelope"], kek=self._kek, context=own.id.bytes)
        identity = Identity(own.certificate, own.chain, SoftwareKey(key))
        with self._lock:
            self._opened[own.id] = identity
            if len(self._opened) > IDENTITIES_CACHED:
                self._opened.popitem(last=False)
        return identity


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


def _described(row: sa.RowMapping) -> OwnIdentity:
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
        retired_at=row["retired_at"],
    )


def _public_bytes(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


_SELECT: Final = sa.select(own_identity)
