"""The topic is made once, and used only as it was made."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from kafka.admin import KafkaAdminClient, NewPartitions  # type: ignore[import-untyped]

from infra.kafka.topic import Topic, TopicDiffers, ensure_topic
from infra.postgres.leases import Pool, open_pool
from infra.postgres.migrations import migrate


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[Pool]:
    migrate(postgres_url)
    async with open_pool(postgres_url) as opened:
        yield opened


@pytest.fixture
def topic(kafka_bootstrap: str, kafka_topic: str) -> Topic:
    return Topic(kafka_bootstrap, kafka_topic, 3)


@pytest.fixture
def admin(kafka_bootstrap: str) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    yield client
    client.close()


def partitions(admin: KafkaAdminClient, topic: Topic) -> int:
    [told] = admin.describe_topics([topic.name])
    return len(told["partitions"])


async def test_a_topic_is_made_once_with_the_partitions_that_are_set(
    pool: Pool, topic: Topic, admin: KafkaAdminClient
) -> None:
    await ensure_topic(pool, topic)
    assert partitions(admin, topic) == 3
    await ensure_topic(pool, topic)
    assert partitions(admin, topic) == 3


async def test_of_several_who_make_it_at_once_none_is_refused(
    pool: Pool, topic: Topic, admin: KafkaAdminClient
) -> None:
    await asyncio.gather(*(ensure_topic(pool, topic) for _ in range(4)))
    assert partitions(admin, topic) == 3


async def test_a_topic_made_beforehand_is_taken_as_it_is(
    pool: Pool, topic: Topic, admin: KafkaAdminClient
) -> None:
    admin.create_topics({topic.name: {"num_partitions": 3}}, wait_for_metadata=True)
    await ensure_topic(pool, topic)


async def test_a_topic_made_beforehand_with_other_partitions_is_refused(
    pool: Pool, topic: Topic, admin: KafkaAdminClient
) -> None:
    admin.create_topics({topic.name: {"num_partitions": 2}}, wait_for_metadata=True)
    with pytest.raises(TopicDiffers, match="is to have 3 partitions, but the broker has 2"):
        await ensure_topic(pool, topic)


async def test_partitions_added_later_are_refused_and_the_way_out_is_told(
    pool: Pool, topic: Topic, admin: KafkaAdminClient
) -> None:
    await ensure_topic(pool, topic)
    admin.create_partitions({topic.name: NewPartitions(4)})
    with pytest.raises(TopicDiffers, match="the broker has 4") as refused:
        await ensure_topic(pool, topic)
    assert "automatos rebuild" in str(refused.value)
    assert "AUTOMATOS_KAFKA_TOPIC" in str(refused.value)


async def test_another_number_in_the_settings_is_refused_before_anything_is_changed(
    pool: Pool, topic: Topic, admin: KafkaAdminClient
) -> None:
    await ensure_topic(pool, topic)
    with pytest.raises(TopicDiffers, match="is to have 3 partitions, but the settings say 4"):
        await ensure_topic(pool, topic._replace(partitions=4))
    assert partitions(admin, topic) == 3


async def test_a_topic_that_has_vanished_is_made_again(
    pool: Pool, topic: Topic, admin: KafkaAdminClient
) -> None:
    await ensure_topic(pool, topic)
    admin.delete_topics([topic.name])
    await ensure_topic(pool, topic)
    assert partitions(admin, topic) == 3
