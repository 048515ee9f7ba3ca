"""Rows of read models: what a batch of events finds, leaves and writes; how values are spelt."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, repeat
from typing import Any, TypeAlias

import msgspec
from sqlalchemy import (
    Boolean,
    Connection,
    MetaData,
    Table,
    Text,
    delete,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

READ_MODELS = MetaData()

Row: TypeAlias = dict[str, Any]
"""A row of a read model by column; what stands in a column is the column's business."""

STATEMENTS_MAX = 1_024

ROWS_AT_ONCE_MAX = 64
"""Rows in one statement. SQLite works without the interpreter's lock while it runs one."""

UNSTORABLE, STORED_INSTEAD = "\0", "\ufffd"
"""PostgreSQL's text cannot hold U+0000. Replaced in every database, so that all hold the same."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Rows:
    """Rows of one table as a batch of events finds and leaves them; written once, at its end."""

    def __init__(self, connection: Connection, table: Table) -> None:
        self._connection = connection
        self._table = table
        self._keys = _key_names(table)
        self._known: dict[tuple[Any, ...], Row | None] = {}
        self._touched: set[tuple[Any, ...]] = set()

    def get(self, *key: object) -> Row | None:
        """Read a row, to be changed in place and then put."""
        key = _storable_key(key)
        if key not in self._known:
            if self._connection.dialect.name == "postgresql":
                self.fetch([key])
            else:
                self._known[key] = self._find(key)
        return self._known[key]

    def _find(self, key: tuple[Any, ...]) -> Row | None:
        """Ask the driver itself: SQLite answers in a tenth of the time that SQLAlchemy takes."""
        cursor = self._connection.connection.cursor()
        cursor.execute(_select_one(self._table), key)
        values = cursor.fetchone()
        if values is None:
            return None
        row = dict(zip(_names(self._table), values, strict=True))
        for name in _truth_names(self._table):
            row[name] = bool(row[name])
        return row

    def fetch(self, keys: Sequence[tuple[Any, ...]]) -> None:
        """Read rows that will be asked for, all at once. PostgreSQL only."""
        if not keys:
            return
        self._known.update(dict.fromkeys(keys))
        names = _names(self._table)
        found = self._connection.exec_driver_sql(_select_many(self._table), _turned(keys))
        for values in found:
            row = dict(zip(names, values, strict=True))
            self._known[tuple(row[name] for name in self._keys)] = row

    def put(self, row: Row) -> None:
        """Write a whole row; one of the same key is replaced."""
        key = _storable_key(tuple(row[name] for name in self._keys))
        self._known[key] = row
        self._touched.add(key)

    def delete(self, *key: object) -> None:
        key = _storable_key(key)
        self._known[key] = None
        self._touched.add(key)

    def flush(self) -> None:
        rows: list[Row] = []
        gone: list[tuple[Any, ...]] = []
        for key in self._touched:
            row = self._known[key]
            if row is None:
                gone.append(key)
            else:
                rows.append(row)
        postgres = self._connection.dialect.name == "postgresql"
        if gone:
            self._delete_many(gone) if postgres else self._delete(gone)
        if rows:
            _make_storable(rows, _text_names(self._table))
            self._upsert_many(rows) if postgres else self._upsert(rows)

    def _delete(self, gone: list[tuple[Any, ...]]) -> None:
        place = tuple_(*(self._table.c[name] for name in self._keys))
        self._connection.execute(delete(self._table).where(place.in_(gone)))

    def _delete_many(self, gone: list[tuple[Any, ...]]) -> None:
        self._connection.exec_driver_sql(_delete_many(self._table), _turned(gone))

    def _upsert(self, rows: list[Row]) -> None:
        names, rest = _names(self._table), iter(rows)
        for size in statement_sizes(len(rows)):
            statement = _upsert(self._table, self._connection.dialect, size)
            values = tuple(row[name] for row in islice(rest, size) for name in names)
            self._connection.exec_driver_sql(statement, values)

    def _upsert_many(self, rows: list[Row]) -> None:
        columns = tuple([row[name] for row in rows] for name in _names(self._table))
        self._connection.exec_driver_sql(_upsert_many(self._table), columns)


class AskedRows(Rows):
    """Stands in for rows while a batch is looked at ahead: notes which it would read."""

    def __init__(self, connection: Connection, table: Table) -> None:
        super().__init__(connection, table)
        self.asked: list[tuple[Any, ...]] = []

    def get(self, *key: object) -> Row | None:
        key = _storable_key(key)
        if key not in self._known:
            self._known[key] = None
            self.asked.append(key)
        return self._known[key]


def _turned(rows: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Give columns, each a list, for `unnest`."""
    return tuple(map(list, zip(*rows, strict=True)))


def _storable_key(key: tuple[Any, ...]) -> tuple[Any, ...]:
    for part in key:
        if type(part) is str and UNSTORABLE in part:
            return tuple(_storable(part) for part in key)
    return key


def _storable(value: object) -> object:
    return value.replace(UNSTORABLE, STORED_INSTEAD) if isinstance(value, str) else value


def _make_storable(rows: list[Row], names: tuple[str, ...]) -> None:
    for name in names:
        for row in rows:
            value = row[name]
            if value is not None and UNSTORABLE in value:
                row[name] = _storable(value)


@lru_cache(maxsize=STATEMENTS_MAX)
def _names(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns)


@lru_cache(maxsize=STATEMENTS_MAX)
def _truth_names(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns if isinstance(column.type, Boolean))


@lru_cache(maxsize=STATEMENTS_MAX)
def _key_names(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.primary_key)


@lru_cache(maxsize=STATEMENTS_MAX)
def _text_names(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns if isinstance(column.type, Text))


# Statements are made once per table: making one costs ten times what running it does.


@lru_cache(maxsize=STATEMENTS_MAX)
def _select_one(table: Table) -> str:
    place = " AND ".join(f'"{name}" = ?' for name in _key_names(table))
    return f'SELECT {_quoted(_names(table))} FROM "{table.name}" WHERE {place}'  # noqa: S608 our own names


@lru_cache(maxsize=STATEMENTS_MAX)
def _upsert(table: Table, dialect: Dialect, size: int) -> str:
    head, values, tail = _upsert_one(table, dialect)
    return f"{head}{', '.join([values] * size)}{tail}"


@lru_cache(maxsize=STATEMENTS_MAX)
def _upsert_one(table: Table, dialect: Dialect) -> tuple[str, str, str]:
    """Spell what stands before one row's values, those values, and what stands after them."""
    keys = [column.name for column in table.primary_key]
    insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
    statement = insert(table).values([{c.name: None for c in table.columns}])
    others = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in keys}
    upsert = statement.on_conflict_do_update(index_elements=keys, set_=others)
    head, _, rest = str(upsert.compile(dialect=dialect)).partition(" VALUES ")
    values, _, tail = rest.partition(" ON CONFLICT")
    return f"{head} VALUES ", values, f" ON CONFLICT{tail}"


# On PostgreSQL rows travel as one array per column, so that a statement is the same for any number
# of rows: it stays prepared, and one round trip brings them all.


@lru_cache(maxsize=STATEMENTS_MAX)
def _upsert_many(table: Table) -> str:
    names, keys = _names(table), _key_names(table)
    changes = ", ".join(f'"{name}" = excluded."{name}"' for name in names if name not in keys)
    return (
        f'INSERT INTO "{table.name}" ({_quoted(names)}) SELECT * FROM {_unnest(table, names)}'  # noqa: S608 our own names
        f" ON CONFLICT ({_quoted(keys)}) DO UPDATE SET {changes}"
    )


@lru_cache(maxsize=STATEMENTS_MAX)
def _select_many(table: Table) -> str:
    keys, names = _key_names(table), _names(table)
    return (
        f"SELECT {_quoted(names)} FROM {_unnest(table, keys)} AS asked ({_quoted(keys)})"  # noqa: S608 our own names
        f' JOIN "{table.name}" USING ({_quoted(keys)})'
    )


@lru_cache(maxsize=STATEMENTS_MAX)
def _delete_many(table: Table) -> str:
    keys = _key_names(table)
    same = " AND ".join(f'"{table.name}"."{name}" = gone."{name}"' for name in keys)
    return (
        f'DELETE FROM "{table.name}" USING {_unnest(table, keys)} AS gone ({_quoted(keys)})'  # noqa: S608 our own names
        f" WHERE {same}"
    )


def _unnest(table: Table, names: Sequence[str]) -> str:
    arrays = ", ".join(f"%b::{table.c[name].type.compile(_POSTGRES)}[]" for name in names)
    return f"unnest({arrays})"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


_POSTGRES = postgresql.dialect()  # type: ignore[no-untyped-call]


def statement_sizes(count: int) -> Iterator[int]:
    """Split a number of rows into statements, of so few sizes that all stay prepared."""
    full, rest = divmod(count, ROWS_AT_ONCE_MAX)
    yield from repeat(ROWS_AT_ONCE_MAX, full)
    if rest:
        yield rest


def micros(moment: datetime) -> int:
    """Spell a moment as microseconds since 1970, UTC: it sorts, and every database holds it."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def as_json(value: object) -> str:
    """Spell a value as JSON with sorted keys, so that equal values have equal rows."""
    return msgspec.json.encode(value, order="deterministic").decode()


def folded_tags(tags: tuple[str, ...]) -> str:
    """Spell tags in lower case, each on a line: as JSON none holds a line break itself.

    So a tag is among others if, and only if, its spelling is part of theirs.
    """
    return "".join(f"\n{as_json(tag.casefold())}\n" for tag in tags)
