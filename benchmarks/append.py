"""Appends: one event per command, from 1, 8 and 64 concurrent commands."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import UUID, uuid4

import uvloop
from eventsourcing.application import Application
from eventsourcing.persistence import StoredEvent

from benchmarks.events import OURS, WORKSPACE, metadata, theirs
from benchmarks.measure import Row, Sample, Size, Timer, alternate
from commands.transact import Command, Write
from domain.events import StreamId
from infra.event_store.codec import Codec
from infra.event_store.sqlite import SqliteLog
from infra.event_store.store import EventStore
from infra.ids import new_uuid
from infra.vault import Vault

CONCURRENT = (1, 8, 64)
RAW_ROWS = 1_000
TARGET = 5.0

RAW_TABLE = """
CREATE TABLE stored_events (
    position INTEGER PRIMARY KEY, originator_id TEXT NOT NULL, originator_version INTEGER NOT NULL,
    topic TEXT NOT NULL, state BLOB NOT NULL, workspace_id TEXT NOT NULL,
    UNIQUE (originator_id, originator_version)
)
"""


def rows(size: Size) -> Iterator[Row]:
    for concurrent in CONCURRENT[:-1]:
        systems = {
            "ours": partial(ours, concurrent=concurrent, seconds=size.seconds),
            "eventsourcing": partial(package, concurrent=concurrent, seconds=size.seconds),
        }
        found = alternate(size.rounds, systems)
        yield found.row(f"append, SQLite, {concurrent} concurrent", "ours", "eventsourcing")
    yield from _most_concurrent(size)


def _most_concurrent(size: Size) -> Iterator[Row]:
    most = CONCURRENT[-1]
    systems = {
        "ours": partial(ours, concurrent=most, seconds=size.seconds),
        "eventsourcing": partial(package, concurrent=most, seconds=size.seconds),
        "its recorder alone": partial(recorder, concurrent=most, seconds=size.seconds),
        "raw executemany": partial(raw, seconds=size.seconds),
    }
    found, what = alternate(size.rounds, systems), f"append, SQLite, {most} concurrent"
    yield found.row(what, "ours", "eventsourcing", target=TARGET)
    yield found.row(what + ", their states encoded beforehand", "ours", "its recorder alone")
    yield found.row(what + ", share of the limit", "ours", "raw executemany")


def ours(folder: Path, *, concurrent: int, seconds: float) -> Sample:
    """Our store with everything on, as the server has it: codec, command ids, index, triggers."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_ours(folder, concurrent, seconds))


async def _ours(folder: Path, concurrent: int, seconds: float) -> Sample:
    store = EventStore(SqliteLog(folder / "events.db"), Vault(folder / "keys.db"))
    sample = await issuing(store, concurrent, seconds)
    store.close()
    return sample


async def issuing(store: EventStore, concurrent: int, seconds: float) -> Sample:
    """Append from so many tasks at once, each to a stream of its own."""
    timer, deadline = Timer(), perf_counter() + seconds

    async def issue() -> int:
        stream_id, version = StreamId(f"run-{WORKSPACE}+{new_uuid()}"), 0
        while perf_counter() < deadline:
            issued = metadata()
            command = Command(issued.command_id, WORKSPACE, None, None)
            await store.append([Write(stream_id, version, [OURS])], issued, command=command)
            version += 1
        return version

    return timer.sample(sum(await asyncio.gather(*(issue() for _ in range(concurrent)))))


def package(folder: Path, *, concurrent: int, seconds: float) -> Sample:
    """The package as its users have it: `Application.events.put`, its mapper, its recorder."""
    application = sqlite_application(folder)

    def put(originator_id: UUID, version: int) -> None:
        application.events.put([theirs(originator_id, version)])

    return threads(application, put, concurrent, seconds)


def recorder(folder: Path, *, concurrent: int, seconds: float) -> Sample:
    """The package's SQLiteApplicationRecorder alone."""
    application = sqlite_application(folder)
    encoded: StoredEvent = application.mapper.to_stored_event(theirs(uuid4(), 1))

    def insert(originator_id: UUID, version: int) -> None:
        event = StoredEvent(originator_id, version, encoded.topic, encoded.state)
        application.recorder.insert_events([event])

    return threads(application, insert, concurrent, seconds)


def sqlite_application(folder: Path, **env: str) -> Application[UUID]:
    where = {
        "PERSISTENCE_MODULE": "eventsourcing.sqlite",
        "SQLITE_DBNAME": str(folder / "theirs.db"),
    }
    return Application(env=where | env)


def threads(
    application: Application[Any], put: Callable[[UUID, int], None], concurrent: int, seconds: float
) -> Sample:
    timer, deadline = Timer(), perf_counter() + seconds

    def issue(_: int) -> int:
        originator_id, version = uuid4(), 0
        while perf_counter() < deadline:
            version += 1
            put(originator_id, version)
        return version

    with ThreadPoolExecutor(concurrent) as threads:
        count = sum(threads.map(issue, range(concurrent)))
    sample = timer.sample(count)
    application.close()
    return sample


def raw(folder: Path, *, seconds: float) -> Sample:
    """What the file takes at most: no command, no index, no trigger, rows made beforehand."""
    connection = sqlite3.connect(folder / "raw.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(RAW_TABLE)
    issued = metadata()
    body = Codec(Vault()).encode(OURS, new_uuid(), issued)
    streams = [f"run-{WORKSPACE}+{new_uuid()}" for _ in range(CONCURRENT[-1])]
    timer, deadline, count = Timer(), perf_counter() + seconds, 0
    while perf_counter() < deadline:
        batch = [
            (n + 1, streams[n % len(streams)], n // len(streams) + 1, "step", body, WORKSPACE)
            for n in range(count, count + RAW_ROWS)
        ]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO stored_events VALUES (?, ?, ?, ?, ?, ?)", batch)
        connection.execute("COMMIT")
        count += RAW_ROWS
    sample = timer.sample(count)
    connection.close()
    return sample
