"""The database tables of the FHIR bridge.

Pure: declarations only. A resource is kept as JSON text, ready to serve; what is searched lies in
`fhir_index`. `owner` is the mailbox (`DirectAddress.key`), or "@" and the domain for what all
clients of that domain share, such as the local directory.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from certs.tables import UtcDateTime, metadata

__all__ = [
    "NEVER",
    "fhir_access_token",
    "fhir_assertion",
    "fhir_binary",
    "fhir_blind_copy",
    "fhir_change",
    "fhir_client",
    "fhir_client_mailbox",
    "fhir_due",
    "fhir_export",
    "fhir_index",
    "fhir_notification",
    "fhir_processed",
    "fhir_read",
    "fhir_resource",
    "fhir_socket_token",
    "fhir_version",
]

NEVER: Final = -(1 << 60)
ADDRESS_CHARACTERS: Final = 320  # RFC5321 4.5.3.1: 64 + "@" + 255

fhir_resource: Final = sa.Table(
    "fhir_resource",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("owner", sa.String(ADDRESS_CHARACTERS), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("last_updated", UtcDateTime, nullable=False),
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Column("message_id", sa.Uuid, index=True),  # the gateway's message, where there is one
    # Of a Communication, to sort by, in microseconds since 1970; NEVER where there is none.
    # `activity` is when a message came or went, and of a thread's header when its last one did.
    sa.Column("sent", sa.BigInteger, nullable=False),
    sa.Column("activity", sa.BigInteger, nullable=False),
    sa.Index(None, "type", "owner", "last_updated", "id"),
    sa.Index(None, "type", "owner", "sent", "id"),
    sa.Index(None, "type", "owner", "activity", "id"),
)

# Superseded versions only: the current one is in fhir_resource.
fhir_version: Final = sa.Table(
    "fhir_version",
    metadata,
    sa.Column("resource_id", sa.Uuid, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("owner", sa.String(ADDRESS_CHARACTERS), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("last_updated", UtcDateTime, nullable=False),
    sa.Column("deleted", sa.Boolean, nullable=False),
)

# One row per value that a search parameter finds, numbered within its resource. A token and an
# identifier have `system` and `value`; a reference has "Type/id" as `value`, and `target` where
# that id may be one of ours; a string is lower-cased without accents; a date is the interval from
# `low` up to, but without, `high`. A received message writes some 35 of them: an index has only the
# rows that it can lead to, and a query that goes by it says that the column is not NULL. By a date
# nothing is looked up, it only narrows down what something else has found.
fhir_index: Final = sa.Table(
    "fhir_index",
    metadata,
    sa.Column("resource_id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("system", sa.String(512)),
    sa.Column("value", sa.String(512)),
    sa.Column("target", sa.Uuid),
    sa.Column("low", UtcDateTime),
    sa.Column("high", UtcDateTime),
    sqlite_with_rowid=False,
)
_VALUED: Final = fhir_index.c.value.is_not(None)
_TARGETED: Final = fhir_index.c.target.is_not(None)
sa.Index(
    None,
    fhir_index.c.type,
    fhir_index.c.name,
    fhir_index.c.value,
    sqlite_where=_VALUED,
    postgresql_where=_VALUED,
)
sa.Index(
    None,
    fhir_index.c.target,
    fhir_index.c.name,
    sqlite_where=_TARGETED,
    postgresql_where=_TARGETED,
)

# The octets of a Binary: a stretch of a stored body, in a content transfer encoding.
fhir_binary: Final = sa.Table(
    "fhir_binary",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("communication_id", sa.Uuid, index=True),
    sa.Column("owner", sa.String(ADDRESS_CHARACTERS), nullable=False),
    sa.Column("body_key", sa.String(128), nullable=False, index=True),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("length", sa.BigInteger, nullable=False),
    sa.Column("encoding", sa.String(64), nullable=False),
    sa.Column("content_type", sa.String(255), nullable=False),
    sa.Column("filename", sa.String(255)),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha1", sa.String(28), nullable=False),  # base64, as in Attachment.hash
    sa.Column("sha256", sa.String(64), nullable=False),  # hexadecimal
    sa.Column("created_at", UtcDateTime, nullable=False),
)

# Which of the gateway's messages is a blind copy of a Communication that it was not sent as.
fhir_blind_copy: Final = sa.Table(
    "fhir_blind_copy",
    metadata,
    sa.Column("message_id", sa.Uuid, primary_key=True),
    sa.Column("communication_id", sa.Uuid, nullable=False),
)

# Which received messages a mailbox has read (fhir.md 2 row 18): a row is read.
fhir_read: Final = sa.Table(
    "fhir_read",
    metadata,
    sa.Column("communication_id", sa.Uuid, primary_key=True),
    sa.Column("owner", sa.String(ADDRESS_CHARACTERS), nullable=False, index=True),
    sa.Column("client_id", sa.Uuid, nullable=False),
    sa.Column("read_at", UtcDateTime, nullable=False),
)

# A change that subscriptions were not matched with yet; written with the change itself.
fhir_change: Final = sa.Table(
    "fhir_change",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("resource_id", sa.Uuid, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
)

# What a subscriber is owed, in the order of `created_at`. That of a rest-hook or an e-mail is gone
# once it is delivered; that of a websocket ("socket"), which any process may hold, soon after.
fhir_notification: Final = sa.Table(
    "fhir_notification",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("subscription_id", sa.Uuid, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),  # handshake, event or socket
    sa.Column("resource_id", sa.Uuid),
    sa.Column("version", sa.Integer),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Index(None, "subscription_id", "created_at"),
    sa.Index(None, "kind", "created_at"),
)

# What a websocket is bound with; the token itself is not kept.
fhir_socket_token: Final = sa.Table(
    "fhir_socket_token",
    metadata,
    sa.Column("token_sha256", sa.String(64), primary_key=True),
    sa.Column("subscription_id", sa.Uuid, nullable=False),
    sa.Column("client_id", sa.Uuid, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),  # of the access token that asked for it
    sa.Column("issued_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False, index=True),
)

fhir_client: Final = sa.Table(
    "fhir_client",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("token_sha256", sa.String(64), unique=True),  # none of a client with keys
    sa.Column("jwks", sa.Text),  # its public keys, where it signs assertions
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
)

fhir_client_mailbox: Final = sa.Table(
    "fhir_client_mailbox",
    metadata,
    sa.Column("client_id", sa.ForeignKey("fhir_client.id"), primary_key=True),
    sa.Column("address_key", sa.String(ADDRESS_CHARACTERS), primary_key=True),
)

# A token that the token endpoint issued; the token itself is not kept.
fhir_access_token: Final = sa.Table(
    "fhir_access_token",
    metadata,
    sa.Column("token_sha256", sa.String(64), primary_key=True),
    sa.Column("client_id", sa.ForeignKey("fhir_client.id"), nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False, index=True),
)

# The assertions that were used, so that none is used again before it expires.
fhir_assertion: Final = sa.Table(
    "fhir_assertion",
    metadata,
    sa.Column("client_id", sa.ForeignKey("fhir_client.id"), primary_key=True),
    sa.Column("jti", sa.String(255), primary_key=True),
    sa.Column("expires_at", UtcDateTime, nullable=False, index=True),
)

# A CommunicationRequest that is to be sent at its time, and the client that sends it.
fhir_due: Final = sa.Table(
    "fhir_due",
    metadata,
    sa.Column("request_id", sa.Uuid, primary_key=True),
    sa.Column("client_id", sa.ForeignKey("fhir_client.id"), nullable=False),
    sa.Column("due_at", UtcDateTime, nullable=False, index=True),
)

# An export that a client began. What goes into its files is read as they are fetched, as it was at
# `created_at`: so that any process answers, and nothing is written twice.
fhir_export: Final = sa.Table(
    "fhir_export",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("client_id", sa.ForeignKey("fhir_client.id"), nullable=False, index=True),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("types", sa.Text, nullable=False),
    sa.Column("since", UtcDateTime),
    sa.Column("within", sa.String(64)),  # Patient, or Group/<id>
    sa.Column("created_at", UtcDateTime, nullable=False, index=True),
)

# The messages ($process-message) that were processed, each with what was sent for it: written with
# that, so that none is sent twice. `envelope` and `digest` are SHA-256.
fhir_processed: Final = sa.Table(
    "fhir_processed",
    metadata,
    sa.Column("client_id", sa.ForeignKey("fhir_client.id"), primary_key=True),
    sa.Column("message_id", sa.String(64), primary_key=True),
    sa.Column("envelope", sa.String(64)),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("answer_id", sa.Uuid, nullable=False),
    sa.Column("communication_id", sa.Uuid, nullable=False),
    sa.Column("processed_at", UtcDateTime, nullable=False),
    sa.Index(None, "client_id", "envelope", unique=True),
)
