"""What Alembic runs: the revisions, on the connection that `gateway.migrations` hands over.

Talks to the database through that connection, whose transaction is the caller's.
"""

from __future__ import annotations

from alembic import context

__all__: list[str] = []

# render_as_batch: SQLite changes a table by making a new one.
context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
context.run_migrations()
