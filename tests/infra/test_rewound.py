"""A log that has lost its tail, in a failover or by a restore: nobody goes on as if it had not."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import update

from infra.event_store.codec import Codec
from infra.event_store.lane import Append, NewRow
from infra.event_store.memory import MemoryLog
from infra.intake import Intake, LogRewound
from infra.kafka.fork import refuse_fork
from infra.kafka.relay import Relay, lag
from infra.kafka.topic import Topic
from infra.postgres.leases import Pool, open_pool
from infra.postgres.migrations import migrate
from infra.projecting import Applier
from infra.projector_process import ProjectorProcess, Source
from infra.vault import Vault
from projections.projector import checkpoint, checkpoints
from tests.projecting import Diary, history, in_file, in_postgres, new_rows
from tests.relaying import until

PARTITIONS = 3
WAIT_MAX_S = 60.0
ROWS = new_rows(history(30))
OTHERS = [row._replace(body=row.body + b" ") for row in new_rows(history(60))]
"""The same streams and versions, and other bytes."""


async def holding(*rows: NewRow) -> MemoryLog:
    log = MemoryLog()
    await asyncio.to_thread(log.write, Append(rows))
    return log


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[Pool]:
    migrate(postgres_url)
    async with open_pool(postgres_url) as opened:
        yield opened


@pytest.fixture
async def topic(kafka_bootstrap: str, kafka_topic: str, pool: Pool) -> Topic:
    """Give a topic with all of `ROWS`."""
    made = Topic(kafka_bootstrap, kafka_topic, PARTITIONS)
    log = await holding(*ROWS)
    relay = Relay(log, pool, made, instance="before")
    running = asyncio.create_task(relay.run())

    async def is_published() -> bool:
        return (await lag(log, pool, made)).events == 0

    await until(is_published, "all is published")
    relay.stop()
    await running
    log.close()
    return made


LOSSES = {
    "nothing": (ROWS, False),
    "nothing, and has more": ([*ROWS, *OTHERS[30:]], False),
    "its tail": (ROWS[:25], True),
    "its tail, and is as long again": ([*ROWS[:25], *OTHERS[25:]], True),
}


async def test_what_the_topic_holds_and_the_log_has_lost_is_found(topic: Topic) -> None:
    for lost, (rows, is_refused) in LOSSES.items():
        log = await holding(*rows)
        try:
            await refuse_fork(log, topic)
        except LogRewound:
            assert is_refused, lost
        else:
            assert not is_refused, lost
        log.close()


async def test_a_relay_ends_when_the_topic_holds_what_the_log_has_lost(
    topic: Topic, pool: Pool
) -> None:
    log = await holding(*ROWS[:25])
    async with asyncio.timeout(WAIT_MAX_S):
        with pytest.raises(LogRewound):
            await Relay(log, pool, topic, instance="after").run()
    log.close()


async def test_a_projector_ends_when_the_topic_holds_what_the_log_has_lost(
    topic: Topic, pool: Pool, postgres_url: str
) -> None:
    log, engine = await holding(*ROWS[:25]), in_postgres(postgres_url)
    source = Source(log, pool, Codec(Vault()), topic)
    process = ProjectorProcess(source, engine, [Diary()], instance="after")
    async with asyncio.timeout(WAIT_MAX_S):
        with pytest.raises(LogRewound):
            await process.run()
    engine.dispose()
    log.close()


async def test_a_projector_whose_commits_were_lost_does_not_go_on_where_it_was(
    tmp_path: Path,
) -> None:
    """Rows and log are in one database: a failover takes both back to an earlier moment."""
    log, engine = await holding(*ROWS), in_file(tmp_path)
    intake = Intake(log, Codec(Vault()), Applier(engine, [Diary()]), 1)
    await intake.begin(0)
    await intake.catch_up([0], 20)
    with engine.begin() as connection:
        connection.execute(update(checkpoints).values(global_position=15))
    with pytest.raises(LogRewound):
        await intake.catch_up([0], 30)
    with engine.begin() as connection:
        assert checkpoint(connection, Diary.name) == 15
    await intake.begin(0)
    await intake.catch_up([0], 30)
    intake.close()
    log.close()
    engine.dispose()
