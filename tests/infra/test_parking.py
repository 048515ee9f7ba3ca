"""Parked workspaces get their read model back: mended, or without the event at fault."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from structlog.testing import capture_logs

from domain.agents import AGENT, AgentId, AgentProfile, AgentRegistered
from domain.events import WorkspaceId
from infra.event_store.codec import Codec, Stored
from infra.event_store.lane import Append
from infra.event_store.memory import MemoryLog
from infra.event_store.postgres import PostgresLog
from infra.event_store.sqlite import SqliteLog
from infra.event_store.store import EventStore, Log
from infra.event_store.unreadable import readable
from infra.kafka.records import partition_of
from infra.parking import Place, bring_back, parked
from infra.postgres import reads
from infra.postgres.migrations import migrate
from infra.projecting import Applier, Slice
from infra.read_store import open_engine
from infra.settings import Settings
from infra.vault import Vault
from projections.agents import AgentsProjector, agents
from tests.e2e.installation import ROOT, WAIT_MAX_S, environment
from tests.projecting import Diary, Fact, new_rows, opened

ACME, GLOBEX = WorkspaceId("acme"), WorkspaceId("globex")
TOO_LARGE = 2**70
"""A number that no column of any database holds."""


def registered(workspace_id: WorkspaceId, number: int, name: str = "") -> Fact:
    event = AgentRegistered(agent_id=AgentId(number), profile=AgentProfile(name=name))
    return workspace_id, AGENT.stream_id(workspace_id, number), event


FACTS = [
    registered(ACME, 1, "a"),
    registered(ACME, 2, "bad"),
    registered(GLOBEX, 3, "b"),
    registered(ACME, 4, "c"),
    registered(ACME, 5, "worse"),
    registered(ACME, 6, "d"),
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = opened(request.param, request)
    yield engine
    engine.dispose()


@pytest.fixture
async def rows() -> AsyncIterator[Log]:
    log = MemoryLog()
    await asyncio.to_thread(log.write, Append(new_rows(FACTS)))
    yield log
    log.close()


async def apply(rows: Log, engine: Engine, diary: Diary, upto: int = len(FACTS)) -> None:
    events = [readable(Codec(Vault()), row) for row in await rows.all(after=0, limit=upto)]
    Applier(engine, [diary]).apply(Slice(events))


def noted(engine: Engine) -> list[int]:
    with engine.begin() as connection:
        return sorted(connection.scalars(select(Diary.table.c.position)))


async def test_a_mended_projector_gets_back_what_it_has_missed(rows: Log, engine: Engine) -> None:
    await apply(rows, engine, Diary(poison="bad"))
    assert noted(engine) == [1, 3]
    assert await bring_back(rows, engine, Place(Diary(), ACME, 0)) is None
    assert noted(engine) == [1, 2, 3, 4, 5, 6]
    assert parked(engine) == []


async def test_what_is_still_broken_stays_parked(rows: Log, engine: Engine) -> None:
    await apply(rows, engine, Diary(poison="bad"))
    [before] = parked(engine)
    again = await bring_back(rows, engine, Place(Diary(poison="bad"), ACME, 0))
    assert again == before._replace(tries_left=0)
    assert noted(engine) == [1, 3]
    assert parked(engine) == [again]


async def test_an_event_is_left_out_and_the_next_one_at_fault_parks_again(
    rows: Log, engine: Engine
) -> None:
    await apply(rows, engine, Diary(poison="bad"))
    again = await bring_back(rows, engine, Place(Diary(poison="worse"), ACME, 0), skipped=2)
    assert again is not None
    assert again.position == 5
    assert noted(engine) == [1, 3, 4]


async def test_what_the_checkpoint_has_not_passed_is_left_to_the_projector(
    rows: Log, engine: Engine
) -> None:
    await apply(rows, engine, Diary(poison="bad"), upto=4)
    assert await bring_back(rows, engine, Place(Diary(), ACME, 0)) is None
    assert noted(engine) == [1, 2, 3, 4]
    await apply(rows, engine, Diary())
    assert noted(engine) == [1, 2, 3, 4, 5, 6]


# On the command line, in a folder and in PostgreSQL.


class Installation:
    def __init__(self, settings: dict[str, str]) -> None:
        self._settings = settings
        found = Settings.from_env(settings)
        self._url, self._folder = found.database_url, found.data_dir
        self._partitions = found.kafka_partitions if found.database_url else 1

    def engine(self) -> Engine:
        return (
            reads.open_engine(self._url)
            if self._url
            else open_engine(self._folder / "read_models.db")
        )

    def partition(self, workspace_id: WorkspaceId) -> int:
        return partition_of(workspace_id, self._partitions)

    async def record(self, facts: list[Fact]) -> None:
        if self._url:
            log = PostgresLog(self._url)
            await log.write(Append(new_rows(facts)))
            await log.close()
        else:
            file = SqliteLog(self._folder / "events.db")
            await asyncio.to_thread(file.write, Append(new_rows(facts)))
            file.close()

    async def trail(self) -> list[str]:
        """Tell which commands were noted in the workspace, in order."""
        log: Log = PostgresLog(self._url) if self._url else SqliteLog(self._folder / "events.db")
        stored = await log.workspace(ACME, after=0, limit=100)
        await EventStore(log, Vault()).aclose()
        return [row.tag for row in stored if row.stream_id == "audit-acme+agents"]

    def project(self, facts: list[Fact]) -> None:
        engine, codec = self.engine(), Codec(Vault())
        for nth, row in enumerate(new_rows(facts), start=1):
            stored = Stored(nth, row.stream_id, row.stream_version, row.tag, row.body)
            part = self.partition(WorkspaceId(row.workspace_id))
            Applier(engine, [AgentsProjector()]).apply(Slice([readable(codec, stored)], part))
        engine.dispose()

    def names(self) -> list[str]:
        engine = self.engine()
        with engine.begin() as connection:
            found = sorted(connection.scalars(select(agents.c.name)))
        engine.dispose()
        return found

    def projector(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", "from infra.cli.projector import app; app()", *arguments],
            cwd=ROOT,
            env=environment(self._folder, self._settings),
            capture_output=True,
            text=True,
            timeout=WAIT_MAX_S,
            check=False,
        )


@pytest.fixture(params=["sqlite", "postgres"])
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Installation:
    settings = {"DATA_DIR": str(tmp_path), "DATABASE_URL": ""}
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        migrate(url)
        settings["DATABASE_URL"] = url
    return Installation(settings)


def test_an_operator_lists_retries_and_skips(installation: Installation) -> None:
    facts = [
        registered(ACME, 1, "a"),
        registered(ACME, TOO_LARGE, "bad"),
        registered(GLOBEX, 3, "b"),
        registered(ACME, 4, "c"),
    ]
    asyncio.run(installation.record(facts))
    assert "nothing is parked" in installation.projector("parked").stdout
    installation.project(facts)
    assert installation.names() == ["a", "b"]
    listed = installation.projector("parked").stdout
    assert "agents  acme  position 2" in listed
    retried = installation.projector("retry", "agents", "acme")
    assert retried.returncode == 1
    assert "parked again: agents  acme  position 2" in retried.stdout
    assert installation.projector("skip", "agents", "acme", "--reason", " ").returncode == 2
    skipped = installation.projector("skip", "agents", "acme", "--reason", "too large")
    assert (skipped.returncode, skipped.stdout) == (0, "agents: acme goes on\n")
    assert installation.names() == ["a", "b", "c"]
    assert "nothing is parked" in installation.projector("parked").stdout
    assert asyncio.run(installation.trail()) == ["parked_slice_retried", "parked_event_skipped"]


@pytest.mark.parametrize(
    "arguments", [("retry", "nothing", "acme"), ("retry", "agents", "acme")], ids=str
)
def test_what_is_not_parked_cannot_be_retried(
    installation: Installation, arguments: tuple[str, ...]
) -> None:
    assert installation.projector(*arguments).returncode == 2
