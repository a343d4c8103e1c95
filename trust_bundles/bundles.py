"""The trust bundles an administrator has added: their settings, and who uses them.

Talks to the database, inside the caller's transaction. What a bundle held, when, and what of it
is in force are `trust_bundles.versions`.

Standards:
    TBIG  Direct Trust Bundle Implementation Guide v1.0, section 3; TB-005 to TB-012
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from cryptography import x509

from certs.errors import DirectError, Reason
from trust_bundles.owners import owner_of
from trust_bundles.policy import Direction
from trust_bundles.status import Status
from trust_bundles.tables import bundle, bundle_use

__all__ = [
    "Settings",
    "StoredBundle",
    "Use",
    "add_bundle",
    "attach",
    "certificates_of",
    "change_bundle",
    "claim_due",
    "detach",
    "enable_bundle",
    "get_bundle",
    "list_bundles",
    "list_uses",
    "remove_bundle",
]

SHORTEST: Final = timedelta(minutes=1)
LONGEST: Final = timedelta(days=31)
DAILY: Final = timedelta(days=1)  # TB-012

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a bundle is had and believed. `signers` and `tls_ca` are PEM certificates.

    `signers` None: anybody's signature, or none, will do. `interval` zero: on demand only.
    """

    url: str | None = None
    interval: timedelta = DAILY
    signers: str | None = None
    tls_ca: str | None = None
    needs_approval: bool = False

    @property
    def signer_certificates(self) -> tuple[x509.Certificate, ...]:
        """The configured signers and CAs of signers."""
        return certificates_of(self.signers)


@dataclass(frozen=True, slots=True)
class StoredBundle:
    """A bundle as it stands. `in_force` and `staged` are numbers of versions."""

    name: str
    settings: Settings
    enabled: bool
    added_at: datetime
    in_force: int | None
    staged: int | None
    status: Status
    detail: str | None
    checked_at: datetime | None
    good_at: datetime | None
    due_at: datetime | None
    failures: int
    etag: str | None
    last_modified: str | None
    seen_sha256: str | None


@dataclass(frozen=True, slots=True)
class Use:
    """Who trusts a bundle, and which way."""

    bundle: str
    owner: str
    directions: frozenset[Direction]
    added_at: datetime


def add_bundle(connection: sa.Connection, name: str, settings: Settings, now: datetime) -> None:
    """Add a bundle; it is due for its first refresh at once, and nobody trusts it yet.

    Raises:
        DirectError: CONFIGURATION_INVALID; RESOURCE_CONFLICT where there is one of that name.
    """
    if not _NAME.fullmatch(name):
        raise _invalid(f"{name!r}: a name is lower-case letters, digits, '.', '-' and '_'")
    _checked(settings)
    if connection.execute(sa.select(bundle.c.name).where(bundle.c.name == name)).first():
        raise DirectError(Reason.RESOURCE_CONFLICT, f"bundle {name} exists")
    connection.execute(
        sa.insert(bundle).values(
            name=name,
            enabled=True,
            added_at=now,
            status=Status.NEVER.value,
            failures=0,
            **_columns(settings, now),
        )
    )


def change_bundle(
    connection: sa.Connection, name: str, settings: Settings, now: datetime
) -> StoredBundle:
    """Give a bundle other settings; return it as it was. What is in force stays so.

    Raises:
        DirectError: CONFIGURATION_INVALID; RESOURCE_NOT_FOUND.
    """
    _checked(settings)
    old = get_bundle(connection, name)
    values = _columns(settings, now)
    if (settings.url, settings.signers) != (old.settings.url, old.settings.signers):
        # The next answer is to be read whole and judged anew, though it may be the same.
        values |= {"etag": None, "last_modified": None, "seen_sha256": None}
    connection.execute(sa.update(bundle).where(bundle.c.name == name).values(**values))
    return old


def enable_bundle(connection: sa.Connection, name: str, *, enabled: bool) -> None:
    """Let a bundle count, or not, for all who use it; a disabled one is not refreshed.

    Raises:
        DirectError: RESOURCE_NOT_FOUND.
    """
    _some(connection, sa.update(bundle).where(bundle.c.name == name).values(enabled=enabled), name)


def remove_bundle(connection: sa.Connection, name: str) -> None:
    """Remove a bundle, its history and every use of it: its anchors stop counting at once.

    Raises:
        DirectError: RESOURCE_NOT_FOUND.
    """
    _some(connection, sa.delete(bundle).where(bundle.c.name == name), name)


def get_bundle(connection: sa.Connection, name: str) -> StoredBundle:
    """Return the bundle of this name.

    Raises:
        DirectError: RESOURCE_NOT_FOUND.
    """
    row = connection.execute(sa.select(bundle).where(bundle.c.name == name)).first()
    if row is None:
        raise _unknown(name)
    return _stored(row)


def list_bundles(connection: sa.Connection) -> Sequence[StoredBundle]:
    """Return every bundle, by name."""
    return [_stored(row) for row in connection.execute(sa.select(bundle).order_by(bundle.c.name))]


def claim_due(
    connection: sa.Connection, now: datetime, lease: timedelta, *, limit: int
) -> Sequence[str]:
    """Return bundles that are due, and put them off by `lease` so that nobody else takes them."""
    due = (
        sa.select(bundle.c.name)
        .where(bundle.c.enabled, bundle.c.due_at <= now)
        .order_by(bundle.c.due_at)
        .limit(limit)
    )
    claimed = []
    for name in connection.execute(due).scalars().all():
        mine = (bundle.c.name == name) & (bundle.c.due_at <= now)
        put_off = sa.update(bundle).where(mine).values(due_at=now + lease)
        claimed += [name] if connection.execute(put_off).rowcount else []
    return claimed


def attach(
    connection: sa.Connection,
    name: str,
    domain_or_address: str,
    directions: Collection[Direction],
    now: datetime,
) -> str:
    """Let a domain or address trust a bundle these ways from now on (TB-010); return the owner.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; ADDRESS_MALFORMED; CONFIGURATION_INVALID where no
            direction is given.
    """
    if not directions:
        raise _invalid("a bundle is attached for a direction")
    get_bundle(connection, name)
    owner = owner_of(domain_or_address)
    ways = {way.value: way in directions for way in Direction}
    here = (bundle_use.c.bundle == name) & (bundle_use.c.owner == owner)
    if connection.execute(sa.update(bundle_use).where(here).values(**ways)).rowcount == 0:
        row = {"bundle": name, "owner": owner, "added_at": now, **ways}
        connection.execute(sa.insert(bundle_use).values(row))
    return owner


def detach(connection: sa.Connection, name: str, domain_or_address: str) -> str:
    """Let a domain or address trust a bundle no more; return the owner.

    Raises:
        DirectError: RESOURCE_NOT_FOUND; ADDRESS_MALFORMED.
    """
    owner = owner_of(domain_or_address)
    here = (bundle_use.c.bundle == name) & (bundle_use.c.owner == owner)
    if connection.execute(sa.delete(bundle_use).where(here)).rowcount == 0:
        raise DirectError(Reason.RESOURCE_NOT_FOUND, f"bundle {name} is not used by {owner}")
    return owner


def list_uses(
    connection: sa.Connection, *, name: str | None = None, owner: str | None = None
) -> Sequence[Use]:
    """Return who uses which bundle, in order; of one bundle or owner where these are given."""
    query = sa.select(bundle_use).order_by(bundle_use.c.bundle, bundle_use.c.owner)
    if name is not None:
        query = query.where(bundle_use.c.bundle == name)
    if owner is not None:
        query = query.where(bundle_use.c.owner == owner_of(owner))
    return [
        Use(
            row.bundle,
            row.owner,
            frozenset(way for way in Direction if getattr(row, way.value)),
            row.added_at,
        )
        for row in connection.execute(query)
    ]


def certificates_of(pem: str | None) -> tuple[x509.Certificate, ...]:
    """Return the certificates in `pem`, none for None.

    Raises:
        DirectError: CONFIGURATION_INVALID.
    """
    try:
        return tuple(x509.load_pem_x509_certificates(pem.encode())) if pem is not None else ()
    except ValueError:
        raise _invalid("not PEM certificates") from None


def _checked(settings: Settings) -> None:
    # TB-007: only over TLS is a bundle the publisher's, signed or not.
    if settings.url is not None and not settings.url.lower().startswith("https://"):
        raise _invalid("the URL of a bundle begins with https://")
    if settings.interval and not SHORTEST <= settings.interval <= LONGEST:
        raise _invalid("refresh every minute at most and every 31 days at least, or 0 for never")
    for pem in (settings.signers, settings.tls_ca):
        certificates_of(pem)


def _columns(settings: Settings, now: datetime) -> dict[str, Any]:
    values = asdict(settings)
    interval_s = int(values.pop("interval").total_seconds())
    scheduled = settings.url is not None and interval_s > 0
    return {**values, "interval_s": interval_s, "due_at": now if scheduled else None}


def _some(connection: sa.Connection, statement: Any, name: str) -> None:
    if connection.execute(statement).rowcount == 0:
        raise _unknown(name)


def _stored(row: sa.Row[Any]) -> StoredBundle:
    return StoredBundle(
        name=row.name,
        settings=Settings(
            row.url,
            timedelta(seconds=row.interval_s),
            row.signers,
            row.tls_ca,
            row.needs_approval,
        ),
        enabled=row.enabled,
        added_at=row.added_at,
        in_force=row.in_force,
        staged=row.staged,
        status=Status(row.status),
        detail=row.detail,
        checked_at=row.checked_at,
        good_at=row.good_at,
        due_at=row.due_at,
        failures=row.failures,
        etag=row.etag,
        last_modified=row.last_modified,
        seen_sha256=row.seen_sha256,
    )


def _unknown(name: str) -> DirectError:
    return DirectError(Reason.RESOURCE_NOT_FOUND, f"no bundle {name}")


def _invalid(detail: str) -> DirectError:
    return DirectError(Reason.CONFIGURATION_INVALID, detail)
