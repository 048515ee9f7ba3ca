"""The topic: how many partitions it has is decided once, and never changes."""

import asyncio
from typing import LiteralString, NamedTuple

from kafka.errors import TopicAlreadyExistsError  # type: ignore[import-untyped]

from infra.failpoints import failpoint
from infra.kafka.access import OPEN, Access, access_of
from infra.kafka.producer import RECORD_BYTES_MAX, Admin, open_admin
from infra.postgres.leases import Pool
from infra.settings import Settings

REPLICAS_MAX = 3
UNKNOWN_TOPIC = 3
"""Kafka's own error code."""

_STORED: LiteralString = "SELECT partitions FROM topics WHERE name = %s"
_STORE: LiteralString = "INSERT INTO topics VALUES (%s, %s) ON CONFLICT (name) DO NOTHING"


class Topic(NamedTuple):
    """Attributes:
    servers: `host:port`, several with commas between.
    """

    servers: str
    name: str
    partitions: int
    access: Access = OPEN


class TopicDiffers(Exception):
    """The topic has not the partitions that it was made with.

    A workspace's events would be spread over two partitions, and lose their order.
    """


def topic_of(settings: Settings) -> Topic:
    """Raises:
    BadSettings: A password is missing.
    """
    return Topic(
        settings.kafka_bootstrap_servers,
        settings.kafka_topic,
        settings.kafka_partitions,
        access_of(settings),
    )


async def ensure_topic(pool: Pool, topic: Topic) -> None:
    """Make the topic the first time; afterwards see that nobody has changed it.

    A topic that has vanished from the broker is made again: consumers find what it held
    in the log.

    Raises:
        TopicDiffers: Nothing was changed.
        KafkaError: No broker answers.
    """
    stored = await _stored(pool, topic.name)
    if stored not in (None, topic.partitions):
        raise differs(topic.name, stored, f"the settings say {topic.partitions}")
    found = await asyncio.to_thread(_found_or_made, topic)
    if found != topic.partitions:
        raise differs(topic.name, topic.partitions, f"the broker has {found}")
    failpoint("topic.after_create")
    await _store(pool, topic)
    failpoint("partitions.stored")


async def _store(pool: Pool, topic: Topic) -> None:
    async with pool.connection() as connection:
        await connection.execute(_STORE, (topic.name, topic.partitions))
    stored = await _stored(pool, topic.name)
    if stored != topic.partitions:
        raise differs(topic.name, stored, f"the settings say {topic.partitions}")


async def _stored(pool: Pool, name: str) -> int | None:
    async with pool.connection() as connection:
        cursor = await connection.execute(_STORED, (name,))
        row = await cursor.fetchone()
    return None if row is None else int(row[0])


def differs(name: str, expected: int | None, found: str) -> TopicDiffers:
    """Say what is wrong, and what can be done."""
    return TopicDiffers(
        f"The topic {name} is to have {expected} partitions, but {found}. The number cannot change,"
        " because a workspace's events would lose their order. Set it back, or give the topic a"
        " new name (AUTOMATOS_KAFKA_TOPIC, AUTOMATOS_KAFKA_PARTITIONS) everywhere: the relay fills"
        " it from the log; then run `automatos rebuild all`."
    )


def _found_or_made(topic: Topic) -> int:
    """Tell how many partitions the broker has for it; make it if it has none."""
    admin = open_admin(topic.servers, topic.access)
    try:
        found = _partitions(admin, topic.name)
        if found:
            return found
        _make(admin, topic)
        return _partitions(admin, topic.name)
    finally:
        admin.close()


def _partitions(admin: Admin, name: str) -> int:
    [told] = admin.describe_topics([name])
    if told["error_code"] == UNKNOWN_TOPIC:
        return 0
    partitions = told["partitions"]
    assert isinstance(partitions, list)
    return len(partitions)  # pyright: ignore[reportUnknownArgumentType]


def _make(admin: Admin, topic: Topic) -> None:
    replicas = min(REPLICAS_MAX, len(admin.describe_cluster()["brokers"]))
    wanted: dict[str, object] = {
        "num_partitions": topic.partitions,
        "replication_factor": replicas,
        "configs": {
            "max.message.bytes": str(RECORD_BYTES_MAX),
            "min.insync.replicas": str(max(1, replicas - 1)),
        },
    }
    failpoint("partitions.before_create")
    try:
        admin.create_topics({topic.name: wanted}, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        # Another process made it just now.
        return
