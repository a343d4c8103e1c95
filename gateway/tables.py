"""The gateway's own tables, and the one place that knows every package's tables.

Pure: declarations only. Rows are written by `gateway.messages`, `gateway.queue`, `gateway.spool`,
`gateway.audit` and `gateway.domains`.
"""

from __future__ import annotations

import importlib
from typing import Final

import sqlalchemy as sa

from certs.tables import UtcDateTime, metadata

__all__ = [
    "address",
    "all_metadata",
    "attempt",
    "audit_event",
    "body",
    "domain",
    "edge_user",
    "edge_user_address",
    "job",
    "message",
    "paused_destination",
    "peer_capability",
    "recipient",
]

# An address is at most 64 + 1 + 255 octets (RFC5321 4.5.3.1), a domain 255.
_ADDRESS: Final = sa.String(320)
_DOMAIN: Final = sa.String(255)
_WORD: Final = sa.String(32)  # a value of one of our own closed sets
_SHA256: Final = sa.String(64)  # in lower-case hexadecimal
# A Message-ID is one header line of at most 998 octets (RFC5322 2.1.1).
_MESSAGE_ID: Final = sa.String(998)

# Accepting a message writes a row of five tables and an entry of each of their indexes: an index
# that no query needs is paid for by every message. So is a row's hidden number (rowid) on SQLite,
# where the key orders the rows as well.


def _index_where_set(table: sa.Table, *names: str) -> None:
    """Index columns of which most rows have NULL, without those rows."""
    for name in names:
        is_set = table.c[name].is_not(None)
        sa.Index(None, table.c[name], sqlite_where=is_set, postgresql_where=is_set)


# Whom we serve
domain: Final = sa.Table(
    "domain",
    metadata,
    sa.Column("name", _DOMAIN, primary_key=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("profile", _WORD, nullable=False),
    sa.Column("settings", sa.JSON, nullable=False),
)

address: Final = sa.Table(
    "address",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("address", _ADDRESS, nullable=False),  # as written
    sa.Column("address_key", _ADDRESS, nullable=False, unique=True),
    sa.Column("domain", _DOMAIN, sa.ForeignKey("domain.name"), nullable=False, index=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("settings", sa.JSON, nullable=False),
)

edge_user: Final = sa.Table(
    "edge_user",
    metadata,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("password_hash", sa.String(255), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
)

edge_user_address: Final = sa.Table(
    "edge_user_address",
    metadata,
    sa.Column(
        "user",
        sa.String(255),
        sa.ForeignKey("edge_user.name", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("address_key", _ADDRESS, primary_key=True),
)

# Messages: content, envelope, recipients and what became of each
body: Final = sa.Table(
    "body",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", _SHA256, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    # NULL: the octets are the spool file named by `key`. Last, so that SQLite reads the columns
    # before it without following the overflow pages of a large row.
    sa.Column("inline", sa.LargeBinary),
)

message: Final = sa.Table(
    "message",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("direction", _WORD, nullable=False),
    sa.Column("source", _WORD, nullable=False),
    sa.Column("kind", _WORD, nullable=False),
    sa.Column("state", _WORD, nullable=False),
    sa.Column("envelope_sender", _ADDRESS),
    sa.Column("envelope_id", sa.String(100)),  # ENVID, which each DSN returns (RFC3461 4.4)
    sa.Column("author", _ADDRESS),
    sa.Column("message_id_header", _MESSAGE_ID),
    sa.Column("body_key", sa.String(64), sa.ForeignKey("body.key")),
    sa.Column("content_key", sa.String(64), sa.ForeignKey("body.key")),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("wants_dispatched", sa.Boolean, nullable=False),
    sa.Column("reason", sa.String(64)),
    sa.Column("detail", sa.Text),
    sa.Column("evidence", sa.JSON(none_as_null=True)),
    sa.Column("dedupe_key", _SHA256, unique=True),
    sa.Column("received_at", UtcDateTime, nullable=False),  # in the order of `id`, a UUIDv7
    sa.Column("finished_at", UtcDateTime),
    # The message that this notification answers.
    sa.Column("parent", sa.Uuid, sa.ForeignKey("message.id")),
    sqlite_with_rowid=False,
)
_index_where_set(message, "message_id_header", "body_key", "content_key", "finished_at", "parent")

recipient: Final = sa.Table(
    "recipient",
    metadata,
    sa.Column(
        "message_id", sa.Uuid, sa.ForeignKey("message.id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("ordinal", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("address", _ADDRESS, nullable=False),
    sa.Column("address_key", _ADDRESS, nullable=False, index=True),
    sa.Column("state", _WORD, nullable=False),
    sa.Column("reason", sa.String(64)),
    sa.Column("detail", sa.Text),
    sa.Column("status", _WORD),
    sa.Column("body_key", sa.String(64), sa.ForeignKey("body.key")),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("relayed_at", UtcDateTime),
    sa.Column("processed_at", UtcDateTime),
    sa.Column("dispatched_at", UtcDateTime),
    sa.Column("due_at", UtcDateTime),  # when it is late
    sa.Column("notice", _MESSAGE_ID),  # Message-ID of the MDN or DSN that this rests on
    sa.Column("seen", _WORD),  # displayed or deleted, where the recipient's system tells of it
    # RFC3461 4.1 and 4.2: of what a DSN is wanted (NULL: of failures), and the address in it
    sa.Column("notify", _WORD),
    sa.Column("original_recipient", sa.String(500)),
    sqlite_with_rowid=False,
)
_index_where_set(recipient, "body_key", "due_at")

attempt: Final = sa.Table(
    "attempt",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column(
        "message_id",
        sa.Uuid,
        sa.ForeignKey("message.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    sa.Column("recipient", _ADDRESS, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("tls", sa.String(128)),  # version and cipher; NULL: clear text
    sa.Column("verified", sa.Boolean, nullable=False),
    sa.Column("tls_policy", _WORD, nullable=False),  # who demanded TLS, if anybody
    sa.Column("tls_failure", sa.String(200)),  # why there was none though it was offered
    sa.Column("reason", sa.String(64)),
    sa.Column("status", _WORD, nullable=False),
    sa.Column("reply", sa.Text, nullable=False),
)

# Work to do
job: Final = sa.Table(
    "job",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("kind", _WORD, nullable=False),
    sa.Column("destination", _DOMAIN, nullable=False),
    sa.Column("key", sa.String(255), unique=True),
    sa.Column("state", _WORD, nullable=False),
    sa.Column("due_at", UtcDateTime, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("errors", sa.Integer, nullable=False),  # in a row, that no handler foresaw
    sa.Column("lease_until", UtcDateTime),
    sa.Column("lease_token", sa.Uuid),
    sa.Column("reason", sa.String(64)),
    sa.Column("detail", sa.Text),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Index("ix_job_state_due_at", "state", "due_at"),
    sqlite_with_rowid=False,
)

paused_destination: Final = sa.Table(
    "paused_destination",
    metadata,
    sa.Column("destination", _DOMAIN, primary_key=True),
    sa.Column("paused_at", UtcDateTime, nullable=False),
)

# What each peer's address was last seen to decrypt, by the names of `certs.cms.algorithms`
peer_capability: Final = sa.Table(
    "peer_capability",
    metadata,
    sa.Column("address_key", _ADDRESS, primary_key=True),
    sa.Column("ciphers", sa.String(255), nullable=False),
    sa.Column("seen_at", UtcDateTime, nullable=False),
)

# What happened, chained by hash
audit_event: Final = sa.Table(
    "audit_event",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.String(320), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(320), nullable=False, index=True),
    sa.Column("outcome", sa.String(64), nullable=False),
    sa.Column("old", sa.Text),
    sa.Column("new", sa.Text),
    sa.Column("previous", _SHA256, nullable=False),
    sa.Column("digest", _SHA256, nullable=False),
    sqlite_with_rowid=False,
)

_PACKAGES: Final = ("trust_bundles.tables", "fhir_bridge.tables")


def all_metadata() -> sa.MetaData:
    """Return the metadata with the tables of every package declared on it."""
    for name in _PACKAGES:
        importlib.import_module(name)
    return metadata
