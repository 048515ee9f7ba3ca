"""What tests of the relay share: events in a log, and what has arrived on the topic."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from time import monotonic

from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]

from commands.transact import Write
from domain.agents import AGENT
from domain.events import StreamId, WorkspaceId
from infra.event_store.codec import Stored
from infra.event_store.postgres import PostgresLog
from infra.event_store.store import EventStore
from infra.kafka.records import Received, partition_of, received
from infra.vault import Vault
from tests.contracts.stores import append, tagged

WORKSPACES = 20
PARTITIONS = 12
WAIT_MAX_S = 60.0
QUIET_MS = 3_000
"""How long a consumer waits for the next record that is known to be there."""


async def until(
    condition: Callable[[], Awaitable[object]], what: str, *, timeout_s: float = WAIT_MAX_S
) -> None:
    """Wait for a condition; the test fails if it never comes true."""
    deadline = monotonic() + timeout_s
    while not await condition():
        assert monotonic() < deadline, f"waited {timeout_s:.0f} s in vain until {what}"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresLog]:
    log = PostgresLog(url)
    try:
        yield log
    finally:
        await log.close()


class Writer:
    """Appends to a stream in each of some workspaces, one version after the other.

    Args:
        name: Of the workspaces, unlike those of other writers.
    """

    def __init__(self, log: PostgresLog, name: str = "acme", workspaces: int = WORKSPACES) -> None:
        self._store = EventStore(log, Vault())
        self._versions = {WorkspaceId(f"{name}-{n}"): 0 for n in range(workspaces)}

    async def write(self, rounds: int) -> None:
        """Append one event per workspace and round, all workspaces at once."""
        for _ in range(rounds):
            await asyncio.gather(*map(self._write_one, self._versions))

    async def _write_one(self, workspace_id: WorkspaceId) -> None:
        version = self._versions[workspace_id]
        self._versions[workspace_id] = version + 1
        write = Write(stream_of(workspace_id), version, [tagged(str(version))])
        await append(self._store, write, workspace_id=workspace_id)


def stream_of(workspace_id: WorkspaceId) -> StreamId:
    return AGENT.stream_id(workspace_id, "ada")


async def logged(log: PostgresLog) -> list[Stored]:
    """Read the whole log."""
    rows: list[Stored] = []
    while page := await log.all(after=len(rows), limit=1_000):
        rows += page
    return rows


def on_topic(servers: str, topic: str) -> list[Received]:
    """Read all that is on the topic now, in the order of each partition."""
    consumer = KafkaConsumer(
        bootstrap_servers=servers, consumer_timeout_ms=QUIET_MS, enable_auto_commit=False
    )
    try:
        places = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic)]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        left = sum(consumer.end_offsets(places).values())
        return [_read(consumer) for _ in range(left)]
    finally:
        consumer.close()


def _read(consumer: KafkaConsumer) -> Received:
    message = next(consumer)
    return received(message.partition, message.key, message.value, message.headers)


def once(records: Sequence[Received]) -> dict[int, list[Received]]:
    """Drop what a consumer drops: positions at or behind the last one of their partition."""
    kept: dict[int, list[Received]] = defaultdict(list)
    for one in records:
        seen = kept[one.partition]
        if not seen or one.stored.global_position > seen[-1].stored.global_position:
            seen.append(one)
    return kept


def check_complete(records: Sequence[Received], rows: Sequence[Stored]) -> None:
    """See that the topic holds the log: each event in its place, with the true `prev`."""
    expected: dict[int, list[Received]] = defaultdict(list)
    for row in rows:
        workspace_id = WorkspaceId(row.stream_id.removeprefix("agent-").partition("+")[0])
        partition = partition_of(workspace_id, PARTITIONS)
        before = expected[partition]
        prev = before[-1].stored.global_position if before else 0
        before.append(Received(partition, prev, row, workspace_id))
    assert once(records) == expected
