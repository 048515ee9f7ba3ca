"""What a batch of appends is in SQL: one statement, judged append by append when it fails."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection

from commands.transact import DuplicateCommand
from infra.event_store import postgres_flight as flight
from infra.event_store.lane import AlreadyTracked, Append, NewRow, Written, first_conflict
from infra.failpoints import failpoint

LOG_LOCK = 727_001
"""Advisory lock held from before an insert until its commit, by every writer: so the order of
positions is the order of commits, and no reader passes one that comes later."""

APPEND: LiteralString = """
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

_ROWS = (flight.texts, flight.numbers, flight.names, flight.contents, flight.names)
_COMMANDS = (flight.texts, flight.names, flight.texts, flight.contents, flight.numbers)
_BLOBS = (flight.texts, flight.texts, flight.contents)
_BINARY: Sequence[Callable[[Any], bytes]] = (*_ROWS, *_COMMANDS, *_BLOBS)

LOCK: LiteralString = "SELECT pg_advisory_xact_lock(727001)"
_MARK: LiteralString = "SELECT pg_logical_emit_message(true, 'automatos', '')"
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


async def prepare(connection: AsyncConnection) -> None:
    """Let a new connection write batches."""
    await flight.prepare(connection, LOCK.encode(), _numbered(APPEND).encode())


def _numbered(statement: str) -> str:
    """Spell placeholders as the server does."""
    first, *rest = statement.split("%b")
    return first + "".join(f"${n}{part}" for n, part in enumerate(rest, start=1))


async def insert(connection: AsyncConnection, appends: Sequence[Append]) -> list[Written]:
    """Write a batch all of which can be written, in one round trip.

    Raises:
        Exception: Some of it cannot, or the connection was lost.
    """
    binary = [encode(column) for encode, column in zip(_BINARY, values(appends), strict=True)]
    try:
        head = await flight.fly(connection, binary)
    except BaseException:
        await _roll_back(connection)
        raise
    failpoint("log.after_commit")
    assert head is not None
    return _positions(appends, int(head))


async def insert_valid(connection: AsyncConnection, appends: Sequence[Append]) -> list[Written]:
    """Write those of a batch that can be written, and tell the others why not.

    Under the lock nothing moves between the look and the insert.
    """
    try:
        await connection.execute("BEGIN")
        await connection.execute(LOCK)
        fates = await _judged(connection, appends)
        good = [a for a, fate in zip(appends, fates, strict=True) if fate is None]
        failpoint("log.judged")
        written = iter(await _insert_good(connection, good))
        failpoint("log.before_valid_commit")
        await connection.execute("COMMIT")
        failpoint("log.after_valid_commit")
    except BaseException:
        await _roll_back(connection)
        raise
    return [next(written) if fate is None else fate for fate in fates]


async def _insert_good(connection: AsyncConnection, good: Sequence[Append]) -> list[Written]:
    if not good:
        return []
    row = await (await connection.execute(APPEND, values(good))).fetchone()
    assert row is not None
    for append in good:
        if append.tracking is not None:
            await connection.execute(_TRACK, append.tracking)
    return _positions(good, int(row[0]))


async def _judged(connection: AsyncConnection, appends: Sequence[Append]) -> list[Exception | None]:
    """Tell of each append, in order, why it cannot be written; None if it can."""
    faults = [_fault(append) for append in appends]
    sound = [a for a, fault in zip(appends, faults, strict=True) if fault is None]
    versions = await _versions(connection, sound)
    known = await _known(connection, sound)
    tracked = await _tracked(connection, sound)
    return [
        _judge(append, versions, known, tracked) if fault is None else fault
        for append, fault in zip(appends, faults, strict=True)
    ]


async def _tracked(connection: AsyncConnection, appends: Sequence[Append]) -> dict[str, int]:
    names = [append.tracking[0] for append in appends if append.tracking is not None]
    if not names:
        return {}
    cursor = await connection.execute(_TRACKED, (names,))
    return {str(name): int(last) for name, last in await cursor.fetchall()}


async def _versions(connection: AsyncConnection, appends: Sequence[Append]) -> dict[str, int]:
    streams = list({row.stream_id for append in appends for row in append.rows})
    cursor = await connection.execute(_VERSIONS, (streams,))
    return {str(stream): int(version) for stream, version in await cursor.fetchall()}


async def _known(connection: AsyncConnection, appends: Sequence[Append]) -> set[str]:
    ids = [append.command.command_id for append in appends if append.command is not None]
    cursor = await connection.execute(_KNOWN_COMMANDS, (ids,))
    return {str(command_id) for (command_id,) in await cursor.fetchall()}


async def find(connection: AsyncConnection, appends: Sequence[Append]) -> list[list[int] | None]:
    """Tell of each append where it is recorded; None if it is not.

    The lock is taken first: whoever held it when a connection was lost has ended by then. And
    something is written after it: a server that was restarted shows what its standby may not
    have, and only a commit of our own waits for that.
    """
    async with connection.transaction():
        await connection.execute(LOCK)
        await connection.execute(_MARK)
        failpoint("log.in_doubt")
        return [await _recorded(connection, append) for append in appends]


async def _recorded(connection: AsyncConnection, append: Append) -> list[int] | None:
    """Tell the positions of an append that is recorded, byte for byte."""
    if not append.rows:
        return None
    last = append.rows[-1]
    cursor = await connection.execute(_OURS, (last.stream_id, last.stream_version, last.body))
    row = await cursor.fetchone()
    if row is None:
        return None
    return list(range(int(row[0]) - len(append.rows) + 1, int(row[0]) + 1))


async def _roll_back(connection: AsyncConnection) -> None:
    try:
        await connection.rollback()
    except psycopg.Error:
        await connection.close()


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


def values(appends: Sequence[Append]) -> tuple[list[Any], ...]:
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
    return list(map(list, zip(*rows, strict=True))) or [[] for _ in range(count)]


def _positions(appends: Sequence[Append], head: int) -> list[Written]:
    written: list[Written] = []
    for append in appends:
        written.append(list(range(head + 1, head + 1 + len(append.rows))))
        head += len(append.rows)
    return written
