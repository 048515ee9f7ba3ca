"""Relays in processes of their own, killed, stopped and cut off from Kafka: nothing is lost.

After every fault the topic is held against the log: each event in its partition, in the log's
order once repetitions are dropped, with the true `prev`.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from uuid import uuid4

import psycopg
import pytest

from infra.cli.relay import EXIT_REFUSED, PROCESS, healthy
from infra.kafka.relay import lag
from infra.kafka.topic import Topic, ensure_topic
from infra.postgres.leases import Lease, Leases, open_pool
from infra.postgres.migrations import migrate
from infra.settings import Settings
from infra.until_stopped import STOP_WITHIN_S
from tests.e2e.installation import PYTHON, ROOT, environment
from tests.relaying import PARTITIONS, Writer, check_complete, logged, on_topic, opened, until
from tests.servers.fixtures import Private

WAIT_MAX_S = 60.0
APPEND_EVERY_S = 0.05
AGAIN = "the relay begins again"


class Process:
    """`automatos relay`, started once."""

    def __init__(self, folder: Path, number: int, settings: dict[str, str]) -> None:
        self._output = folder / f"relay-{number}.out"
        with self._output.open("wb") as file:
            self._process = subprocess.Popen(
                [*PYTHON, "infra", "relay"],
                cwd=ROOT,
                env=environment(folder, settings),
                stdout=file,
                stderr=file,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    async def ended(self) -> int:
        """Wait for its end, and give its exit code."""

        async def has_ended() -> bool:
            return self._process.poll() is not None

        await until(has_ended, "the relay has ended")
        return self._process.wait()

    def clean_up(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(WAIT_MAX_S)
        sys.stdout.write(f"--- {self._output.name}\n{self.output[-5_000:]}\n")


class Installation:
    """A database, a topic, and relays between them."""

    def __init__(self, url: str, servers: str, name: str, folder: Path) -> None:
        migrate(url)
        self.url = url
        self.topic = Topic(servers, name, PARTITIONS)
        self._folder = folder
        self._relays: list[Process] = []

    @property
    def settings(self) -> dict[str, str]:
        return {
            "AUTOMATOS_DATABASE_URL": self.url,
            "AUTOMATOS_KAFKA_BOOTSTRAP_SERVERS": self.topic.servers,
            "AUTOMATOS_KAFKA_TOPIC": self.topic.name,
            "AUTOMATOS_KAFKA_PARTITIONS": str(self.topic.partitions),
        }

    def relay(self, **settings: str) -> Process:
        settings = self.settings | settings
        self._relays.append(Process(self._folder, len(self._relays), settings))
        return self._relays[-1]

    def clean_up(self) -> None:
        for relay in self._relays:
            relay.clean_up()

    async def is_caught_up(self) -> bool:
        async with opened(self.url) as log, open_pool(self.url, connections_max=1) as pool:
            return (await lag(log, pool, self.topic)).events == 0

    async def lease(self) -> Lease | None:
        async with open_pool(self.url, connections_max=1) as pool:
            held = await Leases(pool).held("relay/")
        return held.get(f"relay/{self.topic.name}")

    async def check(self) -> int:
        """Hold the topic against the log, once all is relayed; give the number of repetitions."""
        await until(self.is_caught_up, "the relay has caught up")
        async with opened(self.url) as log:
            rows = await logged(log)
        records = await asyncio.to_thread(on_topic, self.topic.servers, self.topic.name)
        check_complete(records, rows)
        return len(records) - len(rows)


@pytest.fixture
def installation(
    postgres_url: str, kafka_bootstrap: str, kafka_topic: str, tmp_path: Path
) -> Iterator[Installation]:
    made = Installation(postgres_url, kafka_bootstrap, kafka_topic, tmp_path)
    yield made
    made.clean_up()


@asynccontextmanager
async def appending(url: str) -> AsyncIterator[None]:
    """Append all the while, and some more before and afterwards."""
    async with opened(url) as log:
        writer, stopping = Writer(log, uuid4().hex), asyncio.Event()
        await writer.write(5)

        async def write() -> None:
            while not stopping.is_set():
                await writer.write(1)
                with suppress(TimeoutError):
                    async with asyncio.timeout(APPEND_EVERY_S):
                        await stopping.wait()

        writing = asyncio.create_task(write())
        try:
            yield
        finally:
            stopping.set()
            await writing
        await writer.write(5)


async def test_a_relay_killed_at_any_moment_loses_nothing(installation: Installation) -> None:
    async with appending(installation.url):
        for epoch in range(1, 4):
            relay = installation.relay()
            await until(partial(leads, installation, epoch), "the next one leads")
            relay.signal(signal.SIGKILL)
            await relay.ended()
        installation.relay()
    await installation.check()


@pytest.mark.parametrize(
    "stopped_s", [0.0, pytest.param(30.0, marks=pytest.mark.long)], ids=["short", "30s"]
)
async def test_a_relay_that_was_stopped_and_goes_on_turns_no_order_around(
    stopped_s: float, installation: Installation
) -> None:
    first = installation.relay()
    await until(partial(leads, installation, 1), "the first one leads")
    second = installation.relay()
    async with appending(installation.url):
        for epoch, (stopped, other) in enumerate([(first, second), (second, first)], start=2):
            stopped.signal(signal.SIGSTOP)
            since = monotonic()
            await until(partial(leads, installation, epoch), "the other one leads")
            await until(partial(later, since + stopped_s), "it was stopped for long")
            stopped.signal(signal.SIGCONT)
            await until(partial(told, stopped, "LeaseLost", 0), "it has noticed")
            assert "Traceback" not in other.output
    await installation.check()


async def leads(installation: Installation, epoch: int) -> bool:
    lease = await installation.lease()
    return lease is not None and lease.epoch >= epoch


async def later(moment: float) -> bool:
    return monotonic() >= moment


async def told(relay: Process, what: str, before: int) -> bool:
    return relay.output.count(what) > before


async def test_a_relay_told_to_stop_leaves_nothing_half_done(installation: Installation) -> None:
    async with appending(installation.url):
        relay = installation.relay()
        await until(partial(leads, installation, 1), "it leads")
        settings = Settings.from_env(installation.settings)
        assert await asyncio.to_thread(healthy, settings, PROCESS) == 0
        assert await asyncio.to_thread(healthy, settings, "projector") == 1
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0, relay.output
        assert await installation.lease() is None
        installation.relay()
    assert await installation.check() == 0


async def test_a_topic_with_other_partitions_ends_the_relay_with_the_reason(
    installation: Installation,
) -> None:
    async with open_pool(installation.url, connections_max=1) as pool:
        await ensure_topic(pool, installation.topic)
    relay = installation.relay(AUTOMATOS_KAFKA_PARTITIONS="5")
    assert await relay.ended() == EXIT_REFUSED
    assert "is to have 12 partitions, but the settings say 5" in relay.output


async def test_a_database_of_another_release_ends_the_relay_with_the_reason(
    installation: Installation,
) -> None:
    with psycopg.connect(installation.url, autocommit=True) as connection:
        connection.execute("DELETE FROM migrations")
    relay = installation.relay()
    assert await relay.ended() == EXIT_REFUSED
    assert "automatos migrate" in relay.output


async def test_nothing_is_lost_while_kafka_is_down_and_commands_go_on(
    postgres_url: str, kafka_topic: str, tmp_path: Path, private_kafka: Private
) -> None:
    broker = private_kafka()
    installation = Installation(postgres_url, broker.bootstrap, kafka_topic, tmp_path)
    relay = installation.relay()
    try:
        await until(partial(leads, installation, 1), "it leads")
        for _ in range(2):
            async with appending(installation.url):
                before = relay.output.count(AGAIN)
                await asyncio.to_thread(broker.kill)
                await until(partial(told, relay, AGAIN, before), "it has noticed")
                await asyncio.to_thread(broker.start)
        await installation.check()
        broker.pause()
        async with appending(installation.url):
            relay.signal(signal.SIGTERM)
            began = monotonic()
            assert await relay.ended() == 0, relay.output
            assert monotonic() - began < STOP_WITHIN_S + 5
        broker.resume()
        installation.relay()
        await installation.check()
    finally:
        broker.resume()
        installation.clean_up()
