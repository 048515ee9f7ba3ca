"""Parked workspaces get their read model back: mended, or without the event at fault."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Engine, select

from domain.agents import AGENT, AgentId, AgentProfile, AgentRegistered
from domain.audit import AUDIT, ParkedEventSkipped
from domain.events import WorkspaceId
from infra import parking
from infra.event_store.codec import Codec, Stored
from infra.event_store.lane import Append
from infra.event_store.memory import MemoryLog
from infra.event_store.postgres import PostgresLog
from infra.event_store.sqlite import SqliteLog
from infra.event_store.store import EventStore, Log
from infra.event_store.unreadable import readable
from infra.kafka.records import partition_of
from infra.parking import Place, Rows, Unparker, bring_back, leave_out_again, parked
from infra.postgres import reads
from infra.postgres.migrations import migrate
from infra.projecting import RETRY_AFTER_S, Applier, Slice
from infra.read_store import open_engine, rebuild
from infra.settings import Settings
from infra.vault import Vault
from projections.agents import AgentsProjector, agents
from tests.e2e.installation import ROOT, WAIT_MAX_S, environment
from tests.projecting import Diary, Fact, in_file, new_rows

pytestmark = pytest.mark.usefixtures("quiet")

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


async def test_what_was_missed_is_projected_a_page_at_a_time(
    rows: Log, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await apply(rows, engine, Diary(poison="bad"))
    monkeypatch.setattr(parking, "PAGE_MAX", 2)
    again = await bring_back(rows, engine, Place(Diary(poison="d"), ACME, 0))
    assert again is not None
    assert again.position == 6
    assert noted(engine) == [1, 2, 3, 4, 5]
    assert await bring_back(rows, engine, Place(Diary(), ACME, 0)) is None
    assert noted(engine) == [1, 2, 3, 4, 5, 6]


class Growing:
    """A log that is appended to, and projected, while it is read: each look shows more of it."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._end = 3

    async def head(self) -> int:
        self._end = min(await self._log.head(), self._end + 1)
        return self._end

    async def workspace(self, workspace_id: str, *, after: int, limit: int) -> list[Stored]:
        found = await self._log.workspace(workspace_id, after=after, limit=limit)
        return [row for row in found if row.global_position <= self._end]


async def test_what_is_recorded_while_it_is_brought_back_is_not_left_out(
    rows: Log, engine: Engine
) -> None:
    await apply(rows, engine, Diary(poison="bad"))
    assert await bring_back(Growing(rows), engine, Place(Diary(), ACME, 0)) is None
    assert noted(engine) == [1, 2, 3, 4, 5, 6]
    assert parked(engine) == []


@pytest.mark.parametrize(("poison", "still"), [("bad", []), ("worse", [5])])
async def test_a_rebuild_leaves_out_again_what_an_operator_has_left_out(
    tmp_path: Path, poison: str, still: list[int]
) -> None:
    skipped = ParkedEventSkipped(projector="diary", position=2, reason="it is bad")
    noise = ParkedEventSkipped(projector="agents", position=5, reason="of another projector")
    trail = [(ACME, AUDIT.stream_id(ACME, e.projector), e) for e in (skipped, noise)]
    log, engine, diary = MemoryLog(), in_file(tmp_path), Diary(poison=poison)
    await asyncio.to_thread(log.write, Append(new_rows([*FACTS, *trail])))
    await rebuild(EventStore(log, Vault()), engine, diary)
    await leave_out_again(log, engine, diary, lambda _: 0)
    assert [each.position for each in parked(engine)] == still
    assert noted(engine) == ([1, 2, 3, 4] if still else [1, 3, 4, 5, 6, 7, 8])
    log.close()
    engine.dispose()


# By itself.


class Trying(NamedTuple):
    """A projector that has parked a workspace, and what tries it again.

    Attributes:
        now: The clock, in seconds.
    """

    diary: Diary
    applier: Applier
    unparker: Unparker
    now: list[float]

    async def after(self, pause_s: float) -> bool:
        """Let time pass; tell if it was tried."""
        self.now[0] += pause_s
        return await self.unparker.try_again(self.applier)


async def trying(rows: Rows, engine: Engine, diary: Diary) -> Trying:
    now, codec = [0.0], Codec(Vault())
    applier = Applier(engine, [diary], clock=lambda: now[0])
    stored = [*await rows.workspace(ACME, after=0, limit=9)]
    stored += await rows.workspace(GLOBEX, after=0, limit=9)
    events = sorted((readable(codec, row) for row in stored), key=lambda r: r.global_position)
    applier.apply(Slice(events))
    return Trying(diary, applier, Unparker(rows, engine, codec), now)


async def test_it_is_tried_again_three_times_before_an_operator_is_called_once(
    rows: Log, engine: Engine, quiet: list[MutableMapping[str, Any]]
) -> None:
    slice_ = await trying(rows, engine, Diary(poison="bad"))
    assert noted(engine) == [1, 3]
    for pause_s in RETRY_AFTER_S:
        assert [log["log_level"] for log in quiet if log["log_level"] == "error"] == []
        assert not await slice_.after(pause_s - 0.5)
        assert await slice_.after(0.5)
    assert not await slice_.after(3_600)
    [found] = parked(engine)
    assert (found.position, found.tries_left) == (2, 0)
    [alert] = [log for log in quiet if log["log_level"] == "error"]
    assert (alert["projector"], alert["workspace_id"], alert["position"]) == ("diary", ACME, 2)


async def test_a_fault_that_has_passed_needs_no_operator(
    rows: Log, engine: Engine, quiet: list[MutableMapping[str, Any]]
) -> None:
    slice_ = await trying(rows, engine, Diary(poison="bad"))
    await slice_.after(RETRY_AFTER_S[0])
    slice_.diary.poison = ""
    assert await slice_.after(RETRY_AFTER_S[1])
    assert noted(engine) == [1, 2, 3, 4, 5, 6]
    assert parked(engine) == []
    assert {log["log_level"] for log in quiet} == {"warning"}


async def test_another_event_at_fault_gets_tries_of_its_own(rows: Log, engine: Engine) -> None:
    slice_ = await trying(rows, engine, Diary(poison="bad"))
    await slice_.after(RETRY_AFTER_S[0])
    slice_.diary.poison = "worse"
    await slice_.after(RETRY_AFTER_S[1])
    [found] = parked(engine)
    assert (found.position, found.tries_left) == (5, len(RETRY_AFTER_S))


async def test_whoever_projects_next_goes_on_with_the_tries_that_are_left(
    rows: Log, engine: Engine
) -> None:
    before = await trying(rows, engine, Diary(poison="bad"))
    await before.after(RETRY_AFTER_S[0])
    applier = Applier(engine, [Diary()], clock=lambda: before.now[0])
    applier.take_up(belongs=lambda workspace_id: workspace_id != ACME)
    assert applier.waiting == {}
    applier.take_up()
    slice_ = before._replace(applier=applier)
    assert not await slice_.after(RETRY_AFTER_S[1] - 0.5)
    assert await slice_.after(0.5)
    assert parked(engine) == []


async def test_what_an_operator_has_settled_is_not_tried_again(rows: Log, engine: Engine) -> None:
    slice_ = await trying(rows, engine, Diary(poison="bad"))
    again = await bring_back(rows, engine, Place(slice_.diary, ACME, 0))
    slice_.diary.poison = ""
    await slice_.after(RETRY_AFTER_S[0])
    assert parked(engine) == [again]
    assert slice_.applier.waiting == {}


async def test_what_cannot_pass_is_not_tried_again(
    engine: Engine, quiet: list[MutableMapping[str, Any]]
) -> None:
    unreadable = readable(Codec(Vault()), Stored(1, "agent-acme+1", 1, "agent_moulted", b"\xff"))
    applier = Applier(engine, [Diary(), AgentsProjector()])
    applier.apply(Slice([unreadable]))
    [too_large] = new_rows([registered(GLOBEX, TOO_LARGE)])
    stored = Stored(2, *too_large[:4])
    applier.apply(Slice([readable(Codec(Vault()), stored)]))
    found = [(each.projector, each.workspace_id, each.tries_left) for each in parked(engine)]
    assert found == [("agents", ACME, 0), ("agents", GLOBEX, 0), ("diary", ACME, 0)]
    assert applier.waiting == {}
    assert [log["log_level"] for log in quiet] == ["error"] * 3


# On the command line, in a folder and in PostgreSQL.


PROJECTOR = """
import json, sys
from contextlib import redirect_stdout
from io import StringIO
from infra.cli.projector import app
from infra.cli.rebuild import rebuild

app.command("rebuild")(rebuild)
answers = []
for arguments in json.loads(sys.argv[1]):
    with redirect_stdout(StringIO()) as told:
        try:
            app(arguments)
        except SystemExit as end:
            answers.append((end.code, told.getvalue()))
print(json.dumps(answers))
"""
"""Imports what it needs once: that takes longer than all the commands."""


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

    def projector(self, *commands: Sequence[str]) -> list[tuple[int, str]]:
        """Run commands one after the other; tell their exit codes and what they print."""
        done = subprocess.run(
            [sys.executable, "-c", PROJECTOR, json.dumps(commands)],
            cwd=ROOT,
            env=environment(self._folder, self._settings),
            capture_output=True,
            text=True,
            timeout=WAIT_MAX_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [(code, told) for code, told in json.loads(done.stdout)]


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
    installation.project(facts)
    assert installation.names() == ["a", "b"]
    rebuilt, listed, retried, unsaid, skipped, unlisted, again, *refused = installation.projector(
        ["rebuild", "agents"],
        ["parked"],
        ["retry", "agents", "acme"],
        ["skip", "agents", "acme", "--reason", " "],
        ["skip", "agents", "acme", "--reason", "too large"],
        ["parked"],
        ["rebuild", "agents"],
        ["retry", "agents", "acme"],
        ["retry", "nothing", "acme"],
    )
    assert rebuilt[1].startswith("agents: rebuilt up to position 4, the same rows as before")
    assert "parked workspaces: 1;" in rebuilt[1]
    assert listed[1].startswith("agents  acme  position 2  ")
    assert retried[0] == 1
    assert retried[1].startswith("parked again: agents  acme  position 2  ")
    assert unsaid == (2, "")
    assert skipped == (0, "agents: acme goes on\n")
    assert unlisted == (0, "nothing is parked\n")
    assert (again[0], "parked workspaces" in again[1]) == (0, False)
    assert refused == [(2, ""), (2, "")]
    assert installation.names() == ["a", "b", "c"]
    assert asyncio.run(installation.trail()) == ["parked_slice_retried", "parked_event_skipped"]
