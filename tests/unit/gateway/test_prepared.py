"""gateway.prepared: the same answers as SQLAlchemy's own connection, whatever the statement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from certs.tables import UtcDateTime
from gateway.prepared import PreparedConnection, Statements

NOW: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
TABLE: Final = sa.Table(
    "thing",
    sa.MetaData(),
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.String(20), nullable=False, unique=True),
    sa.Column("at", UtcDateTime),
    sa.Column("on", sa.Boolean),
    sa.Column("settings", sa.JSON),
    sa.Column("maybe", sa.JSON(none_as_null=True)),
    sa.Column("octets", sa.LargeBinary),
    sa.Column("number", sa.BigInteger),
)
INSERT: Final = TABLE.insert()
SELECT: Final = sa.select(TABLE).order_by(TABLE.c.name)
BY_NAME: Final = SELECT.where(TABLE.c.name == sa.bindparam("the_name"))
ROWS: Final = [
    {
        "id": UUID(int=number),
        "name": f"n{number}",
        "at": NOW,
        "on": bool(number % 2),
        "settings": {"a": [number, None, "é"]},
        "maybe": None,
        "octets": bytes([number]),
        "number": 2**40 + number,
    }
    for number in range(3)
]
Make: Any = Callable[[], sa.Connection]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/a.db", poolclass=sa.NullPool)
    TABLE.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def prepared(engine: sa.Engine) -> Iterator[sa.Connection]:
    with PreparedConnection(engine, Statements(engine.dialect)) as connection, connection.begin():
        connection.execute(INSERT, ROWS)
        yield connection


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[sa.Connection]:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/b.db", poolclass=sa.NullPool)
    TABLE.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(INSERT, ROWS)
        yield connection


def _twice(connection: sa.Connection, statement: sa.Executable, values: Any) -> list[Any]:
    """Return the rows of the third run: the first is SQLAlchemy's own."""
    for _ in range(2):
        connection.execute(statement, values).all()
    return [tuple(row) for row in connection.execute(statement, values)]


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        pytest.param(SELECT, None, id="every-type"),
        pytest.param(BY_NAME, {"the_name": "n1"}, id="by-value"),
        pytest.param(BY_NAME, {"the_name": "none"}, id="no-row"),
        pytest.param(SELECT.limit(2).offset(1), None, id="limit-and-offset"),
        pytest.param(SELECT.where(TABLE.c.at == NOW), None, id="its-own-value-is-converted"),
        pytest.param(SELECT.where(TABLE.c.at <= sa.bindparam("t")), {"t": NOW}, id="typed-value"),
        pytest.param(
            SELECT.where(TABLE.c.name.in_((sa.bindparam("a"), sa.bindparam("b")))),
            {"a": "n0", "b": "n2"},
            id="list-of-known-length",
        ),
        pytest.param(
            SELECT.where(TABLE.c.name.in_(sa.bindparam("names", expanding=True))),
            {"names": ["n0", "n2"]},
            id="list-of-any-length",
        ),
        pytest.param(sa.select(sa.func.count().label("n")).select_from(TABLE), None, id="label"),
        pytest.param(
            sa.select(TABLE.c.id, TABLE.alias("other").c.id).where(TABLE.c.name == "n1"),
            None,
            id="two-columns-of-one-name",
        ),
        pytest.param(
            sa.union_all(sa.select(TABLE.c.name), sa.select(TABLE.c.name)), None, id="union"
        ),
        pytest.param(sa.text("SELECT name FROM thing ORDER BY name"), None, id="text"),
        pytest.param(
            TABLE.update().where(TABLE.c.name == "n1").values(number=5).returning(TABLE),
            None,
            id="returning",
        ),
    ],
)
def test_rows_are_sqlalchemys_own(
    prepared: sa.Connection, plain: sa.Connection, statement: sa.Executable, values: Any
) -> None:
    assert _twice(prepared, statement, values) == _twice(plain, statement, values)


def test_rows_are_read_by_name_and_by_column(prepared: sa.Connection) -> None:
    for _ in range(3):
        row = prepared.execute(BY_NAME, {"the_name": "n2"}).one()
        assert row.id == UUID(int=2)
        assert row._mapping[TABLE.c.at] == NOW
        assert prepared.execute(BY_NAME, {"the_name": "n2"}).mappings().one()["on"] is False
        assert prepared.execute(BY_NAME, {"the_name": "n2"}).scalar() == UUID(int=2)
        assert prepared.execute(BY_NAME, {"the_name": "n9"}).first() is None


def test_what_changes_counts_its_rows_and_writes_only_what_is_named(
    prepared: sa.Connection,
) -> None:
    change = TABLE.update().where(TABLE.c.name == sa.bindparam("the_name"))
    for number in (7, 8, 9):
        assert prepared.execute(change, {"the_name": "n1", "number": number}).rowcount == 1
        assert prepared.execute(change, {"the_name": "none", "number": number}).rowcount == 0
        assert prepared.execute(BY_NAME, {"the_name": "n1"}).one().number == number
    # The same statement, other columns.
    for _ in range(2):
        assert prepared.execute(change, {"the_name": "n1", "on": False}).rowcount == 1
    row = prepared.execute(BY_NAME, {"the_name": "n1"}).one()
    assert (row.number, row.on, row.at) == (9, False, NOW)


def test_several_rows_are_written_by_one_call(prepared: sa.Connection) -> None:
    for start in (10, 20, 30):
        rows = [{**ROWS[0], "id": uuid4(), "name": f"n{start + n}"} for n in range(3)]
        prepared.execute(INSERT, rows)
    assert len(prepared.execute(SELECT).all()) == 12


def test_nothing_is_written_for_no_rows(prepared: sa.Connection) -> None:
    deletion = TABLE.delete().where(TABLE.c.name == sa.bindparam("the_name"))
    for _ in range(3):
        assert prepared.execute(deletion, {"the_name": "none"}).rowcount == 0
    assert len(prepared.execute(SELECT).all()) == 3


def test_a_failure_is_sqlalchemys_and_quotes_no_value(prepared: sa.Connection) -> None:
    secret = {**ROWS[1], "id": uuid4()}
    for _ in range(3):
        with (
            pytest.raises(sa.exc.IntegrityError) as caught,
            prepared.begin_nested(),
        ):
            prepared.execute(INSERT, secret)
        assert "n1" not in str(caught.value)


def test_a_value_that_is_missing_is_refused(prepared: sa.Connection) -> None:
    for _ in range(3):
        with pytest.raises(sa.exc.StatementError):
            prepared.execute(BY_NAME, {})


def test_defaults_are_sqlalchemys_to_compute(tmp_path: Path) -> None:
    table = sa.Table(
        "counted",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("made", sa.String, default=lambda: "made"),
    )
    engine = sa.create_engine(f"sqlite:///{tmp_path}/c.db", poolclass=sa.NullPool)
    table.metadata.create_all(engine)
    insert, select = table.insert(), sa.select(table)
    with PreparedConnection(engine, Statements(engine.dialect)) as connection, connection.begin():
        for number in (1, 2, 3):
            connection.execute(insert, {"id": number})
            assert connection.execute(select).all()[-1] == (number, "made")


def test_a_long_answer_is_read_as_it_is_asked_for(prepared: sa.Connection) -> None:
    for _ in range(3):
        rows = prepared.execute(SELECT).yield_per(1)
        assert next(iter(rows)).name == "n0"
        rows.close()


def test_statements_made_for_one_call_are_forgotten(engine: sa.Engine) -> None:
    statements = Statements(engine.dialect)
    with PreparedConnection(engine, statements) as connection, connection.begin():
        for number in range(50):
            connection.execute(SELECT.where(TABLE.c.number == number)).all()
    assert len(statements._known) <= 1
