"""Projectors in processes of their own, killed at any point: every event once, in every row."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from infra.event_store.lane import Append, NewRow
from infra.event_store.postgres import PostgresLog
from infra.event_store.store import EventStore
from infra.kafka.records import partition_of
from infra.kafka.relay import Relay
from infra.kafka.topic import Topic
from infra.postgres.leases import Leases, open_pool
from infra.projecting import Applier, Slice
from infra.vault import Vault
from tests.e2e.installation import ROOT, environment
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

PARTITIONS = 6
FAIR = PARTITIONS // 3
MOVE_MAX_S = 10.0
RUN = "from infra.cli.projector import projector; from infra.settings import Settings"
LOGS = "from infra import logs; logs.configure('INFO')"
PYTHON = (
    sys.executable,
    "-c",
    f"import sys; {RUN}; {LOGS}; sys.exit(projector(Settings.from_env(), []))",
)
SEED = 20_261_122
WORLDS = (
    {"PYTHONHASHSEED": "0", "TZ": "Pacific/Apia"},
    {"PYTHONHASHSEED": "1", "TZ": "America/St_Johns", "LC_ALL": "C"},
    {"PYTHONHASHSEED": "random", "LC_ALL": "C.UTF-8"},
)
"""What must make no difference."""


class Installation:
    """A log, a topic with a relay, and projectors that are processes."""

    def __init__(self, url: str, topic: Topic, folder: Path) -> None:
        self.engine: Engine = in_postgres(url)
        self.url, self.topic, self.folder = url, topic, folder
        self.log = PostgresLog(url)
        self.pool = open_pool(url)
        self._facts: list[Fact] = []
        self._last: dict[int, int] = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, **settings: str) -> "subprocess.Popen[bytes]":
        ours = {
            "AUTOMATOS_DATABASE_URL": self.url,
            "AUTOMATOS_KAFKA_BOOTSTRAP_SERVERS": self.topic.servers,
            "AUTOMATOS_KAFKA_TOPIC": self.topic.name,
            "AUTOMATOS_KAFKA_PARTITIONS": str(PARTITIONS),
        }
        with (self.folder / f"projector-{len(self._processes)}.out").open("wb") as output:
            process = subprocess.Popen(
                PYTHON,
                cwd=ROOT,
                env=environment(self.folder, ours | settings),
                stdout=output,
                stderr=output,
            )
        self._processes.append(process)
        return process

    def lag(self, number: int) -> object:
        """Tell what a projector last logged of its lag."""
        lines = (self.folder / f"projector-{number}.out").read_text().splitlines()
        told = [json.loads(line) for line in lines if '"projecting"' in line]
        return told[-1]["lag_events"] if told else None

    async def append(self, facts: Sequence[Fact]) -> None:
        await self.write(facts, new_rows([*self._facts, *facts])[len(self._facts) :])

    async def write(self, facts: Sequence[Fact], rows: Sequence[NewRow]) -> None:
        """Append facts that are spelled already."""
        first = len(self._facts) + 1
        self._facts += facts
        self._last |= {partition_of(f[0], PARTITIONS): n for n, f in enumerate(facts, first)}
        for page in pages(rows, 200):
            await self.log.write(Append(page))

    def is_projected(self) -> bool:
        return all(
            there >= position
            for partition, position in self._last.items()
            for there in passed(self.engine, partition)
        )

    def has_passed(self, position: int) -> bool:
        """Tell whether some projector has come so far in some partition."""
        return any(
            there >= position
            for partition in range(PARTITIONS)
            for there in passed(self.engine, partition)
        )

    async def held(self) -> dict[str, int]:
        """Count the partitions of each instance."""
        counts: dict[str, int] = {}
        for lease in (await Leases(self.pool).held("projectors/")).values():
            counts[lease.owner] = counts.get(lease.owner, 0) + 1
        return counts

    async def shared(self, instances: int, *, timeout_s: float = 60.0) -> None:
        fair = [PARTITIONS // instances] * instances
        async with asyncio.timeout(timeout_s):
            while sorted((await self.held()).values()) != fair:  # noqa: ASYNC110 it is asked
                await asyncio.sleep(0.05)

    async def check(self, *, timeout_s: float = 60.0) -> None:
        """Hold the rows against those that the log makes of an empty file."""
        await until(self.is_projected, "all is projected", timeout_s=timeout_s)
        engine, store = in_file(self.folder), EventStore(self.log, Vault())
        applier, after = Applier(engine, PROJECTORS), 0
        while page := await store.read_all(after=after):
            applier.apply(Slice(page))
            after = page[-1].global_position
        assert hashes(self.engine) == hashes(engine)
        engine.dispose()

    def end(self) -> None:
        for number, process in enumerate(self._processes):
            process.kill()
            process.wait()
            sys.stdout.write((self.folder / f"projector-{number}.out").read_text()[-3_000:])


@pytest.fixture
async def installation(
    postgres_url: str, kafka_bootstrap: str, kafka_topic: str, tmp_path: Path
) -> AsyncIterator[Installation]:
    made = Installation(postgres_url, Topic(kafka_bootstrap, kafka_topic, PARTITIONS), tmp_path)
    async with made.pool:
        with capture_logs():
            async with relaying(made):
                yield made
        made.end()
    await made.log.close()
    made.engine.dispose()


@asynccontextmanager
async def relaying(installation: Installation) -> AsyncIterator[None]:
    relay = Relay(installation.log, installation.pool, installation.topic, instance=uuid4().hex)
    task = asyncio.create_task(relay.run())
    try:
        yield
    finally:
        relay.stop()
        await task


async def test_the_partitions_of_a_killed_projector_go_on_elsewhere(
    installation: Installation,
) -> None:
    processes = [installation.start() for _ in range(3)]
    await installation.shared(3)
    await installation.append(history(300))
    processes[0].kill()
    await installation.append(history(300, seed=2))
    await installation.shared(2, timeout_s=MOVE_MAX_S)
    await installation.check()
    await until(lambda: installation.lag(1) == installation.lag(2) == 0, "there is no lag")
    for process in processes[1:]:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(30) for process in processes[1:]] == [0, 0]
    assert await installation.held() == {}


async def test_a_projector_that_was_stopped_too_long_writes_nothing_when_it_goes_on(
    installation: Installation,
) -> None:
    stopped = installation.start()
    await installation.shared(1)
    os.kill(stopped.pid, signal.SIGSTOP)
    installation.start()
    await installation.append(history(300))
    await until(installation.is_projected, "the other one has projected all")
    os.kill(stopped.pid, signal.SIGCONT)
    await installation.append(history(300, seed=2))
    await installation.shared(2)
    await installation.check()


@pytest.mark.parametrize(
    ("events", "kills"),
    [
        (5_000, 3),
        pytest.param(100_000, 20, marks=[pytest.mark.long, pytest.mark.timeout(3_600)]),
    ],
)
async def test_projectors_killed_at_random_make_the_rows_that_the_log_makes(
    installation: Installation, events: int, kills: int
) -> None:
    chance, facts = Random(SEED), history(events)
    rows, part = new_rows(facts), events // kills
    running = [installation.start(**world) for world in WORLDS]
    await installation.shared(3)
    for begin in range(0, part * kills, part):
        await installation.write(facts[begin : begin + part], rows[begin : begin + part])
        mark = begin + chance.randint(1, part * 2 // 3)
        await until(partial(installation.has_passed, mark), "some of it is projected")
        # The one that was started last may not have begun yet.
        victim = running.pop(chance.randrange(2))
        victim.kill()
        running.append(installation.start(**chance.choice(WORLDS)))
    await installation.write(facts[part * kills :], rows[part * kills :])
    await installation.check(timeout_s=60 + events / 100)
