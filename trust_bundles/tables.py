"""The database tables of this package.

Pure: declarations only.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from certs.tables import UtcDateTime, metadata

__all__ = [
    "anchor",
    "bundle",
    "bundle_anchor",
    "bundle_use",
    "bundle_version",
    "certificate_policy",
]

_OWNER: Final = sa.String(320)  # a health domain or an address key
_NAME: Final = sa.String(64)
_WORD: Final = sa.String(32)  # a value of one of our own closed sets
_SHA256: Final = sa.String(64)  # in lower-case hexadecimal


def _bundle_column(*, primary_key: bool = True) -> sa.Column[str]:
    return sa.Column(
        "bundle", _NAME, sa.ForeignKey("bundle.name", ondelete="CASCADE"), primary_key=primary_key
    )


# One row for each owner of an anchor. It counts while enabled and between `trusted_from` and
# `trusted_until`, where these are set, whatever its certificate says.
anchor: Final = sa.Table(
    "anchor",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("sha256", _SHA256, nullable=False),
    sa.Column("certificate", sa.LargeBinary, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("owner", _OWNER, nullable=False, index=True),
    sa.Column("incoming", sa.Boolean, nullable=False),
    sa.Column("outgoing", sa.Boolean, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("trusted_from", UtcDateTime),
    sa.Column("trusted_until", UtcDateTime),
    sa.Column("added_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("owner", "sha256"),
)

# A published collection of anchors: where it comes from, and how the last refresh went.
bundle: Final = sa.Table(
    "bundle",
    metadata,
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("url", sa.Text),  # NULL: from files only
    sa.Column("interval_s", sa.Integer, nullable=False),  # 0: on demand only (TB-006)
    sa.Column("signers", sa.Text),  # PEM; NULL: the signature is not checked
    sa.Column("tls_ca", sa.Text),  # PEM; NULL: the system's CAs for the web
    sa.Column("needs_approval", sa.Boolean, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("added_at", UtcDateTime, nullable=False),
    # What is in force and what waits: numbers of versions. `digest` names the set of anchors.
    sa.Column("in_force", sa.Integer),
    sa.Column("staged", sa.Integer),
    sa.Column("digest", _SHA256),
    # The last refresh, and the next. The validators belong to the octets of `seen_sha256`.
    sa.Column("status", _WORD, nullable=False),
    sa.Column("detail", sa.Text),
    sa.Column("checked_at", UtcDateTime),
    sa.Column("good_at", UtcDateTime),
    sa.Column("due_at", UtcDateTime, index=True),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("etag", sa.Text),
    sa.Column("last_modified", sa.Text),
    sa.Column("seen_sha256", _SHA256),
)

# Every version there was, with its octets as they came.
bundle_version: Final = sa.Table(
    "bundle_version",
    metadata,
    _bundle_column(),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("content", sa.LargeBinary),  # NULL: no longer kept
    sa.Column("sha256", _SHA256, nullable=False),
    sa.Column("form", _WORD, nullable=False),
    sa.Column("source", sa.Text, nullable=False),  # URL or "file"
    sa.Column("actor", _OWNER, nullable=False),
    sa.Column("received_at", UtcDateTime, nullable=False),
    sa.Column("approved_by", _OWNER),
    sa.Column("in_force_at", UtcDateTime),
    sa.Column("signer", _SHA256),
    sa.Column("signed_at", UtcDateTime),
    sa.Column("metadata", sa.Text),
    sa.Column("anchors", sa.Integer, nullable=False),
    sa.Column("skipped", sa.JSON, nullable=False),
    sa.Column("added", sa.JSON, nullable=False),  # fingerprints, against the one in force then
    sa.Column("removed", sa.JSON, nullable=False),
)

# The anchors in force of each bundle.
bundle_anchor: Final = sa.Table(
    "bundle_anchor",
    metadata,
    _bundle_column(),
    sa.Column("sha256", _SHA256, primary_key=True),
    sa.Column("certificate", sa.LargeBinary, nullable=False),
)

# Who trusts a bundle, and which way (TB-010).
bundle_use: Final = sa.Table(
    "bundle_use",
    metadata,
    _bundle_column(),
    sa.Column("owner", _OWNER, primary_key=True, index=True),
    sa.Column("incoming", sa.Boolean, nullable=False),
    sa.Column("outgoing", sa.Boolean, nullable=False),
    sa.Column("added_at", UtcDateTime, nullable=False),
)

# What a domain demands of certificates (AS-089), as its administrator wrote it.
certificate_policy: Final = sa.Table(
    "certificate_policy",
    metadata,
    sa.Column("domain", sa.String(255), primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("changed_by", _OWNER, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
)
