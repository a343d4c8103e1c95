"""The schema's history, run by Alembic.

Talks to the database through the connection it is handed.

A new revision: change the tables, then write `versions/NNNN_<what>.py` by hand or from
`alembic.autogenerate`. Until the first release there is one revision, and
`python -m gateway.migrations.write` writes it anew from the tables.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from certs.errors import DirectError, Reason

__all__ = ["FOLDER", "upgrade"]

FOLDER = Path(__file__).parent


def upgrade(connection: sa.Connection) -> None:
    """Bring the schema behind `connection` to the newest revision, in its transaction.

    Raises:
        DirectError: INTERNAL; the schema is of a revision this version does not know.
    """
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise DirectError(Reason.INTERNAL, f"database schema: {error}") from None
