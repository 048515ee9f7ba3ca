"""Projecting into PostgreSQL: one projector against the bare upserts of its rows, and all."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
from sqlalchemy import select

from benchmarks.measure import Row, Sample, Size, Timer, alternate
from benchmarks.projecting import agent_id, recorded_events
from domain.catalog import AnyEvent
from domain.events import Recorded
from infra.composition import PROJECTORS
from infra.intake import BATCH_MAX
from infra.postgres.connections import CONNECTING
from infra.postgres.migrations import migrate
from infra.postgres.reads import open_engine
from infra.projecting import Applier, Slice
from projections.agents import AgentsProjector, agents
from projections.projector import Projector
from tests.servers.postgres import postgres

TARGET = 0.5
TYPES = {"BOOLEAN": "bool", "BIGINT": "int8", "TEXT": "text", "INTEGER": "int4"}

Events = Sequence[Recorded[AnyEvent]]


def rows(size: Size) -> Iterator[Row]:
    # The server shares this machine's processors with those who ask it, as all systems here do.
    with postgres(settings={"shared_buffers": "256MB"}) as server:
        events = recorded_events(size.projected)
        one, every = [AgentsProjector()], PROJECTORS
        systems = {
            "ours": partial(on_new, server.url, partial(ours, events=events, projectors=one)),
            "all": partial(on_new, server.url, partial(ours, events=events, projectors=every)),
            "raw upserts": partial(on_new, server.url, partial(raw, events=events)),
        }
        found = alternate(size.rounds, systems)
        what = f"project {len(events):,} events into PostgreSQL"
        yield found.row(f"{what}, agents only", "ours", "raw upserts", target=TARGET)
        yield found.row(f"{what}, all {len(every)} projectors", "all", "raw upserts")


def on_new(url: str, system: Callable[[str], Sample], _folder: Path) -> Sample:
    """Run on a database of its own."""
    name = f"bench_{uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        own = urlsplit(url)._replace(path=f"/{name}").geturl()
        migrate(own)
        sample = system(own)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
    return sample


def ours(url: str, *, events: Events, projectors: Sequence[Projector]) -> Sample:
    engine = open_engine(url)
    applier, timer = Applier(engine, projectors), Timer()
    for page in _pages(events):
        applier.apply(Slice(page))
    sample = timer.sample(len(events))
    engine.dispose()
    return sample


def raw(url: str, *, events: Events) -> Sample:
    """Upsert the same rows, as the database will have them, page by page, with a checkpoint."""
    made = _rows_by_key(url, events)
    pages = [
        list({(n := agent_id(one)): made[n] for one in page}.values()) for page in _pages(events)
    ]
    with psycopg.connect(url, **CONNECTING) as connection:
        connection.execute("SELECT set_config('automatos.workspace', '*', false)")
        connection.execute("DELETE FROM agents")
        statement, timer = _upsert().encode(), Timer()
        for number, page in enumerate(pages, start=1):
            with connection.transaction():
                connection.execute(statement, [list(column) for column in zip(*page, strict=True)])
                connection.execute(_CHECKPOINT, (number,))
        return timer.sample(len(events))


_CHECKPOINT = (
    b"INSERT INTO checkpoints VALUES ('raw', 0, %s)"
    b" ON CONFLICT (projector, partition) DO UPDATE SET global_position = excluded.global_position"
)


def _upsert() -> str:
    arrays = ", ".join(f"%b::{TYPES[str(column.type)]}[]" for column in agents.columns)
    changes = ", ".join(f"{c.name} = excluded.{c.name}" for c in agents.columns)
    return (
        f"INSERT INTO agents SELECT * FROM unnest({arrays})"
        f" ON CONFLICT (workspace_id, agent_id) DO UPDATE SET {changes}"
    )


def _rows_by_key(url: str, events: Events) -> dict[int, Sequence[Any]]:
    ours(url, events=events, projectors=[AgentsProjector()])
    engine = open_engine(url)
    with engine.begin() as connection:
        found = connection.execute(select(agents))
        made: dict[int, Sequence[Any]] = {row.agent_id: tuple(row) for row in found}
    engine.dispose()
    return made


def _pages(events: Events) -> Iterator[Events]:
    return (events[n : n + BATCH_MAX] for n in range(0, len(events), BATCH_MAX))
