"""Write the one initial revision from the tables: `python -m gateway.migrations.write`.

Talks to the file system, and to an empty SQLite database in memory.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.autogenerate.api import AutogenContext
from alembic.migration import MigrationContext

from certs.tables import UtcDateTime
from gateway.schema import FOLDER
from gateway.tables import all_metadata

__all__ = ["initial_revision"]

PATH: Final = FOLDER / "versions" / "0001_initial.py"

_MODULE: Final = '''\
"""The first schema. Written by `python -m gateway.migrations.write`; do not edit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["downgrade", "upgrade"]

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table."""
    {upgrade}


def downgrade() -> None:
    """Drop every table."""
    {downgrade}
'''


def initial_revision() -> str:
    """Return the source text of the revision that makes an empty database what the tables say."""
    with sa.create_engine("sqlite://").connect() as connection:
        script = produce_migrations(MigrationContext.configure(connection), all_metadata())
    parts = [script.upgrade_ops, script.downgrade_ops]
    upgrade, downgrade = (
        render_python_code(part, render_item=_render_item) for part in parts if part is not None
    )
    return _MODULE.format(upgrade=upgrade, downgrade=downgrade)


def _render_item(kind: str, item: Any, context: AutogenContext) -> str | Literal[False]:
    """Write our own types as what they are in the database: a revision outlives our classes."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.BigInteger()"
    return False


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(initial_revision())
