"""The log in an SQLite file: one writer at a time, any number of readers."""

import sqlite3
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from time import time

from commands.transact import (
    DuplicateCommand,
    Known,
    SealedBlob,
    StorageFull,
    StorageUnavailable,
)
from domain.events import CommandId
from infra.event_store.codec import Stored
from infra.event_store.lane import Append, Lane, NewRow, Written, first_conflict
from infra.failpoints import failpoint
from projections.rows import STATEMENTS_MAX, statement_sizes

BUSY_TIMEOUT_S = 5.0
"""How long a write waits for another process that is writing."""

COMMANDS_KEPT_S = 24 * 60 * 60
"""How long an idempotency key is remembered."""

PRUNED_MAX = 500
"""Commands forgotten in one transaction."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS stored_events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    originator_id TEXT NOT NULL,
    originator_version INTEGER NOT NULL,
    topic TEXT NOT NULL,
    state BLOB NOT NULL,
    workspace_id TEXT NOT NULL,
    UNIQUE (originator_id, originator_version)
);
CREATE INDEX IF NOT EXISTS stored_events_by_workspace ON stored_events (workspace_id, position);
CREATE TABLE IF NOT EXISTS commands (
    command_id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    fingerprint TEXT,
    answer BLOB,
    position INTEGER,
    recorded_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS commands_by_age ON commands (recorded_at);
CREATE TABLE IF NOT EXISTS blobs (
    workspace_id TEXT NOT NULL,
    address TEXT NOT NULL,
    content BLOB NOT NULL,
    UNIQUE (workspace_id, address)
);
CREATE VIEW IF NOT EXISTS events AS
SELECT position, originator_id AS stream_id, originator_version AS stream_version,
    topic AS type, workspace_id, json(CAST(state AS TEXT)) AS body
FROM stored_events;
CREATE TRIGGER IF NOT EXISTS stored_events_are_never_changed
BEFORE UPDATE ON stored_events
BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER IF NOT EXISTS stored_events_are_never_deleted
BEFORE DELETE ON stored_events
BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
CREATE TRIGGER IF NOT EXISTS stored_events_are_never_replaced
BEFORE INSERT ON stored_events
WHEN EXISTS (SELECT 1 FROM stored_events WHERE position = NEW.position) OR EXISTS (
    SELECT 1 FROM stored_events
    WHERE originator_id = NEW.originator_id AND originator_version = NEW.originator_version
)
BEGIN SELECT RAISE(ABORT, 'events are never replaced'); END;
CREATE TRIGGER IF NOT EXISTS streams_have_no_gaps
BEFORE INSERT ON stored_events
WHEN NEW.originator_version > 1 AND NOT EXISTS (
    SELECT 1 FROM stored_events
    WHERE originator_id = NEW.originator_id AND originator_version = NEW.originator_version - 1
)
BEGIN SELECT RAISE(ABORT, 'a stream would have a gap'); END;
"""
"""Idempotent: run at every start. AUTOINCREMENT, so that a position is never used twice."""

_OWN_FAULTS = (sqlite3.IntegrityError, sqlite3.DataError, ValueError, OverflowError)
"""Faults of one append, which must not harm the others of its batch: a conflict, or a value
that cannot be stored."""

_INSERT_BLOB = "INSERT INTO blobs VALUES (?, ?, ?) ON CONFLICT (workspace_id, address) DO NOTHING"
_HEAD = "SELECT seq FROM sqlite_sequence WHERE name = 'stored_events'"
_IN_STREAM = "originator_id = ? AND originator_version > ? ORDER BY originator_version LIMIT ?"
_BODIES = f"SELECT state FROM stored_events WHERE {_IN_STREAM}"  # noqa: S608 our own text
_COLUMNS = "position, originator_id, originator_version, topic, state"


class SqliteLog:
    """Implements `infra.event_store.store.Log`.

    Args:
        path: The database file; made when it is not there.
        on_failure: Told when the disk fails in a way that must not be retried
            (an fsync that failed once may lie when asked again).
        now: Tells the age of commands, in seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_failure: Callable[[Exception], None] = lambda _: None,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        now: Callable[[], float] = time,
    ) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._now = now
        self._readers = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._writer = self._connect()
        failpoint("sqlite.opened")
        self._writer.executescript(SCHEMA)
        failpoint("sqlite.schema_made")
        self._lane = Lane(self._commit, on_failure)
        self.submit = self._lane.submit
        self.write = self._lane.write

    def close(self) -> None:
        self._lane.close()
        for connection in self._connections:
            connection.close()

    # Reading. Every thread has a connection of its own; a read never waits for a write.

    async def stream(self, stream_id: str, *, after: int, limit: int) -> list[Stored]:
        return self._rows(_IN_STREAM, (stream_id, after, limit))

    async def bodies(self, stream_id: str, *, after: int, limit: int) -> list[bytes]:
        return [body for (body,) in self._reader().execute(_BODIES, (stream_id, after, limit))]

    async def all(self, *, after: int, limit: int) -> list[Stored]:
        return self._rows("position > ? ORDER BY position LIMIT ?", (after, limit))

    async def workspace(self, workspace_id: str, *, after: int, limit: int) -> list[Stored]:
        return self._rows(
            "workspace_id = ? AND position > ? ORDER BY position LIMIT ?",
            (workspace_id, after, limit),
        )

    async def head(self) -> int:
        return self.head_now()

    def head_now(self) -> int:
        """Tell the newest position; every probe of the store's health asks this.

        Raises:
            StorageUnavailable: The file cannot be read.
        """
        try:
            row = self._reader().execute(_HEAD).fetchone()
        except sqlite3.Error as error:
            raise StorageUnavailable(f"The event store cannot be read: {error}") from error
        return 0 if row is None else int(row[0])

    async def workspace_head(self, workspace_id: str) -> int:
        row = self._reader().execute(
            "SELECT max(position) FROM stored_events WHERE workspace_id = ?", (workspace_id,)
        )
        return int(row.fetchone()[0] or 0)

    async def command(self, command_id: CommandId) -> Known | None:
        row = (
            self._reader()
            .execute(
                "SELECT fingerprint, answer, position FROM commands WHERE command_id = ?",
                (command_id,),
            )
            .fetchone()
        )
        return None if row is None else Known(*row)

    async def blob(self, workspace_id: str, address: str) -> bytes | None:
        row = (
            self._reader()
            .execute(
                "SELECT content FROM blobs WHERE workspace_id = ? AND address = ?",
                (workspace_id, address),
            )
            .fetchone()
        )
        return None if row is None else bytes(row[0])

    # Writing. Only the lane's thread does.

    def _commit(self, appends: Sequence[Append]) -> list[Written]:
        try:
            with self._transaction():
                return self._insert_all(appends)
        except _OWN_FAULTS:
            return self._commit_each(appends)
        except sqlite3.OperationalError as error:
            return [_unavailable(error) for _ in appends]

    def _commit_each(self, appends: Sequence[Append]) -> list[Written]:
        """Write the batch again, so that only the appends at fault are refused."""
        try:
            with self._transaction():
                return [self._insert_apart(append) for append in appends]
        except sqlite3.OperationalError as error:
            return [_unavailable(error) for _ in appends]

    def _insert_apart(self, append: Append) -> Written:
        self._writer.execute("SAVEPOINT append")
        try:
            return self._insert_all([append])[0]
        except _OWN_FAULTS as error:
            self._writer.execute("ROLLBACK TO append")
            return self._conflict(append, error)
        finally:
            # A full disk has ended the transaction, and every savepoint with it.
            if self._writer.in_transaction:
                self._writer.execute("RELEASE append")

    def _insert_all(self, appends: Sequence[Append]) -> list[Written]:
        position = self._position()
        rows: list[tuple[object, ...]] = []
        written: list[Written] = []
        for append in appends:
            first = position + 1
            for row in append.rows:
                position += 1
                rows.append((position, *row))
            written.append(list(range(first, position + 1)))
        self._insert("stored_events", rows)
        self._insert_companions(appends, written)
        return written

    def _insert_companions(self, appends: Sequence[Append], written: list[Written]) -> None:
        now = int(self._now())
        commands = [
            (c.command_id, c.workspace_id, c.fingerprint, c.answer, _last(positions), now)
            for append, positions in zip(appends, written, strict=True)
            if (c := append.command) is not None
        ]
        self._insert("commands", commands)
        blobs = [_blob_row(sealed) for append in appends for sealed in append.blobs]
        if blobs:
            failpoint("sqlite.before_blobs")
            self._writer.executemany(_INSERT_BLOB, blobs)
        self._forget_old_commands(now)

    def _insert(self, table: str, rows: Sequence[tuple[object, ...]]) -> None:
        rest = iter(rows)
        for size in statement_sizes(len(rows)):
            values = [value for row in islice(rest, size) for value in row]
            failpoint("sqlite.before_insert")
            self._writer.execute(_insert(table, len(rows[0]), size), values)

    def _forget_old_commands(self, now: int) -> None:
        failpoint("sqlite.before_prune")
        self._writer.execute(
            "DELETE FROM commands WHERE command_id IN"
            " (SELECT command_id FROM commands WHERE recorded_at < ? LIMIT ?)",
            (now - COMMANDS_KEPT_S, PRUNED_MAX),
        )

    def _conflict(self, append: Append, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.IntegrityError):
            return error
        command = append.command
        if command is not None and self._is_known(command.command_id):
            return DuplicateCommand(command.command_id)
        return first_conflict(append.rows, self._version) or error

    def _is_known(self, command_id: CommandId) -> bool:
        found = self._writer.execute("SELECT 1 FROM commands WHERE command_id = ?", (command_id,))
        return found.fetchone() is not None

    def _version(self, stream_id: str) -> int:
        found = self._writer.execute(
            "SELECT max(originator_version) FROM stored_events WHERE originator_id = ?",
            (stream_id,),
        )
        return int(found.fetchone()[0] or 0)

    def _position(self) -> int:
        row = self._writer.execute(_HEAD).fetchone()
        return 0 if row is None else int(row[0])

    @contextmanager
    def _transaction(self) -> Generator[None]:
        # IMMEDIATE takes the write lock first, so that position order is commit order.
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            failpoint("sqlite.before_commit")
            self._writer.execute("COMMIT")
            failpoint("sqlite.after_commit")
        except BaseException:
            # SQLite has already rolled back after some errors, a full disk among them.
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    def _rows(self, where: str, values: Sequence[str | int]) -> list[Stored]:
        statement = f"SELECT {_COLUMNS} FROM stored_events WHERE {where}"  # noqa: S608 our own text
        return list(map(Stored._make, self._reader().execute(statement, values)))

    def _reader(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._readers, "connection", None)
        if connection is None:
            connection = self._readers.connection = self._connect()
            connection.execute("PRAGMA query_only=ON")
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            isolation_level=None,
            check_same_thread=False,
            timeout=self._busy_timeout_s,
            cached_statements=STATEMENTS_MAX,
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        self._connections.append(connection)
        return connection


def _unavailable(error: sqlite3.OperationalError) -> Exception:
    """Tell the faults that pass by themselves; any other one closes the lane."""
    match error.sqlite_errorcode & 0xFF:
        case sqlite3.SQLITE_FULL:
            return StorageFull("The disk under the event store is full.")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StorageUnavailable("Another process is writing to the event store.")
        case _:
            raise error


@lru_cache(maxsize=STATEMENTS_MAX)
def _insert(table: str, columns: int, size: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"INSERT INTO {table} VALUES {', '.join([row] * size)}"  # noqa: S608 our own text


def _last(positions: Written) -> int | None:
    return positions[-1] if isinstance(positions, list) and positions else None


def _blob_row(sealed: SealedBlob) -> tuple[str, str, bytes]:
    return (sealed.workspace_id, sealed.blob.address, sealed.content)


def new_row(stream_id: str, stream_version: int, tag: str, body: bytes) -> NewRow:
    """Make a row whose workspace is read from its stream's name."""
    owner = stream_id.partition("+")[0].partition("-")[2]
    return NewRow(stream_id, stream_version, tag, body, owner)
