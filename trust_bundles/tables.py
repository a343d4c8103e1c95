"""The database tables of this package.

Pure: declarations only.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from certs.tables import UtcDateTime, metadata

__all__ = ["anchor"]

# One row for each owner of an anchor. `owner` is a health domain or an address key.
anchor: Final = sa.Table(
    "anchor",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("certificate", sa.LargeBinary, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("owner", sa.String(320), nullable=False, index=True),
    sa.Column("incoming", sa.Boolean, nullable=False),
    sa.Column("outgoing", sa.Boolean, nullable=False),
    sa.Column("added_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("owner", "sha256"),
)
