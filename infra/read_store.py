"""Where read models live: an SQLite file beside the log, made again from it at will."""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import structlog
from sqlalchemy import (
    Connection,
    Engine,
    Inspector,
    MetaData,
    Table,
    Text,
    create_engine,
    delete,
    event,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as SQLAlchemyTimeoutError

from domain.catalog import AnyEvent
from domain.events import Recorded, WorkspaceId
from infra.event_store.unreadable import concerns, refuse_unreadable
from infra.failpoints import failpoint
from projections.projector import (
    Projector,
    checkpoint,
    checkpoints,
    fold,
    move_checkpoint,
    park,
    parked_slices,
)
from projections.rows import READ_MODELS, STATEMENTS_MAX

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_S = 5.0
REBUILD_BATCH_MAX = 1_000
"""Events projected in one transaction of a rebuild."""

LAST_LAP_MAX = 100
"""Events left to project when a rebuild takes the write lock and swaps."""

SHADOW = "__rebuild"

ERROR_MAX = 1_000
"""Characters of an error kept beside what it parked."""

PASSING = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR}
)
"""Faults of the disk or of other processes, which may be over at the next try."""


class Log(Protocol):
    async def read_all(self, *, after: int, limit: int) -> list[Recorded[AnyEvent]]: ...
    async def head(self) -> int: ...


def open_engine(path: Path | None, projectors: Sequence[Projector] = ()) -> Engine:
    """Open the file for writing and make what tables it lacks; None for a database in memory.

    Not synced at every commit: after a power cut the checkpoint and its rows
    are both an instant older, and are projected again.
    """
    engine = create_engine(
        "sqlite://" if path is None else f"sqlite:///{path}",
        connect_args={
            "timeout": BUSY_TIMEOUT_S,
            "check_same_thread": False,
            "cached_statements": STATEMENTS_MAX,
        },
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    with engine.begin() as connection:
        make_read_models(connection, projectors)
        failpoint("read_models.in_transaction")
    failpoint("read_models.made")
    return engine


def make_read_models(connection: Connection, projectors: Sequence[Projector]) -> None:
    """Make what tables are missing; a read model that has another shape is emptied for it.

    Another release made it. The log is then projected into it anew.
    """
    failpoint("read_models.before_make")
    READ_MODELS.create_all(connection, tables=[checkpoints, parked_slices])
    there = inspect(connection)
    for projector in projectors:
        if not all(_is_there(there, table) for table in projector.tables):
            _empty(connection, projector)
    failpoint("read_models.reshaped")
    READ_MODELS.create_all(connection)


def _is_there(there: Inspector, table: Table) -> bool:
    if not there.has_table(table.name):
        return False
    return {column["name"] for column in there.get_columns(table.name)} == set(table.c.keys())


def _empty(connection: Connection, projector: Projector) -> None:
    for table in projector.tables:
        failpoint("read_models.before_drop")
        table.drop(connection, checkfirst=True)
    failpoint("read_models.dropped")
    of_projector = checkpoints.c.projector == projector.name
    passed = connection.execute(delete(checkpoints).where(of_projector)).rowcount
    failpoint("read_models.before_parked")
    connection.execute(delete(parked_slices).where(parked_slices.c.projector == projector.name))
    if passed:
        log.warning("a read model had another shape; it is made anew", projector=projector.name)


def _on_connect(connection: Any, _: object) -> None:  # noqa: ANN401 SQLAlchemy's DBAPI object
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _on_begin(connection: Connection) -> None:
    # IMMEDIATE, because a transaction that reads its checkpoint and then writes
    # must not find that another process wrote in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def will_pass(error: Exception) -> bool:
    """Tell a fault that passes by itself from one that every further try would meet again."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.OperationalError):
        return (cause.sqlite_errorcode & 0xFF) in PASSING
    # Of PostgreSQL: cut connections, locks waited for too long, full disks; and no connection free.
    return isinstance(error, OperationalError | InterfaceError | SQLAlchemyTimeoutError)


def told(error: Exception) -> str:
    """Spell an error as it is kept beside what it parked."""
    return f"{type(error).__name__}: {error}"[:ERROR_MAX].replace("\0", "\ufffd")


class Reads:
    """Implements `read_api.reads.Reads`: SQLite answers in microseconds, so inline."""

    def __init__(self, path: Path | None, writing: Engine) -> None:
        engine = (
            writing
            if path is None
            else create_engine(
                f"sqlite:///file:{path}?mode=ro&uri=true",
                connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
            )
        )
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    async def ask(
        self,
        query: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return query(self._connection, *args, **kwargs)

    async def ask_in(
        self,
        workspace_id: WorkspaceId,
        query: Callable[Concatenate[Connection, WorkspaceId, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return query(self._connection, workspace_id, *args, **kwargs)

    def close(self) -> None:
        self._connection.close()


class Ground(Protocol):
    """What differs between databases when a rebuilt read model takes the live one's place."""

    def hold(self, connection: Connection) -> None:
        """Keep everybody else from projecting until the transaction ends."""
        ...

    def settle(self, connection: Connection, table: Table) -> None:
        """Finish a table that has just got its name."""
        ...

    partitions: int


class InFile:
    """Implements `Ground` for SQLite, where whoever writes is alone."""

    partitions = 1

    def hold(self, connection: Connection) -> None:
        pass

    def settle(self, connection: Connection, table: Table) -> None:
        for index in table.indexes:
            index.create(connection)


IN_FILE = InFile()


async def rebuild(
    log: Log,
    engine: Engine,
    projector: Projector,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    *,
    ground: Ground = IN_FILE,
) -> int:
    """Project the whole log into tables beside the live ones, then swap them in one transaction.

    Readers go on reading the old tables until then; a follower that is running
    goes on from the new checkpoint. Workspaces are parked as the rebuild finds them: who was
    parked at an event that can be read and projected by now is not any more. Only one rebuild at a
    time, by a lock: two would write to the same tables.
    """
    beside = _Beside(projector)
    with engine.begin() as connection:
        beside.make(connection)
        failpoint("rebuild.in_making")
    failpoint("rebuild.made")
    position = 0
    while await log.head() - position > LAST_LAP_MAX:
        events = await log.read_all(after=position, limit=REBUILD_BATCH_MAX)
        with engine.begin() as connection:
            beside.project(connection, events)
            failpoint("rebuild.in_batch")
        failpoint("rebuild.after_batch")
        position = events[-1].global_position
        on_progress(position, await log.head())
    with engine.begin() as connection:
        ground.hold(connection)
        failpoint("rebuild.holding")
        # From here no follower moves the live tables any more. What is appended meanwhile is
        # the follower's again, so that the lock is not held for ever.
        head = await log.head()
        while position < head:
            events = await log.read_all(after=position, limit=head - position)
            beside.project(connection, events)
            position = events[-1].global_position
        beside.swap(connection, ground)
        failpoint("rebuild.swapped")
        for partition in range(ground.partitions):
            move_checkpoint(connection, projector.name, position, partition)
        failpoint("rebuild.before_commit")
    failpoint("rebuild.after_commit")
    on_progress(position, position)
    return position


class _Beside:
    """A read model's tables in the making."""

    def __init__(self, projector: Projector) -> None:
        self._projector = projector
        self._shadows = _shadows(projector)
        self._parked: dict[WorkspaceId, tuple[Recorded[AnyEvent], str]] = {}

    def make(self, connection: Connection) -> None:
        for shadow in self._shadows.values():
            shadow.drop(connection, checkfirst=True)
            shadow.create(connection)

    def project(self, connection: Connection, events: Sequence[Recorded[AnyEvent]]) -> None:
        """Project what is folded; what cannot be read or projected parks its workspace."""
        new = [r for r in events if concerns(r.event, self._projector.folds)]
        new = [r for r in new if r.metadata.workspace_id not in self._parked]
        try:
            with connection.begin_nested():
                refuse_unreadable(new)
                fold(connection, self._projector, new, self._shadows)
        except Exception as error:
            if will_pass(error):
                raise
            self._isolate(connection, new, error)

    def _isolate(
        self, connection: Connection, events: Sequence[Recorded[AnyEvent]], error: Exception
    ) -> None:
        if len(events) > 1:
            half = len(events) // 2
            self.project(connection, events[:half])
            self.project(connection, events[half:])
        else:
            self._parked[events[0].metadata.workspace_id] = events[0], told(error)

    def swap(self, connection: Connection, ground: Ground) -> None:
        name = self._projector.name
        for table, shadow in self._shadows.items():
            table.drop(connection)
            connection.execute(text(f'ALTER TABLE "{shadow.name}" RENAME TO "{table.name}"'))
            ground.settle(connection, table)
        connection.execute(delete(parked_slices).where(parked_slices.c.projector == name))
        for recorded, error in self._parked.values():
            park(connection, name, recorded, error)


def _shadows(projector: Projector) -> dict[Table, Table]:
    metadata = MetaData()
    shadows = {t: t.to_metadata(metadata, name=t.name + SHADOW) for t in projector.tables}
    for shadow in shadows.values():
        # Index names are unique in a database: the live tables' are made anew after the swap.
        shadow.indexes.clear()
    return shadows


def digest(connection: Connection, projector: Projector) -> str:
    """Hash a read model: SHA-256 over its rows as JSON lines, in key order.

    The same events give the same hash in every database.
    """
    sha = hashlib.sha256()
    by_bytes = "C" if connection.dialect.name == "postgresql" else "BINARY"
    for table in projector.tables:
        sha.update(f"{table.name}\n".encode())
        keys = (c.collate(by_bytes) if isinstance(c.type, Text) else c for c in table.primary_key)
        for row in connection.execute(select(table).order_by(*keys)):
            sha.update(json.dumps(list(row), ensure_ascii=False).encode() + b"\n")
    return sha.hexdigest()


def positions(engine: Engine, projectors: tuple[Projector, ...]) -> dict[str, int]:
    with engine.begin() as connection:
        return {p.name: checkpoint(connection, p.name) for p in projectors}


def projection_thread() -> ThreadPoolExecutor:
    """Make the one thread that projects, so that the event loop stays free."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="projector")
