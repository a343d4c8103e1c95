"""A SQLite connection that compiles a statement once, and runs it as often as it is asked to.

Talks to SQLite. What SQLAlchemy does for each call of `execute` (looking the compiled statement up
by its structure, a context, a cursor result) costs several times what SQLite needs for a row by its
key. A statement that comes a second time, as the same object, is run here with what is left:
values in order, converted by the columns' types, and rows out, converted back. All else is
SQLAlchemy's own: statements made for one call, and what this module does not know.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ["PreparedConnection", "Statements"]

_Convert: TypeAlias = Callable[[Any], Any]
_Keys: TypeAlias = tuple[str, ...]
_Known: TypeAlias = sa.Select[Any] | sa.CompoundSelect[Any] | sa.Insert | sa.Update | sa.Delete

# What SQLAlchemy writes in place of a list whose length is known at each call only.
_EXPANDED_LATER: Final = "__[POSTCOMPILE"
_NO_ROWS: Final = SimpleResultMetaData(())


class _Result(IteratorResult[Any]):
    """Rows, and how many a change has changed."""

    def __init__(
        self, shape: SimpleResultMetaData, rows: Iterator[tuple[Any, ...]], rowcount: int
    ) -> None:
        super().__init__(shape, rows)
        self.rowcount = rowcount


@dataclass(frozen=True, slots=True)
class _Value:
    """One value of a statement: of the call where `key` is set, else of the statement itself."""

    key: str | None
    convert: _Convert | None
    own: object


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A compiled statement: `shape` None where it yields no rows."""

    sql: str
    values: tuple[_Value, ...]
    shape: SimpleResultMetaData | None
    converts: tuple[tuple[int, _Convert], ...]

    def run(self, connection: sqlite3.Connection, parameters: Mapping[str, Any]) -> _Result:
        """Run the statement once."""
        cursor = connection.execute(self.sql, self._ordered(parameters))
        if self.shape is None:
            return _Result(_NO_ROWS, iter(()), cursor.rowcount)
        rows = map(self._converted, cursor) if self.converts else cursor
        return _Result(self.shape, rows, cursor.rowcount)

    def run_all(
        self, connection: sqlite3.Connection, parameters: Iterable[Mapping[str, Any]]
    ) -> _Result:
        """Run a statement that yields no rows, once for each of `parameters`."""
        cursor = connection.executemany(self.sql, map(self._ordered, parameters))
        return _Result(_NO_ROWS, iter(()), cursor.rowcount)

    def _ordered(self, parameters: Mapping[str, Any]) -> list[Any]:
        return [
            value.own
            if value.key is None
            else parameters[value.key]
            if value.convert is None
            else value.convert(parameters[value.key])
            for value in self.values
        ]

    def _converted(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        columns = list(row)
        for index, convert in self.converts:
            columns[index] = convert(columns[index])
        return tuple(columns)


class Statements:
    """The statements that connections to one file have in common; of use from any thread."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self._dialect = dialect
        # By the names of its values as well: they decide what an INSERT or UPDATE writes.
        self._known: WeakKeyDictionary[sa.Executable, dict[_Keys, _Prepared | None]] = (
            WeakKeyDictionary()
        )

    def prepared(self, statement: sa.Executable, keys: _Keys) -> _Prepared | None:
        """Return the statement for values of these names; None: it is SQLAlchemy's to run."""
        forms = self._known.get(statement)
        if forms is None:
            # It may be made for one call: to compile it here as well would be for nothing.
            self._known[statement] = {}
            return None
        try:
            return forms[keys]
        except KeyError:
            form = forms[keys] = _prepare(statement, keys, self._dialect)
            return form

    def failed(self, prepared: _Prepared, error: sqlite3.Error) -> Exception:
        """Return what SQLAlchemy raises for `error`, without any value."""
        return sa.exc.DBAPIError.instance(
            prepared.sql, None, error, sqlite3.Error, hide_parameters=True, dialect=self._dialect
        )


class PreparedConnection(sa.Connection):
    """Implements `sqlalchemy.Connection`, in less time."""

    def __init__(self, engine: sa.Engine, statements: Statements) -> None:
        super().__init__(engine)
        self._statements = statements

    def execute(
        self, statement: sa.Executable, parameters: Any = None, *, execution_options: Any = None
    ) -> Any:
        """Run `statement`; the result has all methods of `sqlalchemy.Result`, and `rowcount`.

        Raises:
            sqlalchemy.exc.DBAPIError: what SQLite says of it.
        """
        many = isinstance(parameters, list)
        keys = tuple((parameters[0] if parameters else ()) if many else parameters or ())
        prepared = self._statements.prepared(statement, keys)
        plain = execution_options is None and self.in_transaction()
        if prepared is None or not plain or (many and (prepared.shape or not parameters)):
            return super().execute(statement, parameters, execution_options=execution_options)
        connection: Any = self.connection.dbapi_connection
        try:
            if many:
                return prepared.run_all(connection, parameters)
            return prepared.run(connection, parameters or {})
        except sqlite3.Error as error:
            raise self._statements.failed(prepared, error) from error


def _prepare(statement: sa.Executable, keys: _Keys, dialect: sa.Dialect) -> _Prepared | None:
    """Return the compiled statement, or None where it has what this module does not know."""
    if not isinstance(statement, sa.Select | sa.CompoundSelect | sa.Insert | sa.Update | sa.Delete):
        return None
    writes = isinstance(statement, sa.Insert | sa.Update)
    compiled = statement.compile(dialect=dialect, column_keys=list(keys) if writes else None)
    if not isinstance(compiled, SQLCompiler) or not _is_plain(statement, compiled):
        return None
    values = _values(compiled, keys, dialect)
    if values is None:
        return None
    columns = list(statement.exported_columns)
    if not columns:
        return _Prepared(compiled.string, values, None, ())
    names = [str(column.key) for column in columns]
    if len(set(names)) != len(names):
        return None
    found = [
        (index, column.type.dialect_impl(dialect).result_processor(dialect, None))
        for index, column in enumerate(columns)
    ]
    converts = tuple((index, convert) for index, convert in found if convert is not None)
    shape = SimpleResultMetaData(names, extra=[(column,) for column in columns])
    return _Prepared(compiled.string, values, shape, converts)


def _is_plain(statement: _Known, compiled: SQLCompiler) -> bool:
    """Say whether the text is all there is: no defaults to compute, nothing to expand."""
    returned = bool(compiled.effective_returning) and not statement.exported_columns
    return not (
        _EXPANDED_LATER in compiled.string
        or compiled.insert_prefetch
        or compiled.update_prefetch
        or returned
        or statement.get_execution_options()
    )


def _values(compiled: SQLCompiler, keys: _Keys, dialect: sa.Dialect) -> tuple[_Value, ...] | None:
    """Return the statement's values in order; None where one is missing or made at each call."""
    found = []
    for name in compiled.positiontup or ():
        bind = compiled.binds[name]
        convert = bind.type.dialect_impl(dialect).bind_processor(dialect)
        key = next((key for key in (bind.key, name) if key in keys), None)
        if key is None and (bind.required or bind.callable is not None):
            return None
        own = bind.value if key is not None or convert is None else convert(bind.value)
        found.append(_Value(key, convert, own))
    return tuple(found)
