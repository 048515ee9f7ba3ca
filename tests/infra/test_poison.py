"""Poison: what cannot be read or projected concerns its workspace alone, until it is mended."""

import asyncio
from collections.abc import Generator, Iterator, MutableMapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from domain.agents import AGENT, AgentId, AgentProfile, AgentRegistered, AgentTagged
from domain.catalog import EVENT_TYPES, AnyEvent
from domain.events import JsonObject, Recorded, StreamId, WorkspaceId
from domain.identity import WorkspaceCreated
from domain.upcasters import Upcasters
from infra import follower, intake
from infra.event_store.codec import Codec, Stored
from infra.event_store.lane import Append, NewRow
from infra.event_store.memory import MemoryLog
from infra.event_store.sqlite import SqliteLog
from infra.event_store.store import EventStore, Log
from infra.follower import Follower
from infra.intake import Intake
from infra.kafka.records import partition_of
from infra.parking import Place, Unparker, bring_back, parked
from infra.projecting import RETRY_AFTER_S, Applier, Slice
from infra.read_store import rebuild
from infra.vault import Vault
from projections.agents import AgentsProjector
from projections.projector import Batch, Projector
from tests.infra.recording import Folder
from tests.projecting import Fact, emptied, hashes, in_file, new_rows, opened
from tests.projections.tables import PROJECTORS
from tests.read_api.conftest import serving, until
from tests.strategies import any_event

pytestmark = pytest.mark.usefixtures("quiet")

WORKSPACES = tuple(map(WorkspaceId, ("acme", "globex", "initech")))
PARTITIONS = 2
WAIT_MAX_S = 60.0
TAGS = ("poison",)
MARK = AgentTagged(agent_id=AgentId(1), tags=TAGS)
"""What every poison is once it is mended."""

ADA = AgentRegistered(agent_id=AgentId(1), profile=AgentProfile(name="Ada"))

Poison = Literal["bytes", "type", "version", "upcaster", "projector"]
POISONS: tuple[Poison, ...] = ("bytes", "type", "version", "upcaster", "projector")
Item = tuple[WorkspaceId, AnyEvent | Poison]


# What is broken, and mended.


def fails(_: JsonObject) -> JsonObject:
    raise AttributeError("nobody thought of this")


def becomes_a_mark(event: JsonObject) -> JsonObject:
    return {**event, "type": "agent_tagged"}


BROKEN: Upcasters = {("agent_labelled", 1): fails}
MENDED: Upcasters = {
    ("agent_labelled", 1): becomes_a_mark,
    ("agent_moulted", 1): becomes_a_mark,
    ("agent_tagged", 1): dict,
}


class Fussy(AgentsProjector):
    """Cannot bear a mark."""

    def project(self, recorded: Recorded[AnyEvent], batch: Batch) -> None:
        if isinstance(recorded.event, AgentTagged) and recorded.event.tags == TAGS:
            raise ValueError("cannot bear this")
        super().project(recorded, batch)


FUSSY: tuple[Projector, ...] = (Fussy(), *PROJECTORS[1:])


def poisoned(row: NewRow, poison: Poison) -> NewRow:
    """Spoil the row of a mark."""
    match poison:
        case "bytes":
            # Cut in the middle of a character; its tag is whose turn it is.
            tag = ("agent_tagged", "run_started", "agent_moulted")[len(row.body) % 3]
            return row._replace(tag=tag, body=row.body[:20] + b"\xff")
        case "type":
            return retyped(row, "agent_moulted")
        case "version":
            return row._replace(body=row.body.replace(b'"schema_version":1', b'"schema_version":2'))
        case "upcaster":
            return retyped(row, "agent_labelled")
        case "projector":
            return row


def retyped(row: NewRow, tag: str) -> NewRow:
    return row._replace(tag=tag, body=row.body.replace(b"agent_tagged", tag.encode()))


def written(items: Sequence[Item]) -> list[NewRow]:
    facts: list[Fact] = []
    for workspace_id, item in items:
        stream_id = StreamId(f"some-{workspace_id}+1")
        fact = MARK if isinstance(item, str) else in_its_own(item, workspace_id)
        facts.append((workspace_id, stream_id, fact))
    return [
        poisoned(row, item) if isinstance(item, str) else row
        for row, (_, item) in zip(new_rows(facts), items, strict=True)
    ]


def in_its_own(event: AnyEvent, workspace_id: WorkspaceId) -> AnyEvent:
    """A workspace is created in its own streams alone."""
    if isinstance(event, WorkspaceCreated):
        return WorkspaceCreated(workspace_id=workspace_id, name=event.name)
    return event


@st.composite
def logs(draw: st.DrawFn) -> list[Item]:
    """Give logs in which some workspaces have poison, and one at least has none.

    All have the agent that the marks are of, so that it is seen whether those are there.
    """
    ill = draw(st.lists(st.sampled_from(WORKSPACES), min_size=1, max_size=2, unique=True))
    good = st.tuples(st.sampled_from(WORKSPACES), any_event())
    bad = st.tuples(st.sampled_from(ill), st.sampled_from(POISONS))
    items: list[Item] = draw(st.lists(good | bad, max_size=25))
    return [*((workspace_id, ADA) for workspace_id in WORKSPACES), *items]


# The two ways in which events come to read models.


class Way(Protocol):
    """Follows a log to its end."""

    async def follow(
        self, log: Log, engine: Engine, projectors: Sequence[Projector], size: int
    ) -> None: ...
    def partition(self, workspace_id: WorkspaceId) -> int: ...


def codec(upcasters: Upcasters) -> Codec:
    return Codec(Vault(), upcasters=upcasters)


class Embedded:
    """As one process follows its own log."""

    async def follow(
        self, log: Log, engine: Engine, projectors: Sequence[Projector], size: int
    ) -> None:
        store = EventStore(log, Vault(), codec(BROKEN))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(follower, "BATCH_MAX", size)
            assert await Follower(store, engine, tuple(projectors)).catch_up(WAIT_MAX_S)

    def partition(self, workspace_id: WorkspaceId) -> int:
        return 0


class Production:
    """As a projector's process catches up."""

    async def follow(
        self, log: Log, engine: Engine, projectors: Sequence[Projector], size: int
    ) -> None:
        taking = Intake(log, codec(BROKEN), Applier(engine, projectors), PARTITIONS)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(intake, "BATCH_MAX", size)
            for partition in range(PARTITIONS):
                await taking.begin(partition)
            await taking.catch_up(range(PARTITIONS), await log.head())
            await taking.settle()
        taking.close()

    def partition(self, workspace_id: WorkspaceId) -> int:
        return partition_of(workspace_id, PARTITIONS)


class Installation(NamedTuple):
    """A way, its read models, and others to hold them against."""

    way: Way
    engine: Engine
    other: Engine


@pytest.fixture(params=[("sqlite", Embedded()), ("postgres", Production())], ids=["sqlite", "pg"])
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    kind, way = request.param
    made = Installation(way, opened(kind, request), in_file(tmp_path))
    yield made
    made.engine.dispose()
    made.other.dispose()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    opened = Folder(tmp_path)
    yield opened
    opened.close()


def expected(engine: Engine, rows: Sequence[Stored], without: set[int]) -> dict[str, str]:
    """Project what is mended, but for some positions, as if nothing had ever been wrong."""
    emptied(engine)
    mended = codec(MENDED)
    kept = [mended.decode(row) for row in rows if row.global_position not in without]
    Applier(engine, PROJECTORS).apply(Slice(kept))
    assert parked(engine) == []
    return hashes(engine)


def of(engine: Engine, workspace_id: WorkspaceId) -> dict[str, list[tuple[Any, ...]]]:
    """Give all rows of a workspace."""
    tables = [table for projector in PROJECTORS for table in projector.tables]
    with engine.begin() as connection:
        return {
            table.name: sorted(
                map(
                    tuple,
                    connection.execute(select(table).where(table.c.workspace_id == workspace_id)),
                ),
                key=repr,
            )
            for table in tables
        }


def at(items: Sequence[Item], *poisons: Poison) -> set[int]:
    """Give the positions of some kinds of poison."""
    return {n for n, (_, item) in enumerate(items, 1) if isinstance(item, str) and item in poisons}


def filled(items: Sequence[Item]) -> MemoryLog:
    log = MemoryLog()
    log.write(Append(written(items)))
    return log


async def bring_all_back(
    installation: Installation, unparker: Unparker, projectors: Sequence[Projector], skip: set[int]
) -> None:
    """Retry what is parked, or skip the event at fault where it is to be skipped."""
    by_name = {projector.name: projector for projector in projectors}
    for _ in range(len(skip) + 1):
        for each in parked(installation.engine):
            partition = installation.way.partition(each.workspace_id)
            place = Place(by_name[each.projector], each.workspace_id, partition)
            skipped = each.position if each.position in skip else None
            await unparker.bring_back(place, skipped=skipped)


# Whatever the poison.


sizes = st.sampled_from([1, 7, 500])
checked = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


@checked
@given(items=logs(), size=sizes)
def test_workspaces_without_poison_are_as_if_there_were_none(
    installation: Installation, items: list[Item], size: int
) -> None:
    with closing(filled(items)) as log:
        emptied(installation.engine)
        asyncio.run(installation.way.follow(log, installation.engine, FUSSY, size))
        rows = asyncio.run(log.all(after=0, limit=len(items)))
    expected(installation.other, rows, at(items, *POISONS))
    ill = {workspace_id for workspace_id, item in items if isinstance(item, str)}
    event(f"{len(ill)} workspaces are ill")
    for workspace_id in set(WORKSPACES) - ill:
        assert of(installation.engine, workspace_id) == of(installation.other, workspace_id)
    assert slices(installation.engine) == at_fault(items)


def at_fault(items: Sequence[Item]) -> list[tuple[str, WorkspaceId, int]]:
    """Tell by the tags of the rows who is to be parked for whom, and where."""
    first: dict[tuple[str, WorkspaceId], int] = {}
    for position in sorted(at(items, *POISONS)):
        row = written(items)[position - 1]
        for projector in PROJECTORS:
            folded = {kind.tag() for kind in projector.folds}
            if row.tag in folded or row.tag not in EVENT_TYPES:
                first.setdefault((projector.name, WorkspaceId(row.workspace_id)), position)
    return sorted((name, workspace_id, at) for (name, workspace_id), at in first.items())


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        ("bytes", "CannotDecode: "),
        ("type", "CannotDecode: agent_moulted at 1: "),
        ("version", "CannotDecode: agent_tagged at 1: Schema version 2 is newer"),
        ("upcaster", "CannotDecode: agent_labelled at 1: AttributeError: nobody thought of this"),
        ("projector", "ValueError: cannot bear this"),
    ],
)
def test_the_reason_is_kept(folder: Folder, poison: Poison, reason: str) -> None:
    with closing(filled([(WORKSPACES[0], poison)])) as log:
        asyncio.run(Embedded().follow(log, folder.engine, FUSSY, 1))
    found = parked(folder.engine)
    assert found[0].projector == "agents"
    assert {each.error.startswith(reason) for each in found} == {True}


class Means(NamedTuple):
    """What an operator has to bring workspaces back with."""

    codec: Codec
    projectors: tuple[Projector, ...]
    skip: set[int]


def check_brought_back(
    installation: Installation, items: list[Item], size: int, means: Means
) -> None:
    """See that all is as if what is skipped had never been, and the rest never been wrong."""
    with closing(filled(items)) as log:
        emptied(installation.engine)
        unparker = Unparker(log, installation.engine, means.codec)
        asyncio.run(installation.way.follow(log, installation.engine, FUSSY, size))
        asyncio.run(bring_all_back(installation, unparker, means.projectors, means.skip))
        rows = asyncio.run(log.all(after=0, limit=len(items)))
    assert parked(installation.engine) == []
    assert hashes(installation.engine) == expected(installation.other, rows, means.skip)


@checked
@given(items=logs(), size=sizes)
def test_after_all_poison_is_skipped_it_is_as_if_it_had_never_been(
    installation: Installation, items: list[Item], size: int
) -> None:
    means = Means(codec(BROKEN), FUSSY, at(items, *POISONS))
    check_brought_back(installation, items, size, means)


@checked
@given(items=logs(), size=sizes)
def test_after_the_mend_it_is_as_if_nothing_had_ever_been_wrong(
    installation: Installation, items: list[Item], size: int
) -> None:
    means = Means(codec(MENDED), PROJECTORS, at(items, "bytes"))
    check_brought_back(installation, items, size, means)


@checked
@given(items=logs(), size=sizes)
def test_a_rebuild_parks_whom_following_the_log_parks(
    folder: Folder, items: list[Item], size: int
) -> None:
    emptied(folder.engine)
    with closing(filled(items)) as log:
        asyncio.run(Embedded().follow(log, folder.engine, FUSSY, size))
        before = hashes(folder.engine), slices(folder.engine)
        store = EventStore(log, Vault(), codec(BROKEN))
        for projector in FUSSY:
            asyncio.run(rebuild(store, folder.engine, projector))
        assert (hashes(folder.engine), slices(folder.engine)) == before


def slices(engine: Engine) -> list[tuple[str, WorkspaceId, int]]:
    return [each[:3] for each in parked(engine)]


# What one such event does to an installation that serves.


async def test_an_installation_serves_on_beside_an_event_that_nobody_can_read(
    tmp_path: Path, quiet: list[MutableMapping[str, Any]]
) -> None:
    async with serving(tmp_path, tenants=2) as served:
        ill, well = served.tenants
        await ill.agent("Ada")
        stream_id = AGENT.stream_id(ill.workspace_id, 1)
        row = NewRow(stream_id, 1, "agent_moulted", b"\xff", ill.workspace_id)
        with closing(SqliteLog(tmp_path / "events.db")) as log:
            await asyncio.to_thread(log.write, Append([row]))
        client = served.client()

        async def is_degraded() -> bool:
            return bool((await client.get("/health")).json()["status"] == "degraded")

        await until(is_degraded)
        health = await client.get("/health")
        assert (health.status_code, health.json()["components"]["read_models"]) == (200, "degraded")
        assert health.json()["parked"] == {projector.name: 1 for projector in PROJECTORS}
        assert str(ill.workspace_id) not in health.text
        assert (await client.get("/health/ready")).status_code == 200
        made = await well.agent("Grace")
        assert (await well.http.get(f"/api/agents/{made['id']}")).json()["name"] == "Grace"
        alerts = [log for log in quiet if log["log_level"] == "error"]
        assert sorted(log["projector"] for log in alerts) == sorted(health.json()["parked"])

        # As `automatos projector skip` does, beside the server.
        for each in parked(served.installation.engine):
            place = Place(named(each.projector), each.workspace_id, 0)
            store = served.installation.writing.store
            skipping = bring_back(
                store.log, served.installation.engine, place, skipped=each.position
            )
            assert await skipping is None

        async def is_healthy() -> bool:
            return bool((await client.get("/health")).json()["status"] == "healthy")

        await until(is_healthy)


def named(name: str) -> Projector:
    return next(projector for projector in PROJECTORS if projector.name == name)


async def test_a_projector_process_tries_a_parked_workspace_again(tmp_path: Path) -> None:
    now, fussy = [0.0], Fussy()
    with closing(filled([(WORKSPACES[0], "projector")])) as log, in_file_of(tmp_path) as engine:
        taking = Intake(log, codec({}), Applier(engine, [fussy], clock=lambda: now[0]), 1)
        await taking.begin(0)
        await taking.catch_up([0], 1)
        taking.end(0)
        await taking.begin(0)
        for pause_s in RETRY_AFTER_S:
            [found] = parked(engine)
            await taking.try_again()
            assert parked(engine) == [found]
            now[0] += pause_s
            await taking.try_again()
            assert parked(engine) == [found._replace(tries_left=found.tries_left - 1)]
        taking.close()


@contextmanager
def in_file_of(folder: Path) -> Generator[Engine]:
    engine = in_file(folder)
    yield engine
    engine.dispose()
