"""What a projector is, the rows it writes, and the checkpoint that makes it exactly-once."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, repeat
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    Text,
    bindparam,
    delete,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

from domain.catalog import AnyEvent
from domain.events import Event, Recorded, WorkspaceId

READ_MODELS = MetaData()

Row: TypeAlias = dict[str, Any]
"""A row of a read model by column; what stands in a column is the column's business."""

checkpoints = Table(
    "checkpoints",
    READ_MODELS,
    Column("projector", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("global_position", BigInteger, nullable=False),
)

parked_slices = Table(
    "parked_slices",
    READ_MODELS,
    Column("projector", Text, primary_key=True),
    Column("workspace_id", Text, primary_key=True),
    Column("position", BigInteger, nullable=False, comment="of the event at fault"),
    Column("stream_id", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("occurred_at", BigInteger, nullable=False, comment="the event at fault"),
    Column(
        "tries_left",
        Integer,
        nullable=False,
        server_default="0",
        comment="until it waits for an operator",
    ),
)
"""Workspaces whose events a projector skips, from one on that it could not project."""

STATEMENTS_MAX = 1_024

ROWS_AT_ONCE_MAX = 64
"""Rows in one statement. SQLite works without the interpreter's lock while it runs one."""

LOOK_AHEAD_MIN = 4
"""Events from which on a batch first finds out which rows it will ask for: a server that is
elsewhere then answers once, and not once per row."""

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


class _Asked(Rows):
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


class Batch:
    """The rows of all tables that a batch of events touches.

    Args:
        instead: Tables to write in place of others: a rebuild's, beside the live ones.
    """

    def __init__(
        self, connection: Connection, instead: Mapping[Table, Table] | None = None
    ) -> None:
        self._connection = connection
        self._instead = instead or {}
        self._rows: dict[Table, Rows] = {}

    def rows(self, table: Table) -> Rows:
        known = self._rows.get(table)
        if known is None:
            known = self._open(self._instead.get(table, table))
            self._rows[table] = known
        return known

    def _open(self, table: Table) -> Rows:
        return Rows(self._connection, table)

    def look_ahead(self, projector: "Projector", events: Sequence[Recorded[AnyEvent]]) -> None:
        """Fold the events once for nothing, to read at once what they will ask for.

        What depends on what was read is not foreseen, and is read when it is asked for.
        """
        ahead = _Ahead(self._connection)
        for recorded in events:
            projector.project(recorded, ahead)
        for table, keys in ahead.asked():
            self.rows(table).fetch(keys)

    def flush(self) -> None:
        for rows in self._rows.values():
            rows.flush()


class _Ahead(Batch):
    def _open(self, table: Table) -> Rows:
        return _Asked(self._connection, table)

    def asked(self) -> Iterator[tuple[Table, list[tuple[Any, ...]]]]:
        for table, rows in self._rows.items():
            if isinstance(rows, _Asked):
                yield table, rows.asked


class Projector(Protocol):
    """Folds events into the tables of one read model.

    It refuses nothing, reads no stream, clock or network, and ignores what it
    does not know: so the same events give the same rows, whenever and wherever.

    Attributes:
        folds: Kinds of events that it does not ignore; it need not be shown any other.
    """

    name: ClassVar[str]
    folds: ClassVar[frozenset[type[Event]]]
    tables: ClassVar[tuple[Table, ...]]

    def project(self, recorded: Recorded[AnyEvent], batch: Batch) -> None: ...


def checkpoint(connection: Connection, projector: str, partition: int = 0) -> int:
    """Tell the last position a projector has passed; 0 if none."""
    found = connection.execute(
        select(checkpoints.c.global_position).where(
            checkpoints.c.projector == projector, checkpoints.c.partition == partition
        )
    )
    return found.scalar() or 0


def move_checkpoint(
    connection: Connection, projector: str, position: int, partition: int = 0
) -> None:
    rows = Rows(connection, checkpoints)
    rows.put(_checkpoint_row(projector, position, partition))
    rows.flush()


def project(
    connection: Connection, projector: Projector, events: Sequence[Recorded[AnyEvent]]
) -> int:
    """Project what is new of some events; tell the position then passed."""
    return project_all(connection, [projector], events)[projector.name].position


class Passed(NamedTuple):
    """How far a projector has come.

    Attributes:
        touched: One of the events just passed was of a kind that it folds.
        parked: Workspaces whose events it skips, with the position from which on.
    """

    position: int
    touched: bool = False
    parked: Mapping[WorkspaceId, int] = MappingProxyType({})


def project_all(
    connection: Connection,
    projectors: Sequence[Projector],
    events: Sequence[Recorded[AnyEvent]],
    partition: int = 0,
    *,
    upto: int = 0,
) -> dict[str, Passed]:
    """Project into several read models what is new to each; tell the positions then passed.

    Call it in a transaction of its own: checkpoints and rows move together, so
    an event that comes again finds the checkpoint past it and is dropped.

    Args:
        upto: A position up to which these are all that the partition has.
    """
    last = max(upto, events[-1].global_position if events else 0)
    passed = standings(connection, [p.name for p in projectors], partition)
    moved = Rows(connection, checkpoints)
    for projector in projectors:
        name, (before, _, parked) = projector.name, passed[projector.name]
        if last <= before:
            continue
        new = [
            recorded
            for recorded in events
            if type(recorded.event) in projector.folds
            and recorded.global_position > before
            and recorded.metadata.workspace_id not in parked
        ]
        fold(connection, projector, new)
        passed[name] = Passed(last, bool(new), parked)
        moved.put(_checkpoint_row(name, last, partition))
    moved.flush()
    return passed


def fold(
    connection: Connection,
    projector: Projector,
    events: Sequence[Recorded[AnyEvent]],
    instead: Mapping[Table, Table] | None = None,
) -> None:
    """Project events whatever the checkpoint, and write the rows."""
    batch = Batch(connection, instead)
    if len(events) >= LOOK_AHEAD_MIN and connection.dialect.name == "postgresql":
        batch.look_ahead(projector, events)
    for recorded in events:
        projector.project(recorded, batch)
    batch.flush()


def standings(
    connection: Connection, projectors: Sequence[str], partition: int = 0
) -> dict[str, Passed]:
    """Tell how far projectors are, and let nobody else move them until the transaction ends."""
    at = {"names": list(projectors), "partition": partition}
    found = connection.execute(_CHECKPOINTS, at)
    positions = {row.projector: row.global_position for row in found}
    parked: dict[str, dict[WorkspaceId, int]] = {}
    for name, workspace_id, position in connection.execute(_PARKED, at):
        parked.setdefault(name, {})[WorkspaceId(workspace_id)] = position
    return {n: Passed(positions.get(n, 0), parked=parked.get(n, {})) for n in projectors}


_CHECKPOINTS = (
    select(checkpoints.c.projector, checkpoints.c.global_position)
    .where(
        checkpoints.c.partition == bindparam("partition"),
        checkpoints.c.projector.in_(bindparam("names", expanding=True)),
    )
    .order_by(checkpoints.c.projector)
    .with_for_update()
)
_PARKED = select(
    parked_slices.c.projector, parked_slices.c.workspace_id, parked_slices.c.position
).where(parked_slices.c.projector.in_(bindparam("names", expanding=True)))


def waiting_slices(
    connection: Connection, projectors: Sequence[str]
) -> list[tuple[str, WorkspaceId, int]]:
    """List the parked slices that are tried again by themselves, with the tries left."""
    columns = (parked_slices.c.projector, parked_slices.c.workspace_id, parked_slices.c.tries_left)
    waiting = parked_slices.c.tries_left > 0, parked_slices.c.projector.in_(projectors)
    found = connection.execute(select(*columns).where(*waiting).order_by(*columns))
    return [(name, WorkspaceId(workspace_id), left) for name, workspace_id, left in found]


def park(
    connection: Connection,
    projector: str,
    recorded: Recorded[AnyEvent],
    error: str,
    tries_left: int = 0,
) -> None:
    """Have a projector skip a workspace's events from this one on."""
    rows = Rows(connection, parked_slices)
    rows.put(
        {
            "projector": projector,
            "workspace_id": recorded.metadata.workspace_id,
            "position": recorded.global_position,
            "stream_id": recorded.stream_id,
            "error": error,
            "occurred_at": micros(recorded.metadata.occurred_at),
            "tries_left": tries_left,
        }
    )
    rows.flush()


def unpark(connection: Connection, projector: str, workspace_id: WorkspaceId) -> None:
    rows = Rows(connection, parked_slices)
    rows.delete(projector, workspace_id)
    rows.flush()


def _checkpoint_row(projector: str, position: int, partition: int = 0) -> Row:
    return {"projector": projector, "partition": partition, "global_position": position}


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
