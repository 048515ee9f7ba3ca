"""Projecting a log: one projector against the bare upserts of its rows, and the whole follower."""

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from sqlalchemy import select

from benchmarks import history
from benchmarks.measure import Row, Sample, Size, Timer, alternate, scratch
from domain.catalog import AnyEvent
from domain.events import Recorded
from infra.composition import PROJECTORS
from infra.event_store.sqlite import SqliteLog
from infra.event_store.store import EventStore
from infra.follower import BATCH_MAX, Follower
from infra.read_store import open_engine
from infra.vault import Vault
from projections.agents import AgentsProjector, agents
from projections.projector import project

TARGET = 0.5


def rows(size: Size) -> Iterator[Row]:
    recorded = recorded_events(size.projected)
    systems = {
        "ours": partial(ours, recorded=recorded),
        "follower": partial(follower, count=size.projected),
        "raw upserts": partial(raw, recorded=recorded),
    }
    found = alternate(size.rounds, systems)
    yield found.row(
        f"project {size.projected:,} events, agents only", "ours", "raw upserts", target=TARGET
    )
    what = f"the same, read from the log, all {len(PROJECTORS)} projectors"
    yield found.row(what, "follower", "raw upserts")


def recorded_events(count: int) -> list[Recorded[AnyEvent]]:
    found: list[Recorded[AnyEvent]] = _on_loop(_recorded(count))
    return found


def ours(folder: Path, *, recorded: list[Recorded[AnyEvent]]) -> Sample:
    engine, projector, timer = open_engine(folder / "read_models.db"), AgentsProjector(), Timer()
    for page in _pages(recorded):
        with engine.begin() as connection:
            project(connection, projector, page)
    sample = timer.sample(len(recorded))
    engine.dispose()
    return sample


def follower(folder: Path, *, count: int) -> Sample:
    """What a server does that has fallen behind."""
    log, vault = SqliteLog(folder / "events.db"), Vault(folder / "keys.db")
    history.write(log, vault, count)
    engine = open_engine(folder / "read_models.db")
    behind = Follower(EventStore(log, vault), engine, PROJECTORS)
    timer = Timer()
    _on_loop(behind.catch_up())
    sample = timer.sample(count)
    log.close()
    engine.dispose()
    return sample


def raw(folder: Path, *, recorded: list[Recorded[AnyEvent]]) -> Sample:
    """Upsert the same rows, as the database will have them, page by page, with a checkpoint."""
    made = _rows_by_key(folder, recorded)
    connection = sqlite3.connect(folder / "raw.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    _create(connection)
    pages = [[made[agent_id(one)] for one in page] for page in _pages(recorded)]
    timer, statement = Timer(), _upsert()
    for number, page in enumerate(pages):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(statement, page)
        connection.execute("INSERT OR REPLACE INTO passed VALUES (1, ?)", (number,))
        connection.execute("COMMIT")
    sample = timer.sample(len(recorded))
    connection.close()
    return sample


def _create(connection: sqlite3.Connection) -> None:
    names = ", ".join(f"{column.name} NOT NULL" for column in agents.columns)
    connection.execute(f"CREATE TABLE agents ({names}, PRIMARY KEY (workspace_id, agent_id))")
    connection.execute("CREATE INDEX by_state ON agents (workspace_id, archived, agent_id)")
    connection.execute("CREATE TABLE passed (one INTEGER PRIMARY KEY, position INTEGER)")


def _upsert() -> str:
    names = [column.name for column in agents.columns]
    marks, changes = ", ".join("?" * len(names)), ", ".join(f"{n} = excluded.{n}" for n in names)
    return (
        f"INSERT INTO agents VALUES ({marks})"
        f" ON CONFLICT (workspace_id, agent_id) DO UPDATE SET {changes}"
    )


def _rows_by_key(folder: Path, recorded: list[Recorded[AnyEvent]]) -> dict[int, Sequence[Any]]:
    engine = open_engine(folder / "read_models.db")
    with engine.begin() as connection:
        project(connection, AgentsProjector(), recorded)
        found = connection.execute(select(agents))
        made: dict[int, Sequence[Any]] = {row.agent_id: tuple(row) for row in found}
    engine.dispose()
    return made


def agent_id(recorded: Recorded[AnyEvent]) -> int:
    return int(recorded.stream_id.rpartition("+")[2])


def _pages(recorded: list[Recorded[AnyEvent]]) -> Iterator[list[Recorded[AnyEvent]]]:
    return (recorded[n : n + BATCH_MAX] for n in range(0, len(recorded), BATCH_MAX))


async def _recorded(count: int) -> list[Recorded[AnyEvent]]:
    with scratch() as folder:
        log, vault = SqliteLog(folder / "events.db"), Vault()
        history.write(log, vault, count)
        recorded = await EventStore(log, vault).read_all(limit=count)
        log.close()
    return recorded


def _on_loop(work: Any) -> Any:  # noqa: ANN401 whatever the coroutine gives
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
