"""What a bundle held, version by version: one in force, perhaps one staged, the others history.

Talks to the database, inside the caller's transaction: anchors change all at once or not at all.

Standards:
    TB-008 (atomic replacement), T-07 and T-09 of our catalogue
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.errors import DirectError, Reason
from certs.issuers import sha256_of
from trust_bundles.bundle import Bundle
from trust_bundles.bundles import StoredBundle, get_bundle
from trust_bundles.status import BundleError, Status
from trust_bundles.tables import bundle, bundle_anchor, bundle_version

if TYPE_CHECKING:  # it brings path validation, which the command line seldom needs
    from trust_bundles.signature import Signature

__all__ = [
    "Arrival",
    "Installed",
    "StoredVersion",
    "anchors_in_force",
    "approve",
    "content_of",
    "counts_in_force",
    "history",
    "install",
    "known_version",
]

# Whoever publishes could publish something else every hour.
CONTENTS: Final = 20  # versions whose octets are kept
VERSIONS: Final = 500  # versions that are remembered


@dataclass(frozen=True, slots=True)
class Arrival:
    """Octets that were read and judged, and where they came from. `actor` caused it."""

    content: bytes
    bundle: Bundle
    signature: Signature | None
    source: str
    actor: str


@dataclass(frozen=True, slots=True)
class Installed:
    """What became of an arrival; fingerprints are against the version in force before."""

    status: Status
    number: int
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version, without its octets. `in_force_at` None: it never was."""

    bundle: str
    number: int
    sha256: str
    form: str
    source: str
    actor: str
    received_at: datetime
    approved_by: str | None
    in_force_at: datetime | None
    signer: str | None
    signed_at: datetime | None
    metadata: str | None
    anchors: int
    skipped: Sequence[Mapping[str, Any]]
    added: Sequence[str]
    removed: Sequence[str]


def known_version(connection: sa.Connection, stored: StoredBundle, sha256: str) -> int | None:
    """Return which of the versions in force and staged has this digest, if any."""
    query = sa.select(bundle_version.c.number).where(
        bundle_version.c.bundle == stored.name,
        bundle_version.c.number.in_((stored.in_force, stored.staged)),
        bundle_version.c.sha256 == sha256,
    )
    return connection.execute(query.order_by(bundle_version.c.number.desc())).scalar()


def install(
    connection: sa.Connection,
    name: str,
    arrival: Arrival,
    *,
    now: datetime,
    allow_older: bool = False,
) -> Installed:
    """Put an arrival in force, or stage it where the bundle is to be approved.

    Raises:
        BundleError: ROLLED_BACK, unless older ones are allowed.
        DirectError: RESOURCE_NOT_FOUND.
    """
    stored = get_bundle(connection, name)
    sha256 = hashlib.sha256(arrival.content).hexdigest()
    known = known_version(connection, stored, sha256)
    if known is not None:
        return Installed(Status.STAGED if known == stored.staged else Status.UNCHANGED, known)
    if not allow_older:
        _no_older(connection, stored, sha256, arrival.signature)
    before = _fingerprints(connection, name)
    new = {sha256_of(cert).hex(): cert for cert in arrival.bundle.anchors}
    added = tuple(sorted(new.keys() - before))
    removed = tuple(sorted(before - new.keys()))
    number = _next_number(connection, name)
    connection.execute(
        sa.insert(bundle_version).values(
            bundle=name,
            number=number,
            received_at=now,
            sha256=sha256,
            added=list(added),
            removed=list(removed),
            **_columns(arrival),
        )
    )
    _forget_old(connection, stored, number)
    if stored.settings.needs_approval:
        _set(connection, name, staged=number)
        return Installed(Status.STAGED, number, added, removed)
    _put_in_force(connection, name, number, new, now)
    return Installed(Status.SUCCESS, number, added, removed)


def approve(
    connection: sa.Connection,
    name: str,
    number: int,
    anchors: Sequence[x509.Certificate],
    *,
    actor: str,
    now: datetime,
) -> Installed:
    """Put the staged version `number`, which has these anchors, in force.

    The number is asked for because another version may have come since somebody looked.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; RESOURCE_CONFLICT where another or none is staged.
    """
    stored = get_bundle(connection, name)
    if stored.staged != number:
        waiting = f"version {stored.staged} is" if stored.staged else "none is"
        raise DirectError(Reason.RESOURCE_CONFLICT, f"bundle {name}: {waiting} staged")
    before = _fingerprints(connection, name)
    new = {sha256_of(cert).hex(): cert for cert in anchors}
    added, removed = sorted(new.keys() - before), sorted(before - new.keys())
    here = (bundle_version.c.bundle == name) & (bundle_version.c.number == number)
    changes = {"approved_by": actor, "added": added, "removed": removed}
    connection.execute(sa.update(bundle_version).where(here).values(**changes))
    _put_in_force(connection, name, number, new, now)
    _set(connection, name, status=Status.SUCCESS.value, detail=None)
    return Installed(Status.SUCCESS, number, tuple(added), tuple(removed))


def history(connection: sa.Connection, name: str) -> Sequence[StoredVersion]:
    """Return the versions of a bundle, newest first.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; there is no such bundle.
    """
    get_bundle(connection, name)
    query = (
        sa.select(*(bundle_version.c[field] for field in StoredVersion.__slots__))
        .where(bundle_version.c.bundle == name)
        .order_by(bundle_version.c.number.desc())
    )
    return [StoredVersion(*row) for row in connection.execute(query)]


def content_of(connection: sa.Connection, name: str, number: int) -> bytes:
    """Return the octets of a version, as they came.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; there is none, or they are no longer kept.
    """
    here = (bundle_version.c.bundle == name) & (bundle_version.c.number == number)
    query = sa.select(bundle_version.c.content).where(here)
    content: bytes | None = connection.execute(query).scalar()
    if content is None:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, f"no content of {name} version {number}")
    return content


def anchors_in_force(connection: sa.Connection, name: str) -> tuple[x509.Certificate, ...]:
    """Return the anchors of a bundle that count now."""
    query = sa.select(bundle_anchor.c.certificate).where(bundle_anchor.c.bundle == name)
    ders = connection.execute(query.order_by(bundle_anchor.c.sha256)).scalars()
    return tuple(x509.load_der_x509_certificate(der) for der in ders)


def counts_in_force(connection: sa.Connection) -> Mapping[str, int]:
    """Return how many anchors each bundle has in force; a bundle without any is not named."""
    count = sa.func.count().label("anchors")
    query = sa.select(bundle_anchor.c.bundle, count).group_by(bundle_anchor.c.bundle)
    return {row.bundle: row.anchors for row in connection.execute(query)}


def _no_older(
    connection: sa.Connection, stored: StoredBundle, sha256: str, signature: Signature | None
) -> None:
    """Refuse what was published before what is in force: its removed anchors would be back.

    Raises:
        BundleError: ROLLED_BACK.
    """
    was_in_force = (bundle_version.c.bundle == stored.name) & bundle_version.c.in_force_at.is_not(
        None
    )
    earlier = sa.select(bundle_version.c.number).where(
        was_in_force, bundle_version.c.sha256 == sha256
    )
    number = connection.execute(earlier).scalar()
    if number is not None:
        raise BundleError(Status.ROLLED_BACK, f"the same as version {number}, since replaced")
    if signature is None or not signature.trusted:
        return
    newest = connection.execute(
        sa.select(sa.func.max(bundle_version.c.signed_at)).where(was_in_force)
    ).scalar()
    if newest is None:
        return
    if signature.signed_at is None:
        raise BundleError(Status.ROLLED_BACK, "without a signing time, which the last one had")
    if signature.signed_at < newest:
        raise BundleError(
            Status.ROLLED_BACK,
            f"signed {signature.signed_at:%Y-%m-%d %H:%M:%S}Z; there was one of "
            f"{newest:%Y-%m-%d %H:%M:%S}Z",
        )


def _put_in_force(
    connection: sa.Connection,
    name: str,
    number: int,
    new: Mapping[str, x509.Certificate],
    now: datetime,
) -> None:
    before = _fingerprints(connection, name)
    gone = [{"the_bundle": name, "the_sha256": sha256} for sha256 in before - new.keys()]
    if gone:
        connection.execute(_DELETE_ANCHOR, gone)
    rows = [
        {
            "bundle": name,
            "sha256": sha256,
            "certificate": new[sha256].public_bytes(Encoding.DER),
        }
        for sha256 in sorted(new.keys() - before)
    ]
    if rows:
        connection.execute(sa.insert(bundle_anchor), rows)
    digest = hashlib.sha256("".join(sorted(new)).encode()).hexdigest()
    _set(connection, name, in_force=number, staged=None, digest=digest)
    here = (bundle_version.c.bundle == name) & (bundle_version.c.number == number)
    connection.execute(sa.update(bundle_version).where(here).values(in_force_at=now))


def _fingerprints(connection: sa.Connection, name: str) -> set[str]:
    query = sa.select(bundle_anchor.c.sha256).where(bundle_anchor.c.bundle == name)
    return set(connection.execute(query).scalars())


def _next_number(connection: sa.Connection, name: str) -> int:
    newest = sa.select(sa.func.max(bundle_version.c.number)).where(bundle_version.c.bundle == name)
    return (connection.execute(newest).scalar() or 0) + 1


def _forget_old(connection: sa.Connection, stored: StoredBundle, number: int) -> None:
    old = (
        (bundle_version.c.bundle == stored.name)
        & (bundle_version.c.number <= number - CONTENTS)
        & (bundle_version.c.number != (stored.in_force or 0))
    )
    connection.execute(sa.update(bundle_version).where(old).values(content=None))
    oldest = old & (bundle_version.c.number <= number - VERSIONS)
    connection.execute(sa.delete(bundle_version).where(oldest))


def _columns(arrival: Arrival) -> dict[str, Any]:
    read, signature = arrival.bundle, arrival.signature
    # A time that anybody may have signed is no measure of age.
    trusted = signature if signature is not None and signature.trusted else None
    return {
        "content": arrival.content,
        "form": read.form.value,
        "source": arrival.source,
        "actor": arrival.actor,
        "signer": sha256_of(signature.signer).hex() if signature else None,
        "signed_at": trusted.signed_at if trusted else None,
        "metadata": read.metadata,
        "anchors": len(read.anchors),
        "skipped": [asdict(entry) for entry in read.skipped],
    }


def _set(connection: sa.Connection, name: str, **values: object) -> None:
    connection.execute(sa.update(bundle).where(bundle.c.name == name).values(**values))


_DELETE_ANCHOR: Final = sa.delete(bundle_anchor).where(
    bundle_anchor.c.bundle == sa.bindparam("the_bundle"),
    bundle_anchor.c.sha256 == sa.bindparam("the_sha256"),
)
