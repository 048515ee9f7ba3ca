"""What tests of projectors share: read models in either database, and a history to put in."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any, ClassVar, TypeAlias

import pytest
from sqlalchemy import BigInteger, Column, Engine, Table, Text, create_engine, delete, select
from sqlalchemy.schema import MetaData

from domain.agents import AGENT, AgentId, AgentProfile, AgentRegistered, AgentTagged
from domain.catalog import EVENT_TYPES, AnyEvent
from domain.events import Blob, CommandId, Event, Metadata, Recorded, StreamId, WorkspaceId
from domain.runs import RUN, RunCompleted, RunId, RunStarted, StepStarted, StepSucceeded
from domain.tokens import Cost, TokenCounts
from domain.usage import CallSubject, ModelCallCompleted, ModelCallRequested
from domain.workflows import Step
from infra.event_store.codec import Codec
from infra.event_store.lane import NewRow
from infra.ids import new_uuid
from infra.postgres import reads
from infra.postgres.connections import sqlalchemy_url
from infra.postgres.migrations import migrate, secure
from infra.read_store import digest, open_engine
from infra.vault import Vault
from projections.projector import Batch, checkpoints
from projections.rows import READ_MODELS
from tests.projections.tables import PROJECTORS
from tests.strategies import START

Fact: TypeAlias = tuple[WorkspaceId, StreamId, Event]

NOTHING = Blob("none", 0)
WORKSPACES = 12


class Diary:
    """Notes every position, and cannot bear agents with some name."""

    name: ClassVar[str] = "diary"
    table: ClassVar[Table] = Table(
        "diary",
        MetaData(),
        Column("workspace_id", Text, primary_key=True),
        Column("position", BigInteger, primary_key=True),
        Column("type", Text, nullable=False),
    )
    tables: ClassVar[tuple[Table, ...]] = (table,)
    folds: ClassVar[frozenset[type[Event]]] = frozenset(EVENT_TYPES.values())

    def __init__(self, poison: str = "") -> None:
        self.poison = poison

    def project(self, recorded: Recorded[AnyEvent], batch: Batch) -> None:
        event = recorded.event
        if isinstance(event, AgentRegistered) and self.poison and event.profile.name == self.poison:
            raise ValueError(f"cannot bear {self.poison}")
        row = {"position": recorded.global_position, "type": event.tag()}
        batch.rows(self.table).put({"workspace_id": recorded.metadata.workspace_id, **row})


def in_file(folder: Path) -> Engine:
    engine = open_engine(folder / f"{new_uuid()}.db")
    Diary.table.create(engine)
    return engine


def in_postgres(url: str) -> Engine:
    migrate(url)
    owner = create_engine(sqlalchemy_url(url))
    with owner.begin() as connection:
        Diary.table.create(connection)
        secure(connection, Diary.table)
    owner.dispose()
    return reads.open_engine(url)


def opened(kind: str, request: pytest.FixtureRequest) -> Engine:
    """Open read models of a kind, empty, that nobody else writes to."""
    if kind == "sqlite":
        return in_file(request.getfixturevalue("tmp_path"))
    return in_postgres(request.getfixturevalue("postgres_url"))


def emptied(engine: Engine) -> None:
    """Forget all that was projected."""
    with engine.begin() as connection:
        for table in READ_MODELS.tables.values():
            connection.execute(delete(table))


def hashes(engine: Engine) -> dict[str, str]:
    with engine.begin() as connection:
        return {projector.name: digest(connection, projector) for projector in PROJECTORS}


def passed(engine: Engine, partition: int) -> list[int]:
    """Tell how far each projector is in a partition.

    Unlike `standings`, which whoever projects asks, this waits for nobody's lock: a test looks
    again and again, and a projector may be stopped while it holds one.
    """
    where = checkpoints.c.partition == partition
    with engine.connect() as connection:
        found = connection.execute(
            select(checkpoints.c.projector, checkpoints.c.global_position).where(where)
        )
        positions: dict[str, int] = dict(found.all())
    return [positions.get(projector.name, 0) for projector in PROJECTORS]


# A history: agents that come and change, runs with model calls, in several workspaces at once.


def history(length: int, seed: int = 1) -> list[Fact]:
    random = Random(seed)
    lives = [_life(WorkspaceId(f"acme-{n}"), n) for n in range(WORKSPACES)]
    return [next(random.choice(lives)) for _ in range(length)]


def _life(workspace_id: WorkspaceId, first: int) -> Iterator[Fact]:
    for number in count(first * 1_000_000 + 1):
        agent = AGENT.stream_id(workspace_id, number)
        profile = AgentProfile(name=f"agent {number}\0", description=None, tags=("a",))
        yield workspace_id, agent, AgentRegistered(agent_id=AgentId(number), profile=profile)
        run = RUN.stream_id(workspace_id, number)
        for event in _run(number):
            yield workspace_id, run, event
        yield workspace_id, agent, AgentTagged(agent_id=AgentId(number), tags=("a", "Straße"))


def _run(number: int) -> Iterator[Event]:
    run_id, call_id = RunId(number), f"call-{number}"
    steps = (Step(step_id="a", agent_id=number, prompt_template="go"),)
    yield RunStarted(
        run_id=run_id,
        execution_id=f"exec-{number}",
        workflow_id=number % 7,
        workflow_version=1,
        workflow_name="Research",
        steps=steps,
        input=NOTHING,
    )
    yield StepStarted(
        run_id=run_id,
        step=0,
        attempt=1,
        worker="w",
        leased_at=START,
        lease_until=START + timedelta(minutes=1),
    )
    subject = CallSubject(
        agent_id=number, agent_version=1, workflow_id=number % 7, run_id=run_id, step=0
    )
    asked: dict[str, Any] = {"call_id": call_id, "subject": subject, "provider": "offline"}
    yield ModelCallRequested(**asked, model="m", prompt=NOTHING, temperature=0.0, max_tokens=9)
    yield ModelCallCompleted(
        **asked,
        model="m",
        response_id="",
        finish_reason="stop",
        output=NOTHING,
        usage=None,
        tokens=TokenCounts(input=number, output=3),
        cost=Cost(input_nano_usd=5),
        latency_ms=1,
    )
    yield StepSucceeded(run_id=run_id, step=0, attempt=1, output=NOTHING)
    if number % 3:
        yield RunCompleted(run_id=run_id, output=None)


def new_rows(facts: Sequence[Fact]) -> list[NewRow]:
    """Spell a history as rows for a log."""
    codec, versions = Codec(Vault()), Counter[StreamId]()
    rows: list[NewRow] = []
    for nth, (workspace_id, stream_id, event) in enumerate(facts):
        versions[stream_id] += 1
        metadata = Metadata(
            workspace_id=workspace_id,
            actor="test",
            correlation_id="c",
            command_id=CommandId(f"command-{nth}"),
            occurred_at=START + timedelta(seconds=nth),
        )
        body = codec.encode(event, f"event-{nth}", metadata)
        rows.append(NewRow(stream_id, versions[stream_id], event.tag(), body, workspace_id))
    return rows


def pages(rows: Sequence[NewRow], size: int) -> Iterator[list[NewRow]]:
    rest = iter(rows)
    while page := list(islice(rest, size)):
        yield page


async def until(condition: Callable[[], object], what: str, *, timeout_s: float = 60.0) -> None:
    """Wait for a condition; the test fails if it never comes true."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 what is waited for tells nobody
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"waited {timeout_s:.0f} s in vain until {what}")
