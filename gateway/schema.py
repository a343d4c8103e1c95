"""Bring the database's schema to this version's.

Talks to the database through the connection it is handed. The revisions lie in
`gateway.migrations`; Alembic runs them, and is imported only where one has to be run.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from certs.errors import DirectError, Reason

__all__ = ["FOLDER", "upgrade"]

FOLDER: Final = Path(__file__).parent / "migrations"

# Alembic hands the connection to `env.py` and to the revisions through variables of its modules:
# of two migrations at once, one would create its tables in the other's database.
_ONE_AT_A_TIME: Final = threading.Lock()


def upgrade(connection: sa.Connection) -> None:
    """Bring the schema behind `connection` to the newest revision, in its transaction.

    Run it in a thread of its own, for it waits for other migrations of this process.

    Raises:
        DirectError: INTERNAL; the schema is of a revision this version does not know.
    """
    if _present(connection) == _newest():
        return
    # Imported here: a start that has nothing to migrate is faster and 17 MB smaller without it.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    try:
        with _ONE_AT_A_TIME:
            command.upgrade(config, "head")
    except CommandError as error:
        raise DirectError(Reason.INTERNAL, f"database schema: {error}") from None


def _present(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.exec_driver_sql(
        "SELECT version_num FROM alembic_version"
    ).scalar()
    return found


def _newest() -> str:
    # A revision's file is named by its number: 0001_initial.py.
    return max(path.name.partition("_")[0] for path in FOLDER.glob("versions/[0-9]*.py"))
