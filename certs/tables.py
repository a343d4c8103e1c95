"""The database tables of this package, and the one `metadata` that every package declares in.

Pure: declarations only. `gateway.database` creates and migrates them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa

__all__ = ["UtcDateTime", "cached", "metadata", "own_identity", "pending_key"]

metadata: Final = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC time, stored as whole microseconds since 1970 on every database."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        """Return microseconds since 1970."""
        if value is None:
            return None
        return round((value - _EPOCH).total_seconds() * 1_000_000)

    def process_result_value(self, value: Any | None, dialect: sa.Dialect) -> datetime | None:
        """Return the aware time."""
        if value is None:
            return None
        return datetime.fromtimestamp(value // 1_000_000, UTC).replace(
            microsecond=value % 1_000_000
        )


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


# Our own certificates with their keys. `subject` is an address key or a domain; `chain` is the
# intermediates in PEM, leaf's issuer first. The key lies in `key_envelope`, opened by
# `certs.envelope` under the key-encryption key, or in a PKCS#11 token as `token_label`. The dates
# are those of a rollover; where there is none they are NULL: published and signing at once, and
# until it expires or is retired.
own_identity: Final = sa.Table(
    "own_identity",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("subject", sa.String(320), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("certificate", sa.LargeBinary, nullable=False),
    sa.Column("chain", sa.LargeBinary, nullable=False),
    sa.Column("key_envelope", sa.LargeBinary),
    sa.Column("token_label", sa.String(255)),
    sa.Column("signs", sa.Boolean, nullable=False),
    sa.Column("decrypts", sa.Boolean, nullable=False),
    sa.Column("not_before", UtcDateTime, nullable=False),
    sa.Column("not_after", UtcDateTime, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("publish_at", UtcDateTime),
    sa.Column("sign_from", UtcDateTime),
    sa.Column("sign_until", UtcDateTime),
    sa.Column("retired_at", UtcDateTime),
)

# Keys whose certificate a CA has yet to issue. The identity made of one takes its id.
pending_key: Final = sa.Table(
    "pending_key",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("subject", sa.String(320), nullable=False),
    sa.Column("public_sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("key_envelope", sa.LargeBinary),
    sa.Column("token_label", sa.String(255)),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

# What was fetched from elsewhere and holds for a while. `digest` is of kind and key together.
cached: Final = sa.Table(
    "cached",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False, index=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sa.Column("stored_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False, index=True),
)
