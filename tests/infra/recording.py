"""A folder with a log and read models, and events to put in: what tests of followers share."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from sqlalchemy import BigInteger, Column, MetaData, Table, Text

from commands.transact import Command, Write
from domain.catalog import EVENT_TYPES, AnyEvent
from domain.events import Blob, CommandId, Event, Metadata, Recorded, StreamId, WorkspaceId
from domain.identity import WORKSPACE, WorkspaceCreated
from domain.runs import RUN, RunCompleted, RunId, RunStarted
from infra.event_store.sqlite import SqliteLog
from infra.event_store.store import EventStore
from infra.follower import Follower
from infra.ids import new_uuid
from infra.read_store import open_engine
from infra.vault import Vault
from projections.projector import Batch, Projector

ACME = WorkspaceId("acme")
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
WAIT_MAX_S = 30.0
"""Longer than anything here takes, on any machine."""


class Folder:
    """A log and read models, as one process sees them. Another one may open the same folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = EventStore(SqliteLog(path / "events.db"), Vault())
        self.engine = open_engine(path / "read_models.db")

    def follower(self, *projectors: Projector) -> Follower:
        return Follower(self.store, self.engine, projectors)

    async def record(self, stream_id: StreamId, events: Sequence[Event], *, after: int = 0) -> int:
        """Append to a stream; tell the position."""
        metadata = Metadata(
            workspace_id=ACME,
            actor="test",
            correlation_id="test",
            command_id=CommandId(new_uuid()),
            occurred_at=NOON,
        )
        command = Command(metadata.command_id, ACME, None, None)
        position = await self.store.append(
            [Write(stream_id, after, events)], metadata, command=command
        )
        assert position is not None
        return position

    async def name_workspaces(self, *names: str) -> int:
        events = [WorkspaceCreated(workspace_id=WorkspaceId(name), name=name) for name in names]
        return await self.record(WORKSPACE.stream_id(ACME, new_uuid()), events)

    async def start_run(self, number: int) -> StreamId:
        stream_id = RUN.stream_id(ACME, number)
        started = RunStarted(
            run_id=RunId(number),
            execution_id=f"exec-{number}",
            workflow_id=1,
            workflow_version=1,
            workflow_name="Research",
            steps=(),
            input=Blob("none", 0),
        )
        await self.record(stream_id, [started])
        return stream_id

    async def end_run(self, number: int) -> None:
        completed = RunCompleted(run_id=RunId(number), output=None)
        await self.record(RUN.stream_id(ACME, number), [completed], after=1)

    def close(self) -> None:
        self.engine.dispose()
        self.store.close()


class Diary:
    """Notes every position, and stops at the name it is told to."""

    name: ClassVar[str] = "diary"
    table: ClassVar[Table] = Table(
        "diary",
        MetaData(),
        Column("position", BigInteger, primary_key=True),
        Column("type", Text, nullable=False),
    )
    tables: ClassVar[tuple[Table, ...]] = (table,)
    folds: ClassVar[frozenset[type[Event]]] = frozenset(EVENT_TYPES.values())

    def __init__(self, poison: str = "") -> None:
        self.poison = poison
        self.seen: list[int] = []
        self.batches: list[Batch] = []

    def project(self, recorded: Recorded[AnyEvent], batch: Batch) -> None:
        event = recorded.event
        if isinstance(event, WorkspaceCreated) and event.name == self.poison:
            raise ValueError(f"cannot bear {event.name}")
        self.seen.append(recorded.global_position)
        self.batches.append(batch)
        batch.rows(self.table).put({"position": recorded.global_position, "type": event.tag()})


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; the test fails if it never comes true."""
    async with asyncio.timeout(WAIT_MAX_S):
        while not condition():  # noqa: ASYNC110 what is waited for tells nobody
            await asyncio.sleep(0.005)
