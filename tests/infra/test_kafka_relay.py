"""Everything that is committed gets onto the topic, in order, and only as often as it must."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from kafka.admin import KafkaAdminClient, NewPartitions  # type: ignore[import-untyped]

from commands.transact import Write
from domain.events import WorkspaceId
from infra.event_store.postgres import PostgresLog
from infra.event_store.store import EventStore
from infra.kafka.records import partition_of
from infra.kafka.relay import PAGE_BYTES_MAX, Relay, lag
from infra.kafka.topic import Topic, TopicDiffers
from infra.postgres.leases import Leases, Pool, open_pool
from infra.postgres.migrations import migrate
from infra.vault import Vault
from tests.contracts.stores import append, tagged
from tests.relaying import (
    PARTITIONS,
    WAIT_MAX_S,
    Writer,
    check_complete,
    logged,
    on_topic,
    opened,
    stream_of,
    until,
)

ROUNDS = 60


@pytest.fixture
async def log(postgres_url: str) -> AsyncIterator[PostgresLog]:
    migrate(postgres_url)
    async with opened(postgres_url) as log:
        yield log


@pytest.fixture
async def pool(log: PostgresLog, postgres_url: str) -> AsyncIterator[Pool]:
    async with open_pool(postgres_url, connections_max=8) as opened:
        yield opened


@pytest.fixture
def topic(kafka_bootstrap: str, kafka_topic: str) -> Topic:
    return Topic(kafka_bootstrap, kafka_topic, PARTITIONS)


@asynccontextmanager
async def relaying(
    log: PostgresLog, pool: Pool, topic: Topic, instance: str = "one"
) -> AsyncIterator["asyncio.Task[None]"]:
    """Run a relay, and stop it as SIGTERM does."""
    relay = Relay(log, pool, topic, instance=instance)
    running = asyncio.create_task(relay.run())
    try:
        yield running
    finally:
        relay.stop()
        await asyncio.wait([running], timeout=WAIT_MAX_S)


async def caught_up(log: PostgresLog, pool: Pool, topic: Topic) -> None:
    async def is_caught_up() -> bool:
        return (await lag(log, pool, topic)).events == 0

    await until(is_caught_up, "the relay has caught up")


async def check_relayed_once(log: PostgresLog, topic: Topic) -> None:
    rows, records = await logged(log), on_topic(topic.servers, topic.name)
    check_complete(records, rows)
    assert len(records) == len(rows)


async def test_every_event_gets_onto_the_topic_once_while_more_are_appended(
    log: PostgresLog, pool: Pool, topic: Topic
) -> None:
    writer = Writer(log)
    await writer.write(ROUNDS)
    async with relaying(log, pool, topic):
        await writer.write(ROUNDS)
        await caught_up(log, pool, topic)
    await check_relayed_once(log, topic)


async def test_a_relay_goes_on_where_the_last_one_stopped(
    log: PostgresLog, pool: Pool, topic: Topic
) -> None:
    writer = Writer(log)
    for _ in range(3):
        await writer.write(3)
        async with relaying(log, pool, topic):
            await caught_up(log, pool, topic)
    await check_relayed_once(log, topic)


async def test_of_two_relays_one_waits_and_takes_over_when_the_other_stops(
    log: PostgresLog, pool: Pool, topic: Topic
) -> None:
    leases, name = Leases(pool), f"relay/{topic.name}"
    writer = Writer(log)

    async def leader() -> str:
        held = await leases.held(name)
        return held[name].owner if held else ""

    async def two_leads() -> bool:
        return await leader() == "two"

    async with relaying(log, pool, topic, "one"):
        await writer.write(2)
        await caught_up(log, pool, topic)
        async with relaying(log, pool, topic, "two"):
            await writer.write(2)
            await caught_up(log, pool, topic)
            assert await leader() == "one"
    async with relaying(log, pool, topic, "two"):
        await until(two_leads, "the other relay leads")
        await writer.write(2)
        await caught_up(log, pool, topic)
    await check_relayed_once(log, topic)


async def test_what_waits_is_told_in_events_and_seconds(
    log: PostgresLog, pool: Pool, topic: Topic
) -> None:
    assert await lag(log, pool, topic) == (0, 0.0)
    await Writer(log, workspaces=3).write(2)
    behind = await lag(log, pool, topic)
    assert behind.events == 6
    assert behind.seconds > 0
    async with relaying(log, pool, topic):
        await caught_up(log, pool, topic)
    assert await lag(log, pool, topic) == (0, 0.0)


async def test_events_too_large_for_a_page_are_relayed(
    log: PostgresLog, pool: Pool, topic: Topic
) -> None:
    store, stream_id = EventStore(log, Vault()), stream_of(WorkspaceId("acme"))
    large = tagged("x" * (PAGE_BYTES_MAX // 2))
    for version in range(3):
        await append(store, Write(stream_id, version, [large]))
    async with relaying(log, pool, topic):
        await caught_up(log, pool, topic)
    records = on_topic(topic.servers, topic.name)
    assert [one.stored for one in records] == await logged(log)


async def test_partitions_added_under_way_end_the_relay(
    log: PostgresLog, pool: Pool, topic: Topic
) -> None:
    writer = Writer(log)
    async with relaying(log, pool, topic) as running:
        await writer.write(1)
        await caught_up(log, pool, topic)
        admin = KafkaAdminClient(bootstrap_servers=topic.servers)
        admin.create_partitions({topic.name: NewPartitions(PARTITIONS + 1)})
        admin.close()

        async def ended() -> bool:
            await writer.write(1)
            return running.done()

        await until(ended, "the relay refuses to go on")
    with pytest.raises(TopicDiffers, match="the broker has 13"):
        running.result()


async def test_a_topic_deleted_under_way_is_made_again_and_what_is_new_gets_onto_it(
    log: PostgresLog, pool: Pool, topic: Topic
) -> None:
    writer = Writer(log)
    async with relaying(log, pool, topic):
        await writer.write(1)
        await caught_up(log, pool, topic)
        admin = KafkaAdminClient(bootstrap_servers=topic.servers)
        admin.delete_topics([topic.name])
        admin.close()
        await writer.write(1)
        await caught_up(log, pool, topic)
    rows, records = await logged(log), on_topic(topic.servers, topic.name)
    later = {row.global_position for row in rows if row.stream_version == 2}
    assert {one.stored.global_position for one in records} == later
    # The first one of each partition tells that something before it is missing.
    assert all(one.prev > 0 for one in records)


# What a client that is not ours sees.


def consumed(topic: Topic, count: int) -> list[Message]:
    consumer = Consumer({"bootstrap.servers": topic.servers, "group.id": topic.name})
    consumer.assign([TopicPartition(topic.name, n, 0) for n in range(topic.partitions)])
    messages: list[Message] = []
    while len(messages) < count:
        found = consumer.consume(count - len(messages), WAIT_MAX_S)
        assert found, f"only {len(messages)} of {count} records arrived"
        messages += found
    consumer.close()
    return messages


def kafka_message(message: Message) -> KafkaMessage:
    assert message.error() is None
    headers: Any = dict(message.headers() or [])
    return KafkaMessage(headers, message.key(), message.value() or b"")


async def test_a_foreign_consumer_finds_every_record_a_cloud_event(
    log: PostgresLog, pool: Pool, topic: Topic
) -> None:
    await Writer(log).write(ROUNDS)
    async with relaying(log, pool, topic):
        await caught_up(log, pool, topic)
    rows = {row.global_position: row for row in await logged(log)}
    for message in await asyncio.to_thread(consumed, topic, len(rows)):
        seen = kafka_message(message)
        event = from_binary(seen, JSONFormat())
        row = rows.pop(int(seen.headers["position"]))
        assert (event.get_type(), event.get_subject()) == (row.tag, row.stream_id)
        assert seen.value == row.body
    assert rows == {}


async def test_a_foreign_producer_puts_a_workspace_into_the_same_partition(
    log: PostgresLog, pool: Pool, topic: Topic
) -> None:
    writer = Writer(log)
    await writer.write(1)
    async with relaying(log, pool, topic):
        await caught_up(log, pool, topic)
    ours = {bytes(one.workspace_id.encode()): one for one in on_topic(topic.servers, topic.name)}
    theirs = Producer({"bootstrap.servers": topic.servers, "partitioner": "murmur2"})
    placed: dict[bytes, int] = {}

    def note(_: object, message: Message) -> None:
        placed[bytes(message.key() or b"")] = int(message.partition() or 0)

    for key in ours:
        theirs.produce(topic.name, key=key, value=b"{}", on_delivery=note)
    theirs.flush(WAIT_MAX_S)
    assert placed == {key: one.partition for key, one in ours.items()}
    assert placed == {key: partition_of(key.decode(), PARTITIONS) for key in ours}
