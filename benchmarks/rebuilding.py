"""Making a read model anew from the whole log, against the bare upserts of its rows."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psutil  # type: ignore[import-untyped]
import psycopg
import uvloop

from benchmarks import history, projecting, projecting_postgres
from benchmarks.measure import Row, Sample, Size, Timer, alternate, scratch
from benchmarks.projecting import recorded_events
from infra.event_store.lane import Append
from infra.event_store.postgres import PostgresLog
from infra.event_store.sqlite import SqliteLog
from infra.event_store.store import EventStore
from infra.postgres.migrations import migrate
from infra.postgres.rebuilding import rebuild_in_database
from infra.read_store import open_engine, rebuild
from infra.vault import Vault
from projections.agents import AgentsProjector
from tests.servers.postgres import postgres

ROUNDS_MAX = 3
"""A million events take minutes each time."""

RAW_EVENTS_MAX = 100_000
"""Their rows are made beforehand and kept in memory, which a rebuild does not do."""

PARTITIONS = 12
RAW = "raw upserts"


def rows(size: Size) -> Iterator[Row]:
    yield in_file(size)
    yield in_database(size)


def in_file(size: Size) -> Row:
    events, memory = recorded_events(min(size.rebuilt, RAW_EVENTS_MAX)), Memory()
    with scratch() as folder:
        history.write_file(folder, size.rebuilt)
        systems = {
            "ours": partial(_in_file, existing=folder, memory=memory),
            RAW: partial(projecting.raw, recorded=events),
        }
        found = alternate(min(size.rounds, ROUNDS_MAX), systems)
    return found.row(f"rebuild `agents` of {size.rebuilt:,} events, SQLite{memory}", "ours", RAW)


def in_database(size: Size) -> Row:
    events, memory = recorded_events(min(size.rebuilt, RAW_EVENTS_MAX)), Memory()
    # The server shares this machine's processors with those who ask it, as all systems here do.
    with ExitStack() as stack:
        server = stack.enter_context(postgres(settings={"shared_buffers": "256MB"}))
        url = _filled(server.url, size.rebuilt)
        raw = partial(projecting_postgres.raw, events=events)
        systems = {
            "ours": partial(_in_database, url=url, memory=memory),
            RAW: partial(projecting_postgres.on_new, server.url, raw),
        }
        found = alternate(min(size.rounds, ROUNDS_MAX), systems)
    what = f"rebuild `agents` of {size.rebuilt:,} events, PostgreSQL{memory}"
    return found.row(what, "ours", RAW)


class Memory:
    """By how much this process grew at most while it rebuilt."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = self._grown = 0

    def begin(self) -> None:
        self._before = self._process.memory_info().rss

    def look(self, _done: int, _all: int) -> None:
        self._grown = max(self._grown, self._process.memory_info().rss - self._before)

    def __str__(self) -> str:
        return f" (+{self._grown / 2**20:.0f} MiB)"


def _in_file(_: Path, *, existing: Path, memory: Memory) -> Sample:
    log, vault = SqliteLog(existing / "events.db"), Vault(existing / "keys.db")
    engine = open_engine(existing / "read_models.db")
    store = EventStore(log, vault)
    sample = _timed(lambda: rebuild(store, engine, AgentsProjector(), memory.look), memory)
    engine.dispose()
    log.close()
    vault.close()
    return sample


def _in_database(_: Path, *, url: str, memory: Memory) -> Sample:
    async def work() -> int:
        log = PostgresLog(url)
        store, projector = EventStore(log, Vault()), AgentsProjector()
        count = await rebuild_in_database(store, url, projector, PARTITIONS, memory.look)
        await log.close()
        return count

    return _timed(work, memory)


def _timed(work: Callable[[], Awaitable[int]], memory: Memory) -> Sample:
    async def run() -> Sample:
        memory.begin()
        timer = Timer()
        return timer.sample(await work())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def _filled(admin: str, count: int) -> str:
    """Make a database whose log is that of `history`."""
    name = f"bench_{uuid4().hex}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    url = urlsplit(admin)._replace(path=f"/{name}").geturl()
    migrate(url)

    async def fill() -> None:
        log, left = PostgresLog(url), history.new_rows(Vault(), count)
        while page := list(islice(left, history.BATCH)):
            await log.write(Append(page))
        await log.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(fill())
    return url
