"""Appends in PostgreSQL: one event per command, from 1 to 256 concurrent commands."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg
import uvloop
from eventsourcing.application import Application

from benchmarks.append import RAW_ROWS, issuing, threads
from benchmarks.events import OURS, WORKSPACE, metadata, theirs
from benchmarks.measure import Row, Sample, Size, Timer, alternate
from infra.event_store.codec import Codec
from infra.event_store.postgres import PostgresLog
from infra.event_store.store import EventStore
from infra.ids import new_uuid
from infra.postgres.migrations import migrate
from infra.server import spare_the_collector
from infra.vault import Vault
from tests.servers.postgres import postgres

CONCURRENT = (1, 8, 64, 256)
AGAINST_PACKAGE, AGAINST_LIMIT = 64, 256
TARGET_PACKAGE, TARGET_LIMIT = 25.0, 0.5

INSERT = (
    "INSERT INTO stored_events SELECT * FROM"
    " unnest(%b::bigint[], %b::text[], %b::bigint[], %b::text[], %b::bytea[], %b::text[])"
)


def rows(size: Size) -> Iterator[Row]:
    # As the API's processes do; for the peers, too.
    spare_the_collector()
    # The server shares this machine's processors with those who ask it, as all systems here do.
    with postgres(settings={"shared_buffers": "256MB"}) as server:
        for concurrent in CONCURRENT:
            systems = {
                "ours": partial(
                    _on_new, server.url, partial(ours, concurrent=concurrent, seconds=size.seconds)
                ),
                "eventsourcing": partial(
                    _on_new,
                    server.url,
                    partial(package, concurrent=concurrent, seconds=size.seconds),
                ),
                "raw unnest": partial(_on_new, server.url, partial(raw, seconds=size.seconds)),
            }
            found, what = (
                alternate(size.rounds, systems),
                f"append, PostgreSQL, {concurrent} concurrent",
            )
            target = TARGET_PACKAGE if concurrent == AGAINST_PACKAGE else None
            yield found.row(what, "ours", "eventsourcing", target=target)
            target = TARGET_LIMIT if concurrent == AGAINST_LIMIT else None
            yield found.row(what + ", share of the limit", "ours", "raw unnest", target=target)


def _on_new(url: str, system: Callable[[str], Sample], _folder: Path) -> Sample:
    """Run on a database of its own."""
    name = f"bench_{uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        sample = system(urlsplit(url)._replace(path=f"/{name}").geturl())
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
    return sample


def ours(url: str, *, concurrent: int, seconds: float) -> Sample:
    """Our store with everything on: codec, command ids, index, triggers, the serving role."""
    migrate(url)
    return ours_in(url, concurrent=concurrent, seconds=seconds)


def ours_in(url: str, *, concurrent: int, seconds: float) -> Sample:
    """Append to a log that is there."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_ours(url, concurrent, seconds))


async def _ours(url: str, concurrent: int, seconds: float) -> Sample:
    store = EventStore(PostgresLog(url), Vault())
    sample = await issuing(store, concurrent, seconds)
    await store.aclose()
    return sample


def package(url: str, *, concurrent: int, seconds: float) -> Sample:
    """The package as its users have it, with connections enough for all who ask."""
    parts = urlsplit(url)
    application: Application[UUID] = Application(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": parts.path.lstrip("/"),
            "POSTGRES_HOST": parts.hostname or "",
            "POSTGRES_PORT": str(parts.port),
            "POSTGRES_USER": parts.username or "",
            "POSTGRES_PASSWORD": "none",
            "POSTGRES_POOL_SIZE": "20",
            "POSTGRES_MAX_OVERFLOW": "100",
            "POSTGRES_MAX_WAITING": "1000",
            "POSTGRES_CONNECT_TIMEOUT": "60",
        }
    )

    def put(originator_id: UUID, version: int) -> None:
        application.events.put([theirs(originator_id, version)])

    return threads(application, put, concurrent, seconds)


def raw(url: str, *, seconds: float) -> Sample:
    """What the same table takes at most, without commands: a thousand rows per commit."""
    migrate(url)
    body = Codec(Vault()).encode(OURS, new_uuid(), metadata())
    streams = [f"run-{WORKSPACE}+{new_uuid()}" for _ in range(CONCURRENT[-2])]
    with psycopg.connect(url, autocommit=True) as connection:
        timer, deadline, count = Timer(), perf_counter() + seconds, 0
        while perf_counter() < deadline:
            numbers = range(count, count + RAW_ROWS)
            values = (
                [n + 1 for n in numbers],
                [streams[n % len(streams)] for n in numbers],
                [n // len(streams) + 1 for n in numbers],
                ["step"] * RAW_ROWS,
                [body] * RAW_ROWS,
                [WORKSPACE] * RAW_ROWS,
            )
            connection.execute(INSERT, values, prepare=True)
            count += RAW_ROWS
        return timer.sample(count)
