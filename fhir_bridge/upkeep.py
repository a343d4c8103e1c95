"""What nobody has use for any more: uploads that no resource took, drafts left for a long time.

Store functions: plain synchronous SQL on the caller's connection; they never commit.

Standards:
    fhir.md section 2 row 9 (drafts are cleaned up)
"""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from fhir_bridge import store
from fhir_bridge.ports import Bodies
from fhir_bridge.store import stored_of
from fhir_bridge.tables import fhir_access_token, fhir_assertion, fhir_binary, fhir_resource

__all__ = ["forget_drafts", "forget_tokens", "forget_upload", "forget_uploads"]

BATCH: Final = 100


def forget_upload(connection: sa.Connection, bodies: Bodies, identity: UUID) -> None:
    """Forget a Binary that no resource has, and its octets if nothing else needs them."""
    this = sa.and_(fhir_binary.c.id == identity, fhir_binary.c.communication_id.is_(None))
    key = connection.execute(sa.select(fhir_binary.c.body_key).where(this)).scalar_one_or_none()
    if key is None:
        return
    connection.execute(fhir_binary.delete().where(this))
    others = sa.select(fhir_binary.c.id).where(fhir_binary.c.body_key == key).limit(1)
    if connection.execute(others).first() is None:
        bodies.forget(connection, key)


def forget_uploads(connection: sa.Connection, bodies: Bodies, before: datetime) -> int:
    """Forget some uploads from before that time which no resource took; return how many."""
    statement = (
        sa.select(fhir_binary.c.id)
        .where(fhir_binary.c.communication_id.is_(None), fhir_binary.c.created_at < before)
        .limit(BATCH)
    )
    found = connection.execute(statement).scalars().all()
    for identity in found:
        forget_upload(connection, bodies, identity)
    return len(found)


def forget_drafts(connection: sa.Connection, before: datetime, now: datetime) -> int:
    """Delete some drafts that nobody has touched since `before`; return how many."""
    statement = (
        sa.select(fhir_resource)
        .where(
            fhir_resource.c.type == "Communication",
            fhir_resource.c.deleted.is_(False),
            fhir_resource.c.message_id.is_(None),
            fhir_resource.c.last_updated < before,
            fhir_resource.c.body.contains('"status":"preparation"', autoescape=True),
        )
        .limit(BATCH)
    )
    found = [stored_of(row) for row in connection.execute(statement)]
    drafts = [stored for stored in found if stored.resource().get("status") == "preparation"]
    for stored in drafts:
        store.remove(connection, stored, now=now)
    return len(drafts)


def forget_tokens(connection: sa.Connection, now: datetime) -> None:
    """Forget tokens and assertions that have run out."""
    for table in (fhir_access_token, fhir_assertion):
        connection.execute(table.delete().where(table.c.expires_at <= now))
