"""The network to Kafka is cut, hangs or swallows an answer: commands go on, nothing is lost."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from infra.kafka.records import Received, partition_of
from infra.kafka.relay import PAUSE_MAX_S, PAUSE_MIN_S, lag
from infra.kafka.topic import Topic
from infra.projector_process import ProjectorProcess
from tests import relaying
from tests.infra.test_kafka_consumer import PARTITIONS, Installation
from tests.projecting import hashes, history, until
from tests.relaying import logged, on_topic
from tests.servers.fixtures import begun
from tests.servers.kafka import kafka
from tests.servers.proxy import Proxy
from tests.servers.server import LOCAL, free_port

AGAIN = "the relay begins again"
SILENT = "Kafka is silent; reading the log itself"
HISTORY = history(900)
BEFORE, DURING, AFTER = HISTORY[:300], HISTORY[300:600], HISTORY[600:]
LOST = 3
PRODUCE = b"\0\0"
"""Kafka's name of the request, behind its length."""

EMPTY_MAX_BYTES = 100
"""A request with a record of ours is larger."""

Lines = list[MutableMapping[str, Any]]


@pytest.fixture(scope="module")
def network() -> Iterator[Proxy]:
    """Give the way to a broker that sends its clients nowhere else."""
    port = free_port()
    with (
        Proxy(port) as proxy,
        begun(kafka, port=port, advertised_port=proxy.port, owners=[os.getpid()]),
    ):
        yield proxy


@pytest.fixture
async def installation(
    postgres_url: str, network: Proxy, kafka_topic: str
) -> AsyncIterator[Installation]:
    async with installed(postgres_url, Topic(network.bootstrap, kafka_topic, PARTITIONS)) as made:
        yield made
    network.restore()


@asynccontextmanager
async def installed(url: str, topic: Topic) -> AsyncIterator[Installation]:
    made = Installation(url, topic)
    async with made.pool:
        yield made
    await made.log.close()
    made.engine.dispose()


@pytest.fixture
def lines() -> Iterator[Lines]:
    with capture_logs() as found:
        yield found


def told(lines: Lines, event: str) -> list[Any]:
    return [line for line in lines if line["event"] == event]


async def relayed(installation: Installation) -> None:
    async def is_relayed() -> bool:
        behind = await lag(installation.log, installation.pool, installation.topic)
        return behind.events == 0

    await relaying.until(is_relayed, "all is on the topic")


async def check(installation: Installation, folder: Path) -> list[Received]:
    """Hold topic and read models against the log; give the records."""
    await relayed(installation)
    await installation.projected()
    assert hashes(installation.engine) == await installation.rebuilt(folder)
    topic = installation.topic
    records = await asyncio.to_thread(on_topic, topic.servers, topic.name)
    rows = {row.global_position: row for row in await logged(installation.log)}
    latest: Counter[int] = Counter()
    for record in records:
        position = record.stored.global_position
        assert record.stored == rows[position]
        assert record.partition == partition_of(record.workspace_id, PARTITIONS)
        if position > latest[record.partition]:
            # Nothing is left out, and nothing comes before what was before it.
            assert record.prev == latest[record.partition]
            latest[record.partition] = position
    assert {record.stored.global_position for record in records} == rows.keys()
    return records


@pytest.mark.parametrize(
    "fault",
    [Proxy.refuse, pytest.param(Proxy.drop_answers, marks=pytest.mark.long)],
    ids=["cut", "hanging"],
)
async def test_commands_and_read_models_go_on_while_the_network_is_gone_and_all_arrives_later(
    installation: Installation,
    network: Proxy,
    lines: Lines,
    tmp_path: Path,
    fault: Callable[[Proxy], None],
) -> None:
    async with installation.relaying(), installation.projecting() as process:
        await installation.append(BEFORE)
        await installation.projected()
        await relayed(installation)
        fault(network)
        await installation.append(DURING)
        behind = await lag(installation.log, installation.pool, installation.topic)
        assert (behind.events, behind.seconds > 0) == (len(DURING), True)
        await installation.projected()
        assert told(lines, SILENT)
        await until(lambda: told(lines, AGAIN), "the relay has noticed")
        network.restore()
        await installation.append(AFTER)
        await relayed(installation)
        await heard(process, installation)
        await check(installation, tmp_path)
    pauses = [line["in_s"] for line in told(lines, AGAIN)]
    assert all(PAUSE_MIN_S <= pause <= PAUSE_MAX_S for pause in pauses)


async def heard(process: ProjectorProcess, installation: Installation) -> None:
    """Go on until records come from the topic again."""
    before, more = process.projected["topic"], iter(history(5_000)[len(HISTORY) :])
    async with asyncio.timeout(60):
        while process.projected["topic"] == before:
            await installation.append([next(more)])


async def test_a_lost_answer_to_what_was_published_leads_to_no_second_effect(
    installation: Installation, network: Proxy, lines: Lines, tmp_path: Path
) -> None:
    cuts = network.cuts
    async with installation.relaying(), installation.projecting():
        await installation.append(BEFORE)
        await installation.projected()
        for number in range(1, LOST + 1):
            network.cut_after(publishes)
            await installation.append(DURING[(number - 1) * 100 : number * 100])
            await until(partial(have_been, network, cuts + number), "the answer is lost")
            await relayed(installation)
        records = await check(installation, tmp_path)
    assert network.cuts == cuts + LOST
    twice = len(records) - len(BEFORE) - len(DURING)
    assert 0 <= twice <= len(DURING)


def have_been(network: Proxy, cuts: int) -> bool:
    return network.cuts == cuts


def publishes(piece: bytes) -> bool:
    return piece[4:6] == PRODUCE and len(piece) > EMPTY_MAX_BYTES


async def test_read_models_are_made_from_the_log_where_there_was_never_a_broker(
    postgres_url: str, kafka_topic: str, lines: Lines, tmp_path: Path
) -> None:
    nowhere = Topic(f"{LOCAL}:{free_port()}", kafka_topic, PARTITIONS)
    async with installed(postgres_url, nowhere) as installation:
        async with installation.projecting() as process:
            await installation.append(HISTORY)
            await installation.projected()
            await until(lambda: process.lag.events == 0, "there is no lag")
        assert hashes(installation.engine) == await installation.rebuilt(tmp_path)
    assert process.projected == {"log": len(HISTORY)}
    assert told(lines, "Kafka does not answer")
