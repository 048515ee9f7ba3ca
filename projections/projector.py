"""What a projector is, the rows it writes, and the checkpoint that makes it exactly-once."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, repeat
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    delete,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

from domain.catalog import AnyEvent
from domain.events import Event, Recorded

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

STATEMENTS_MAX = 1_024

ROWS_AT_ONCE_MAX = 64
"""Rows in one statement. SQLite works without the interpreter's lock while it runs one."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Rows:
    """Rows of one table as a batch of events finds and leaves them; written once, at its end."""

    def __init__(self, connection: Connection, table: Table) -> None:
        self._connection = connection
        self._table = table
        self._keys = [column.name for column in table.primary_key]
        self._known: dict[tuple[Any, ...], Row | None] = {}
        self._touched: set[tuple[Any, ...]] = set()

    def get(self, *key: object) -> Row | None:
        """Read a row, to be changed in place and then put."""
        if key not in self._known:
            values = {f"key_{n}": part for n, part in enumerate(key)}
            row = self._connection.execute(_by_key(self._table), values).mappings().first()
            self._known[key] = None if row is None else dict(row)
        return self._known[key]

    def put(self, row: Row) -> None:
        """Write a whole row; one of the same key is replaced."""
        key = tuple(row[name] for name in self._keys)
        self._known[key] = row
        self._touched.add(key)

    def delete(self, *key: object) -> None:
        self._known[key] = None
        self._touched.add(key)

    def flush(self) -> None:
        kept = [self._known[key] for key in self._touched]
        gone = [key for key in self._touched if self._known[key] is None]
        if gone:
            place = tuple_(*(self._table.c[name] for name in self._keys))
            self._connection.execute(delete(self._table).where(place.in_(gone)))
        rows = [row for row in kept if row is not None]
        if rows:
            self._upsert(rows)

    def _upsert(self, rows: list[Row]) -> None:
        names, rest = [column.name for column in self._table.columns], iter(rows)
        for size in statement_sizes(len(rows)):
            statement = _upsert(self._table, self._connection.dialect, size)
            values = tuple(row[name] for row in islice(rest, size) for name in names)
            self._connection.exec_driver_sql(statement, values)


# Statements are made once per table: making one costs ten times what running it does.


@lru_cache(maxsize=STATEMENTS_MAX)
def _by_key(table: Table) -> Select[Any]:
    keys = enumerate(table.primary_key)
    return select(table).where(and_(*(column == bindparam(f"key_{n}") for n, column in keys)))


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
            known = Rows(self._connection, self._instead.get(table, table))
            self._rows[table] = known
        return known

    def flush(self) -> None:
        for rows in self._rows.values():
            rows.flush()


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
    """

    position: int
    touched: bool = False


def project_all(
    connection: Connection,
    projectors: Sequence[Projector],
    events: Sequence[Recorded[AnyEvent]],
) -> dict[str, Passed]:
    """Project into several read models what is new to each; tell the positions then passed.

    Call it in a transaction of its own: checkpoints and rows move together, so
    an event that comes again finds the checkpoint past it and is dropped.
    """
    passed = dict.fromkeys((p.name for p in projectors), Passed(0))
    for name, position in connection.execute(_CHECKPOINTS, {"names": list(passed)}):
        passed[name] = Passed(position)
    moved = Rows(connection, checkpoints)
    for projector in projectors:
        before, folds = passed[projector.name].position, projector.folds
        if not events or events[-1].global_position <= before:
            continue
        new = [r for r in events if type(r.event) in folds and r.global_position > before]
        batch = Batch(connection)
        for recorded in new:
            projector.project(recorded, batch)
        batch.flush()
        last = events[-1].global_position
        passed[projector.name] = Passed(last, bool(new))
        moved.put(_checkpoint_row(projector.name, last))
    moved.flush()
    return passed


_CHECKPOINTS = select(checkpoints.c.projector, checkpoints.c.global_position).where(
    checkpoints.c.partition == 0,
    checkpoints.c.projector.in_(bindparam("names", expanding=True)),
)


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
