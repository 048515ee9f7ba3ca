"""Every kind of event store, and what a test needs to write to one."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import pytest

from commands.transact import Command, SealedBlob, Write
from domain.agents import AGENT, AgentId, AgentTagged
from domain.events import CommandId, Metadata, StreamId, WorkspaceId
from infra.event_store.memory import MemoryLog
from infra.event_store.postgres import PostgresLog
from infra.event_store.sqlite import SqliteLog
from infra.event_store.store import EventStore
from infra.ids import new_uuid
from infra.postgres.migrations import migrate
from infra.vault import Vault

ACME, GLOBEX = WorkspaceId("acme"), WorkspaceId("globex")
ADA, BOB, CYD = (AGENT.stream_id(ACME, name) for name in ("ada", "bob", "cyd"))
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
WAIT_MAX_S = 30.0
"""Longer than anything here takes, on any machine."""

Open: TypeAlias = Callable[[], EventStore]
"""Opens one and the same log again, as another process would."""


def _memory(vault: Vault, _request: pytest.FixtureRequest) -> Open:
    log = MemoryLog()
    return lambda: EventStore(log, vault)


def _sqlite(vault: Vault, request: pytest.FixtureRequest) -> Open:
    folder: Path = request.getfixturevalue("tmp_path")
    return lambda: EventStore(SqliteLog(folder / "events.db"), vault)


def _postgres(vault: Vault, request: pytest.FixtureRequest) -> Open:
    url: str = request.getfixturevalue("postgres_url")
    migrate(url)
    return lambda: EventStore(PostgresLog(url), vault)


KINDS: dict[str, Callable[[Vault, pytest.FixtureRequest], Open]] = {
    "memory": _memory,
    "postgres": _postgres,
    "sqlite": _sqlite,
}
"""By name. Each gives an empty log that nobody else writes to."""


def tagged(*tags: str) -> AgentTagged:
    return AgentTagged(agent_id=AgentId(1), tags=tags)


def metadata(workspace_id: WorkspaceId = ACME, command_id: str = "") -> Metadata:
    return Metadata(
        workspace_id=workspace_id,
        actor="key:k1",
        correlation_id="c",
        command_id=CommandId(command_id or new_uuid()),
        occurred_at=NOON,
    )


def command(
    about: Metadata, *, fingerprint: str | None = None, answer: bytes | None = None
) -> Command:
    return Command(about.command_id, about.workspace_id, fingerprint, answer)


async def append(
    store: EventStore,
    *writes: Write,
    workspace_id: WorkspaceId = ACME,
    command_id: str = "",
    blobs: Sequence[SealedBlob] = (),
) -> int | None:
    """Append as one command; one of its own if it is not named."""
    about = metadata(workspace_id, command_id)
    return await store.append(writes, about, command=command(about), blobs=blobs)


async def tag(store: EventStore, stream_id: StreamId, version: int, *tags: str) -> int | None:
    """Append one event per tag, at a version."""
    return await append(store, Write(stream_id, version, [tagged(each) for each in tags]))


async def a_turn() -> None:
    """Let the event loop do all that is ready, what that makes ready, and that again."""
    for _ in range(3):
        await asyncio.sleep(0)
