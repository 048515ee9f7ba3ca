"""The log in PostgreSQL: any number of processes write, one batch of one process at a time."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, LiteralString, NamedTuple

import psycopg
import structlog
from psycopg import AsyncConnection, errors
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from commands.transact import DuplicateCommand, Known, StorageUnavailable
from domain.events import CommandId
from infra.event_store.codec import Stored
from infra.event_store.lane import (
    BATCH_ROWS_MAX,
    CLOSED,
    AlreadyTracked,
    Append,
    Deliver,
    LaneIsClosed,
    NewRow,
    Written,
    first_conflict,
)
from infra.failpoints import failpoint
from infra.postgres.connections import CONNECTING, unavailable

LOG_LOCK = 727_001
"""Advisory lock held from before an insert until its commit, by every writer: so the order of
positions is the order of commits, and no reader passes one that comes later."""

COMMANDS_KEPT = "24 hours"
PRUNED_MAX = 500
PRUNE_EVERY_S = 60.0

TRIES_MAX = 4
RETRY_WITHIN_S = 5.0
"""How long an append is tried again while the server is away; then nothing was recorded."""

RETRY_PAUSE_S = 0.2

ANSWER_WAIT_S = 15.0
"""After which a server that does not answer is taken to be gone: longer than any statement
or lock may take there, so that it never is merely slow."""

HALVED_MIN = 32
"""Appends of one turn of the loop from which on an idle committer takes them in two halves."""

READERS_MAX = 8
POOL_WAIT_S = 5.0

_APPEND: LiteralString = """
WITH before AS (SELECT coalesce(max(position), 0) AS head FROM stored_events),
added AS (
    INSERT INTO stored_events
    SELECT head + n, stream, version, tag, body, workspace FROM before,
    unnest(%b::text[], %b::bigint[], %b::text[], %b::bytea[], %b::text[])
    WITH ORDINALITY AS u (stream, version, tag, body, workspace, n)
),
told AS (
    INSERT INTO commands
    SELECT id, workspace, fingerprint, answer, head + nullif(last, 0), clock_timestamp()
    FROM before, unnest(%b::text[], %b::text[], %b::text[], %b::bytea[], %b::bigint[])
    AS u (id, workspace, fingerprint, answer, last)
),
kept AS (
    INSERT INTO blobs
    SELECT * FROM unnest(%b::text[], %b::text[], %b::bytea[])
    ON CONFLICT (workspace_id, address) DO NOTHING
)
SELECT head FROM before
"""
"""One statement, so that one round trip brings a batch of any size."""

_LOCK: LiteralString = "SELECT pg_advisory_xact_lock(727001)"
_COLUMNS: LiteralString = "position, originator_id, originator_version, topic, state"
_ALL: LiteralString = (
    f"SELECT {_COLUMNS} FROM stored_events"  # noqa: S608 our own text
    " WHERE position > %s ORDER BY position LIMIT %s"
)
_WORKSPACE: LiteralString = (
    f"SELECT {_COLUMNS} FROM stored_events"  # noqa: S608 our own text
    " WHERE workspace_id = %s AND position > %s ORDER BY position LIMIT %s"
)
_IN_STREAM: LiteralString = (
    "FROM stored_events WHERE originator_id = %s AND originator_version > %s"
    " ORDER BY originator_version LIMIT %s"
)
_STREAM: LiteralString = f"SELECT {_COLUMNS} {_IN_STREAM}"
_BODIES: LiteralString = f"SELECT state {_IN_STREAM}"
_HEAD: LiteralString = "SELECT coalesce(max(position), 0) FROM stored_events"
_WORKSPACE_HEAD: LiteralString = (
    "SELECT coalesce(max(position), 0) FROM stored_events WHERE workspace_id = %s"
)
_COMMAND: LiteralString = "SELECT fingerprint, answer, position FROM commands WHERE command_id = %s"
_BLOB: LiteralString = "SELECT content FROM blobs WHERE workspace_id = %s AND address = %s"
_VERSIONS: LiteralString = (
    "SELECT originator_id, max(originator_version) FROM stored_events"
    " WHERE originator_id = ANY(%b::text[]) GROUP BY originator_id"
)
_KNOWN_COMMANDS: LiteralString = (
    "SELECT command_id FROM commands WHERE command_id = ANY(%b::text[])"
)
_OURS: LiteralString = (
    "SELECT position FROM stored_events"
    " WHERE originator_id = %s AND originator_version = %s AND state = %s"
)
_TRACKED: LiteralString = (
    "SELECT application_name, notification_id FROM notification_tracking"
    " WHERE application_name = ANY(%b::text[])"
)
_TRACK: LiteralString = (
    "INSERT INTO notification_tracking VALUES (%s, %s)"
    " ON CONFLICT (application_name) DO UPDATE SET notification_id = excluded.notification_id"
)
_PRUNE: LiteralString = (
    "DELETE FROM commands WHERE command_id IN"
    " (SELECT command_id FROM commands WHERE recorded_at < now() - %s::interval LIMIT %s)"
)

log = structlog.get_logger(__name__)


class _Group(NamedTuple):
    appends: Sequence[Append]
    deliver: Deliver


class PostgresLog:
    """Implements `infra.event_store.store.Log`. Belongs to one event loop.

    Args:
        url: `postgresql://…`.
        on_failure: Told when the server reports that its data are damaged; nothing is
            written after that.
    """

    def __init__(
        self,
        url: str,
        *,
        on_failure: Callable[[Exception], None] = lambda _: None,
        readers_max: int = READERS_MAX,
    ) -> None:
        self._url = url
        self._on_failure = on_failure
        self._pool = AsyncConnectionPool(
            url,
            open=False,
            min_size=1,
            max_size=readers_max,
            timeout=POOL_WAIT_S,
            reconnect_timeout=RETRY_WITHIN_S,
            kwargs=CONNECTING,
        )
        self._opening = asyncio.Lock()
        self._opened = False
        self._writer: AsyncConnection | None = None
        self._waiting: deque[_Group] = deque()
        self._committer: asyncio.Task[None] | None = None
        self._closed = False
        self._pruned_at = float("-inf")

    async def close(self) -> None:
        """Write what waits, then let the connections go."""
        self._closed = True
        if self._committer is not None:
            await self._committer
        if self._writer is not None:
            await self._writer.close()
        if self._opened:
            await self._pool.close()

    # Reading.

    async def stream(self, stream_id: str, *, after: int, limit: int) -> list[Stored]:
        return await self._stored(_STREAM, (stream_id, after, limit))

    async def bodies(self, stream_id: str, *, after: int, limit: int) -> list[bytes]:
        return [body for (body,) in await self._rows(_BODIES, (stream_id, after, limit))]

    async def all(self, *, after: int, limit: int) -> list[Stored]:
        return await self._stored(_ALL, (after, limit))

    async def workspace(self, workspace_id: str, *, after: int, limit: int) -> list[Stored]:
        return await self._stored(_WORKSPACE, (workspace_id, after, limit))

    async def head(self) -> int:
        """Tell the newest position.

        Raises:
            StorageUnavailable: The server does not answer.
        """
        return int((await self._rows(_HEAD, ()))[0][0])

    async def workspace_head(self, workspace_id: str) -> int:
        return int((await self._rows(_WORKSPACE_HEAD, (workspace_id,)))[0][0])

    async def command(self, command_id: CommandId) -> Known | None:
        rows = await self._rows(_COMMAND, (command_id,))
        return Known(*rows[0]) if rows else None

    async def blob(self, workspace_id: str, address: str) -> bytes | None:
        rows = await self._rows(_BLOB, (workspace_id, address))
        return rows[0][0] if rows else None

    async def _stored(self, query: LiteralString, values: Sequence[object]) -> list[Stored]:
        return list(map(Stored._make, await self._rows(query, values)))

    async def _rows(self, query: LiteralString, values: Sequence[object]) -> list[Any]:
        """Read, once more on another connection if the first one was cut."""
        try:
            return await self._read(query, values)
        except (psycopg.OperationalError, PoolTimeout):
            try:
                return await self._read(query, values)
            except (psycopg.OperationalError, PoolTimeout) as error:
                raise unavailable(error) from error

    async def _read(self, query: LiteralString, values: Sequence[object]) -> list[Any]:
        await self._open()
        async with self._pool.connection() as connection:
            cursor = await connection.execute(query, values, prepare=True, binary=True)
            return await cursor.fetchall()

    async def _open(self) -> None:
        if self._opened:
            return
        async with self._opening:
            if not self._opened:
                await self._pool.open()
                self._opened = True

    # Writing. One batch at a time: while it is under way the next one gathers.

    def submit(self, appends: Sequence[Append], deliver: Deliver) -> None:
        """Queue appends; call it in the loop's own thread."""
        if self._closed:
            deliver([LaneIsClosed(CLOSED) for _ in appends])
            return
        if self._committer is not None:
            self._waiting.append(_Group(appends, deliver))
            return
        # Callers who all wait for one batch would all prepare their next appends while the
        # server has nothing to do. In two halves, one half prepares while the other is written.
        half = len(appends) // 2 if len(appends) >= HALVED_MIN else len(appends)
        self._waiting += (
            _Group(part, deliver) for part in (appends[:half], appends[half:]) if part
        )
        self._committer = asyncio.get_running_loop().create_task(self._commit_all())

    async def write(self, append: Append) -> list[int]:
        """Write one append and wait for it.

        Raises:
            Exception: Whatever became of it.
        """
        future: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        self.submit([append], lambda written: future.set_result(written[0]))
        written = await future
        if isinstance(written, Exception):
            raise written
        return written

    async def _commit_all(self) -> None:
        try:
            groups = [self._waiting.popleft()]
            while groups:
                appends = [append for group in groups for append in group.appends]
                written = await self._commit(appends)
                for group in groups:
                    own, written = written[: len(group.appends)], written[len(group.appends) :]
                    group.deliver(own)
                groups = self._gather() if self._waiting else []
        finally:
            self._committer = None

    def _gather(self) -> list[_Group]:
        """Take all that waits, within the bound; a group larger than it goes alone."""
        groups, rows = [self._waiting.popleft()], 0
        rows = _rows_of(groups[0])
        while self._waiting and rows + _rows_of(self._waiting[0]) <= BATCH_ROWS_MAX:
            rows += _rows_of(self._waiting[0])
            groups.append(self._waiting.popleft())
        return groups

    async def _commit(self, appends: Sequence[Append]) -> list[Written]:
        """Write a batch, and find out what became of it whatever happens to the connection."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + RETRY_WITHIN_S
        in_doubt, last = False, Exception()
        for attempt in range(TRIES_MAX):
            try:
                async with asyncio.timeout(ANSWER_WAIT_S):
                    return await (self._resolve if in_doubt else self._write)(appends)
            except errors.DataCorrupted as error:
                self._on_failure(error)
                return [StorageUnavailable("The log is damaged.") for _ in appends]
            except (errors.DiskFull, errors.LockNotAvailable, errors.QueryCanceled) as error:
                return [unavailable(error) for _ in appends]
            except (psycopg.OperationalError, TimeoutError) as error:
                # It may have been committed, or not: ask before anything is written again.
                in_doubt = True
                log.warning("the connection to the log was lost", error=str(error))
                await self._drop_writer()
                last = error
            if attempt + 1 == TRIES_MAX or loop.time() >= deadline:
                break
            await asyncio.sleep(RETRY_PAUSE_S * (2**attempt - 1))
        return [unavailable(last) for _ in appends]

    async def _write(self, appends: Sequence[Append]) -> list[Written]:
        if any(append.tracking for append in appends):
            return await self._insert_valid(appends)
        try:
            return await self._insert(appends)
        except (errors.IntegrityError, errors.DataError, UnicodeError, ValueError):
            return await self._insert_valid(appends)

    async def _insert(self, appends: Sequence[Append]) -> list[Written]:
        connection = await self._connected()
        try:
            async with connection.pipeline():
                await connection.execute("BEGIN")
                await connection.execute(_LOCK)
                cursor = await connection.execute(_APPEND, _values(appends), prepare=True)
                failpoint("log.before_commit")
                await connection.execute("COMMIT")
            row = await cursor.fetchone()
        except BaseException:
            await self._roll_back(connection)
            raise
        failpoint("log.after_commit")
        assert row is not None
        await self._forget_old_commands(connection)
        return _positions(appends, int(row[0]))

    async def _insert_valid(self, appends: Sequence[Append]) -> list[Written]:
        """Write those of a batch that can be written, and tell the others why not.

        Under the lock nothing moves between the look and the insert.
        """
        connection = await self._connected()
        try:
            await connection.execute("BEGIN")
            await connection.execute(_LOCK)
            fates = await self._judged(connection, appends)
            good = [a for a, fate in zip(appends, fates, strict=True) if fate is None]
            written = iter(await self._insert_good(connection, good))
            await connection.execute("COMMIT")
        except BaseException:
            await self._roll_back(connection)
            raise
        return [next(written) if fate is None else fate for fate in fates]

    async def _insert_good(
        self, connection: AsyncConnection, good: Sequence[Append]
    ) -> list[Written]:
        if not good:
            return []
        row = await (await connection.execute(_APPEND, _values(good), prepare=True)).fetchone()
        assert row is not None
        for append in good:
            if append.tracking is not None:
                await connection.execute(_TRACK, append.tracking)
        return _positions(good, int(row[0]))

    async def _judged(
        self, connection: AsyncConnection, appends: Sequence[Append]
    ) -> list[Exception | None]:
        """Tell of each append, in order, why it cannot be written; None if it can."""
        faults = [_fault(append) for append in appends]
        sound = [a for a, fault in zip(appends, faults, strict=True) if fault is None]
        versions = await self._versions(connection, sound)
        known = await self._known(connection, sound)
        tracked = await self._tracked(connection, sound)
        return [
            _judge(append, versions, known, tracked) if fault is None else fault
            for append, fault in zip(appends, faults, strict=True)
        ]

    async def _tracked(
        self, connection: AsyncConnection, appends: Sequence[Append]
    ) -> dict[str, int]:
        names = [append.tracking[0] for append in appends if append.tracking is not None]
        if not names:
            return {}
        cursor = await connection.execute(_TRACKED, (names,))
        return {str(name): int(last) for name, last in await cursor.fetchall()}

    async def _versions(
        self, connection: AsyncConnection, appends: Sequence[Append]
    ) -> dict[str, int]:
        streams = list({row.stream_id for append in appends for row in append.rows})
        cursor = await connection.execute(_VERSIONS, (streams,))
        return {str(stream): int(version) for stream, version in await cursor.fetchall()}

    async def _known(self, connection: AsyncConnection, appends: Sequence[Append]) -> set[str]:
        ids = [append.command.command_id for append in appends if append.command is not None]
        cursor = await connection.execute(_KNOWN_COMMANDS, (ids,))
        return {str(command_id) for (command_id,) in await cursor.fetchall()}

    async def _resolve(self, appends: Sequence[Append]) -> list[Written]:
        """Find out whether a batch was committed, and write it if it was not.

        The lock is taken first: whoever held it when the connection was lost, this process's
        own last batch, has ended by then.
        """
        connection = await self._connected()
        async with connection.transaction():
            await connection.execute(_LOCK)
            found = [await self._recorded(connection, append) for append in appends]
        lost = [a for a, positions in zip(appends, found, strict=True) if positions is None]
        written = iter(await self._write(lost) if lost else [])
        return [next(written) if positions is None else positions for positions in found]

    async def _recorded(self, connection: AsyncConnection, append: Append) -> list[int] | None:
        """Tell the positions of an append that is recorded, byte for byte."""
        if not append.rows:
            return None
        last = append.rows[-1]
        cursor = await connection.execute(_OURS, (last.stream_id, last.stream_version, last.body))
        row = await cursor.fetchone()
        if row is None:
            return None
        return list(range(int(row[0]) - len(append.rows) + 1, int(row[0]) + 1))

    async def _connected(self) -> AsyncConnection:
        if self._writer is None or self._writer.closed:
            self._writer = await AsyncConnection.connect(self._url, **CONNECTING)
        return self._writer

    async def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()

    async def _roll_back(self, connection: AsyncConnection) -> None:
        try:
            await connection.rollback()
        except psycopg.Error:
            await self._drop_writer()

    async def _forget_old_commands(self, connection: AsyncConnection) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._pruned_at < PRUNE_EVERY_S:
            return
        self._pruned_at = now
        try:
            await connection.execute(_PRUNE, (COMMANDS_KEPT, PRUNED_MAX))
        except psycopg.Error as error:
            log.warning("old commands could not be forgotten", error=str(error))


def _judge(
    append: Append, versions: dict[str, int], known: set[str], tracked: dict[str, int]
) -> Exception | None:
    command = append.command
    if command is not None and command.command_id in known:
        return DuplicateCommand(command.command_id)
    # Ours begin at 1; the package's users may let a stream begin at 0.
    from_zero = {row.stream_id for row in append.rows if row.stream_version == 0}
    conflict = first_conflict(
        append.rows, lambda stream: versions.get(stream, -1 if stream in from_zero else 0)
    )
    if conflict is not None:
        return conflict
    if append.tracking is not None:
        name, notification = append.tracking
        if tracked.get(name, -1) >= notification:
            return AlreadyTracked(f"{name} {notification}")
        tracked[name] = notification
    # What comes after it in the batch finds it there.
    versions.update({row.stream_id: row.stream_version for row in append.rows})
    if command is not None:
        known.add(command.command_id)
    return None


def _fault(append: Append) -> Exception | None:
    """Find what PostgreSQL cannot store: U+0000 in text, and halves of surrogate pairs."""
    texts = [text for row in append.rows for text in (row.stream_id, row.tag, row.workspace_id)]
    if append.command is not None:
        texts += [append.command.command_id, append.command.fingerprint or ""]
    for text in texts:
        if "\0" in text:
            return ValueError("Text for the log holds U+0000.")
        try:
            text.encode()
        except UnicodeError as error:
            return error
    return None


def _values(appends: Sequence[Append]) -> tuple[list[Any], ...]:
    rows: list[NewRow] = [row for append in appends for row in append.rows]
    lasts = accumulate(len(append.rows) for append in appends)
    commands = [
        (*append.command, last if append.rows else 0)
        for append, last in zip(appends, lasts, strict=True)
        if append.command is not None
    ]
    blobs = [
        (sealed.workspace_id, sealed.blob.address, sealed.content)
        for append in appends
        for sealed in append.blobs
    ]
    return (*_columns(rows, 5), *_columns(commands, 5), *_columns(blobs, 3))


def _columns(rows: Sequence[Sequence[Any]], count: int) -> list[list[Any]]:
    return [[row[n] for row in rows] for n in range(count)]


def _positions(appends: Sequence[Append], head: int) -> list[Written]:
    written: list[Written] = []
    for append in appends:
        written.append(list(range(head + 1, head + 1 + len(append.rows))))
        head += len(append.rows)
    return written


def _rows_of(group: _Group) -> int:
    return sum(max(1, len(append.rows)) for append in group.appends)
