"""The schema's history, run by Alembic.

Talks to the database through the connection it is handed.

A new revision: change the tables, then write `versions/NNNN_<what>.py` by hand or from
`alembic.autogenerate`. Until the first release there is one revision, and
`python -m gateway.migrations.write` writes it anew from the tables.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from certs.errors import DirectError, Reason

__all__ = ["FOLDER", "upgrade"]

FOLDER: Final = Path(__file__).parent

# Alembic hands the connection to `env.py` and to the revisions through variables of its modules:
# of two migrations at once, one would create its tables in the other's database.
_ONE_AT_A_TIME: Final = threading.Lock()


def upgrade(connection: sa.Connection) -> None:
    """Bring the schema behind `connection` to the newest revision, in its transaction.

    Run it in a thread of its own, for it waits for other migrations of this process.

    Raises:
        DirectError: INTERNAL; the schema is of a revision this version does not know.
    """
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    try:
        with _ONE_AT_A_TIME:
            command.upgrade(config, "head")
    except CommandError as error:
        raise DirectError(Reason.INTERNAL, f"database schema: {error}") from None
