"""The relay against the producers it might be built on: the same records on the same broker."""

import asyncio
import os
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, LiteralString, NamedTuple, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import confluent_kafka
import msgspec
import psycopg
import uvloop
from psycopg.sql import SQL, Identifier

from benchmarks.events import OURS, WORKSPACE, metadata
from benchmarks.measure import Row, Sample, Size, Timer, alternate
from domain.events import WorkspaceId
from infra.event_store.codec import Codec, Stored
from infra.event_store.lane import Append, NewRow
from infra.event_store.postgres import PostgresLog
from infra.ids import new_uuid
from infra.kafka.checkpoints import Checkpoints
from infra.kafka.producer import BATCH_BYTES_MAX, LINGER_MS, open_producer
from infra.kafka.records import Record, about, partition_of, record
from infra.kafka.relay import PAGE_ROWS_MAX, Relay
from infra.kafka.topic import Topic, ensure_topic
from infra.postgres.leases import open_pool
from infra.postgres.migrations import migrate
from infra.vault import Vault
from tests.servers.kafka import kafka
from tests.servers.postgres import postgres

PARTITIONS = 12
WORKSPACES = 100
POLL_S = 0.005
FLUSH_WITHIN_S = 60.0
TARGET = 0.7

T = TypeVar("T")


class Servers(NamedTuple):
    """Attributes:
    database: With the log that is relayed.
    """

    database: str
    broker: str


def rows(size: Size) -> Iterator[Row]:
    with ExitStack() as stack:
        servers = _servers(stack)
        stored = _on_loop(_written(servers.database, size.projected))
        systems = {
            "ours": partial(ours, servers=servers, count=len(stored)),
            "kafka-python": partial(kafka_python, servers=servers, stored=stored),
            "confluent-kafka": partial(confluent, servers=servers, stored=stored),
        }
        found = alternate(size.rounds, systems)
    what = f"relay {size.projected:,} events, PostgreSQL to Kafka"
    yield found.row(what, "ours", "kafka-python", target=TARGET)
    yield found.row(f"{what}, share of the limit", "ours", "confluent-kafka")


def _servers(stack: ExitStack) -> Servers:
    """Begin a database and a broker, unless the environment names them."""
    admin = os.environ.get("DATABASE_URL") or stack.enter_context(postgres()).url
    broker = os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or stack.enter_context(kafka()).url
    name = f"bench_{uuid4().hex}"
    stack.callback(_administer, admin, "DROP DATABASE {} WITH (FORCE)", name)
    _administer(admin, "CREATE DATABASE {}", name)
    url = urlsplit(admin)._replace(path=f"/{name}").geturl()
    migrate(url)
    return Servers(url, broker)


def ours(_: Path, *, servers: Servers, count: int) -> Sample:
    return _on_loop(_relayed(servers, count))


async def _relayed(servers: Servers, count: int) -> Sample:
    """Take the time from the first page's acknowledgement to the last one's: the others are
    connected when theirs begins.
    """
    log, topic = PostgresLog(servers.database), _topic(servers)
    async with open_pool(servers.database) as pool:
        relay, checkpoints = Relay(log, pool, topic, instance=new_uuid()), Checkpoints(pool, topic)
        running = asyncio.create_task(relay.run())
        first = await _passed(checkpoints, PAGE_ROWS_MAX)
        timer = Timer()
        last = await _passed(checkpoints, count)
        sample = timer.sample(last - first)
        relay.stop()
        await running
    await log.close()
    return sample


async def _passed(checkpoints: Checkpoints, position: int) -> int:
    while (found := (await checkpoints.read()).position) < position:  # noqa: ASYNC110 a table
        await asyncio.sleep(POLL_S)
    return found


def kafka_python(_: Path, *, servers: Servers, stored: list[Stored]) -> Sample:
    """Its own producer with the relay's settings, fed with finished records."""
    topic, records = _topic(servers), list(_records(stored))
    _on_loop(_made(servers, topic))
    producer = open_producer(servers.broker)
    producer.partitions_for(topic.name)
    timer = Timer()
    acks = [
        producer.send(topic.name, one.value, key=one.key, headers=one.headers, partition=partition)
        for partition, one in records
    ]
    for ack in acks:
        ack.get(FLUSH_WITHIN_S)
    sample = timer.sample(len(records))
    producer.drop()
    return sample


def confluent(_: Path, *, servers: Servers, stored: list[Stored]) -> Sample:
    """The C library, with the same settings."""
    topic, records = _topic(servers), list(_records(stored))
    _on_loop(_made(servers, topic))
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": servers.broker,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": LINGER_MS,
            "batch.size": BATCH_BYTES_MAX,
            "queue.buffering.max.messages": len(records) + 1,
        }
    )
    producer.list_topics(topic.name)
    timer = Timer()
    for partition, one in records:
        headers: Any = one.headers
        producer.produce(topic.name, one.value, one.key, partition, headers=headers)
    left = producer.flush(FLUSH_WITHIN_S)
    assert left == 0, f"{left} records were not acknowledged"
    return timer.sample(len(records))


def _topic(servers: Servers) -> Topic:
    return Topic(servers.broker, f"bench-{uuid4().hex}", PARTITIONS)


async def _made(servers: Servers, topic: Topic) -> None:
    async with open_pool(servers.database) as pool:
        await ensure_topic(pool, topic)


def _records(stored: list[Stored]) -> Iterator[tuple[int, Record]]:
    last = [0] * PARTITIONS
    for row in stored:
        said = about(row)
        partition = partition_of(said.metadata.workspace_id, PARTITIONS)
        yield partition, record(row, said, last[partition])
        last[partition] = row.global_position


async def _written(url: str, count: int) -> list[Stored]:
    """Fill the log, a page at a time, and read it back."""
    log, codec = PostgresLog(url), Codec(Vault())
    made = [_row(codec, number) for number in range(count)]
    for n in range(0, count, PAGE_ROWS_MAX):
        await log.write(Append(made[n : n + PAGE_ROWS_MAX]))
    stored = await log.all(after=0, limit=count)
    await log.close()
    return stored


def _row(codec: Codec, number: int) -> NewRow:
    workspace_id = WorkspaceId(f"{WORKSPACE[:-3]}{number % WORKSPACES:03}")
    of = msgspec.structs.replace(metadata(), workspace_id=workspace_id)
    stream_id = f"run-{workspace_id}+1"
    body = codec.encode(OURS, new_uuid(), of)
    return NewRow(stream_id, number // WORKSPACES + 1, OURS.tag(), body, workspace_id)


def _administer(url: str, statement: LiteralString, name: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SQL(statement).format(Identifier(name)))


def _on_loop(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
