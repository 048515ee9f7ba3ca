"""Projectors on a real log and a real topic: the rows are the log's, whatever happens between."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient, KafkaProducer  # type: ignore[import-untyped]
from sqlalchemy import Engine
from structlog.testing import capture_logs

from infra.event_store.codec import Codec
from infra.event_store.lane import Append
from infra.event_store.postgres import PostgresLog
from infra.event_store.store import EventStore
from infra.kafka.records import about, partition_of, record
from infra.kafka.relay import Relay
from infra.kafka.topic import Topic, ensure_topic
from infra.postgres.leases import Lease, Leases, open_pool
from infra.projecting import Applier, PartitionLost, Slice
from infra.projector_process import ProjectorProcess, Source, guard
from infra.vault import Vault
from tests.projecting import (
    Fact,
    hashes,
    history,
    in_file,
    in_postgres,
    new_rows,
    pages,
    passed,
    until,
)
from tests.projections.tables import PROJECTORS
from tests.servers.fixtures import Private

PARTITIONS = 6
WAIT_MAX_S = 60.0
HISTORY = history(600)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield


class Installation:
    """A log, its read models and a topic, and the processes between them, on one loop."""

    def __init__(self, url: str, topic: Topic) -> None:
        self.engine: Engine = in_postgres(url)
        self.log = PostgresLog(url)
        self.pool = open_pool(url, connections_max=8)
        self.topic = topic
        self._facts: list[Fact] = []

    async def append(self, facts: Sequence[Fact]) -> None:
        """Append a history, or more of it."""
        before = len(self._facts)
        self._facts += facts
        for page in pages(new_rows(self._facts)[before:], 200):
            await self.log.write(Append(page))

    @asynccontextmanager
    async def relaying(self) -> AsyncIterator[None]:
        relay = Relay(self.log, self.pool, self.topic, instance=uuid4().hex)
        task = asyncio.create_task(relay.run())
        try:
            yield
        finally:
            relay.stop()
            await task

    @asynccontextmanager
    async def projecting(self) -> AsyncIterator[ProjectorProcess]:
        source = Source(self.log, self.pool, Codec(Vault()), self.topic)
        process = ProjectorProcess(source, self.engine, PROJECTORS, instance=uuid4().hex)
        task = asyncio.create_task(process.run())
        try:
            yield process
        finally:
            process.stop()
            await task

    async def projected(self) -> None:
        """Wait until the checkpoints have passed the last event of every partition."""
        last: dict[int, int] = {}
        for position, (workspace_id, _, _) in enumerate(self._facts, start=1):
            last[partition_of(workspace_id, PARTITIONS)] = position
        await until(
            lambda: all(self.checkpoint(n) >= at for n, at in last.items()), f"{last} are passed"
        )

    def checkpoint(self, partition: int) -> int:
        return min(passed(self.engine, partition))

    async def rebuilt(self, folder: Path, size: int = 500) -> dict[str, str]:
        """Tell what the log makes of an empty file, in batches of some size."""
        engine, store = in_file(folder), EventStore(self.log, Vault())
        applier, after = Applier(engine, PROJECTORS), 0
        while page := await store.read_all(after=after, limit=size):
            applier.apply(Slice(page))
            after = page[-1].global_position
        found = hashes(engine)
        engine.dispose()
        return found


@pytest.fixture
async def installation(
    postgres_url: str, kafka_bootstrap: str, kafka_topic: str
) -> AsyncIterator[Installation]:
    made = Installation(postgres_url, Topic(kafka_bootstrap, kafka_topic, PARTITIONS))
    async with made.pool:
        yield made
    await made.log.close()
    made.engine.dispose()


def without_kafka(installation: Installation) -> None:
    installation.topic = installation.topic._replace(servers="")


async def test_rows_are_the_same_from_the_topic_and_from_the_log_in_batches_of_any_size(
    installation: Installation, tmp_path: Path
) -> None:
    await installation.append(history(5_000))
    async with (
        installation.relaying(),
        installation.projecting() as first,
        installation.projecting() as second,
    ):
        await installation.projected()
    assert first.projected["topic"] + second.projected["topic"] > 0
    found = hashes(installation.engine)
    for size in (1, 7, 500):
        assert await installation.rebuilt(tmp_path, size) == found


async def test_rows_are_the_same_without_kafka(installation: Installation, tmp_path: Path) -> None:
    without_kafka(installation)
    async with installation.projecting(), installation.projecting():
        await installation.append(HISTORY)
        await installation.projected()
    assert hashes(installation.engine) == await installation.rebuilt(tmp_path)


async def test_what_never_gets_onto_the_topic_is_read_from_the_log(
    installation: Installation, tmp_path: Path
) -> None:
    async with installation.relaying():
        await installation.append(HISTORY[:300])
    async with installation.projecting() as process:
        await installation.append(HISTORY[300:])
        await installation.projected()
        await until(lambda: process.lag.events == 0, "there is no lag")
    assert hashes(installation.engine) == await installation.rebuilt(tmp_path)


async def test_a_topic_that_is_deleted_and_made_again_loses_nothing(
    installation: Installation, tmp_path: Path
) -> None:
    topic = installation.topic
    async with installation.relaying(), installation.projecting():
        await installation.append(HISTORY[:300])
        await installation.projected()
        admin = KafkaAdminClient(bootstrap_servers=topic.servers)
        await asyncio.to_thread(admin.delete_topics, [topic.name])
        await installation.append(HISTORY[300:450])
        await installation.projected()
        await asyncio.to_thread(admin.close)
    async with installation.relaying(), installation.projecting():
        await installation.append(HISTORY[450:])
        await installation.projected()
    assert hashes(installation.engine) == await installation.rebuilt(tmp_path)


def swapped_and_repeated(indexes: list[int]) -> list[int]:
    """Swap neighbours, say one in three twice, and leave every tenth out."""
    order = [n for pair in zip(indexes[1::2], indexes[::2], strict=True) for n in pair]
    return [n for at, n in enumerate(order) if at % 10 for _ in range(1 + (at % 3 == 0))]


async def test_a_topic_that_repeats_swaps_and_leaves_out_makes_no_difference(
    installation: Installation, tmp_path: Path
) -> None:
    await installation.append(HISTORY)
    await ensure_topic(installation.pool, installation.topic)
    rows = await installation.log.all(after=0, limit=len(HISTORY))
    last = [0] * PARTITIONS
    records = []
    for row in rows:
        said = about(row)
        partition = partition_of(said.metadata.workspace_id, PARTITIONS)
        records.append((partition, record(row, said, last[partition])))
        last[partition] = row.global_position

    def publish() -> None:
        producer = KafkaProducer(bootstrap_servers=installation.topic.servers)
        producer.send(installation.topic.name, b"not the relay's", partition=0)
        for index in swapped_and_repeated(list(range(len(records)))):
            partition, (key, value, headers) = records[index]
            producer.send(
                installation.topic.name, value, key=key, headers=headers, partition=partition
            )
        producer.close()

    async with installation.projecting():
        await asyncio.to_thread(publish)
        await installation.projected()
    assert hashes(installation.engine) == await installation.rebuilt(tmp_path)


async def test_instances_share_the_partitions_and_each_has_its_own(
    installation: Installation,
) -> None:
    without_kafka(installation)

    def shared(*processes: ProjectorProcess) -> Callable[[], bool]:
        def is_shared() -> bool:
            held = [process.held for process in processes]
            sizes = {len(each) for each in held}
            together = {n for each in held for n in each}
            return sizes == {PARTITIONS // len(processes)} and len(together) == PARTITIONS

        return is_shared

    async with installation.projecting() as first:
        await until(shared(first), "one has all")
        async with installation.projecting() as second:
            await until(shared(first, second), "two have half each")
            async with installation.projecting() as third:
                await until(shared(first, second, third), "three have a third each")
        await until(shared(first), "one has all again", timeout_s=10)


async def test_nothing_is_written_under_a_lease_that_somebody_else_has_taken(
    installation: Installation,
) -> None:
    leases = Leases(installation.pool)
    epoch = await leases.take("projectors/agents/0", "first", 60)
    assert epoch is not None
    mine = Lease("projectors/agents/0", "first", epoch)
    with installation.engine.begin() as connection:
        guard(mine, connection)
    await leases.release(mine.name, mine.owner)
    assert await leases.take(mine.name, "second", 60) == epoch + 1
    with installation.engine.begin() as connection, pytest.raises(PartitionLost):
        guard(mine, connection)


async def test_projecting_goes_on_while_the_broker_is_away_and_when_it_is_back(
    postgres_url: str, private_kafka: Private, kafka_topic: str, tmp_path: Path
) -> None:
    broker = private_kafka()
    installation = Installation(postgres_url, Topic(broker.bootstrap, kafka_topic, PARTITIONS))
    async with installation.pool:
        async with installation.relaying(), installation.projecting() as process:
            await installation.append(HISTORY[:200])
            await installation.projected()
            await asyncio.to_thread(broker.kill)
            await installation.append(HISTORY[200:400])
            await installation.projected()
            await asyncio.to_thread(broker.start)
            before, more = process.projected["topic"], iter(history(10_000)[400:])
            async with asyncio.timeout(WAIT_MAX_S):
                while process.projected["topic"] == before:
                    await installation.append([next(more)])
            await installation.projected()
        assert hashes(installation.engine) == await installation.rebuilt(tmp_path)
    await installation.log.close()
    installation.engine.dispose()
