"""Applying events to read models, in either database: exactly once, and past what is broken."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Connection, Engine, create_engine, select

from domain.agents import AgentId, AgentProfile, AgentRegistered, AgentTagged
from domain.catalog import AnyEvent
from domain.events import Recorded, WorkspaceId
from infra.event_store.codec import Codec, Stored
from infra.event_store.unreadable import readable
from infra.parking import parked
from infra.postgres.connections import sqlalchemy_url
from infra.projecting import Applier, PartitionLost, Slice
from infra.vault import Vault
from projections.agents import AgentsProjector, agents
from projections.projector import checkpoint, project_all
from tests.projecting import Diary, emptied, hashes, in_file, in_postgres
from tests.projections.tables import PROJECTORS
from tests.strategies import logs, recorded

pytestmark = pytest.mark.usefixtures("quiet")

ACME, GLOBEX = WorkspaceId("acme"), WorkspaceId("globex")


def named(name: str, number: int = 1) -> AgentRegistered:
    return AgentRegistered(agent_id=AgentId(number), profile=AgentProfile(name=name))


def two_workspaces(*names: str) -> list[Recorded[Any]]:
    """Register agents in two workspaces by turns."""
    events: list[Recorded[Any]] = []
    for name in names:
        for workspace_id in (ACME, GLOBEX):
            after = len(events)
            spelt = f"{workspace_id} {name}"
            events += recorded(named(spelt, after), workspace_id=workspace_id, after=after)
    return events


def noted(engine: Engine) -> list[tuple[str, int]]:
    with engine.begin() as connection:
        found = select(Diary.table.c.workspace_id, Diary.table.c.position)
        return [tuple(row) for row in connection.execute(found.order_by(Diary.table.c.position))]


def test_a_poison_event_parks_its_workspace_for_its_projector_alone(engine: Engine) -> None:
    applier = Applier(engine, [Diary(poison="acme b"), AgentsProjector()])
    passed = applier.apply(Slice(two_workspaces("a", "b", "c")))
    assert {name: each.position for name, each in passed.items()} == {"diary": 6, "agents": 6}
    assert noted(engine) == [("acme", 1), ("globex", 2), ("globex", 4), ("globex", 6)]
    with engine.begin() as connection:
        assert len(connection.execute(select(agents)).all()) == 6
    [found] = parked(engine)
    assert found[:3] == ("diary", ACME, 3)
    assert found.error == "ValueError: cannot bear acme b"
    assert applier.failed == {}


def test_a_parked_workspace_is_skipped_by_whoever_comes_next(engine: Engine) -> None:
    Applier(engine, [Diary(poison="acme a")]).apply(Slice(two_workspaces("a")))
    later = recorded(named("x"), workspace_id=ACME, after=2)
    later += recorded(named("y"), workspace_id=GLOBEX, after=3)
    passed = Applier(engine, [Diary()]).apply(Slice(later))
    assert passed["diary"].position == 4
    assert passed["diary"].parked == {ACME: 1}
    assert noted(engine) == [("globex", 2), ("globex", 4)]


def test_an_event_that_nobody_can_read_parks_its_workspace_for_all(engine: Engine) -> None:
    codec = Codec(Vault())
    broken = readable(codec, Stored(2, "agent-acme+1", 1, "agent_moulted", b"\xff"))
    before, after = (
        recorded(named("a"), workspace_id=GLOBEX, after=0),
        recorded(named("b", 2), workspace_id=GLOBEX, after=2),
    )
    applier = Applier(engine, [Diary(), AgentsProjector()])
    passed = applier.apply(Slice([*before, broken, *after]))
    assert [each.position for each in passed.values()] == [3, 3]
    found = [(each.projector, each.workspace_id, each.position) for each in parked(engine)]
    assert found == [("agents", ACME, 2), ("diary", ACME, 2)]
    assert noted(engine) == [("globex", 1), ("globex", 3)]


def test_nothing_is_written_for_a_partition_that_is_lost(engine: Engine) -> None:
    def guard(_: Connection) -> None:
        raise PartitionLost

    applier = Applier(engine, [Diary(poison="acme a")])
    with pytest.raises(PartitionLost):
        applier.apply(Slice(two_workspaces("a"), guard=guard))
    assert noted(engine) == []
    assert parked(engine) == []


def test_a_projector_without_its_table_stops_and_parks_nobody(
    engine: Engine, request: pytest.FixtureRequest
) -> None:
    owner = engine
    if engine.dialect.name == "postgresql":
        owner = create_engine(sqlalchemy_url(request.getfixturevalue("postgres_url")))
    Diary.table.drop(owner)
    applier = Applier(engine, [Diary(), AgentsProjector()])
    passed = applier.apply(Slice(two_workspaces("a")))
    assert [*applier.failed] == ["diary"]
    assert passed["agents"].position == 2
    assert parked(engine) == []


def test_partitions_have_checkpoints_of_their_own(engine: Engine) -> None:
    diary = Diary()
    with engine.begin() as connection:
        project_all(connection, [diary], recorded(named("a")), 3)
        project_all(connection, [diary], [], 4, upto=9)
        assert [checkpoint(connection, "diary", n) for n in (3, 4, 5)] == [1, 9, 0]
        project_all(connection, [diary], recorded(named("a")), 4)
    assert noted(engine) == [("acme", 1)]


@pytest.fixture
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, Engine]]:
    engines = (
        in_file(request.getfixturevalue("tmp_path")),
        in_postgres(request.getfixturevalue("postgres_url")),
    )
    yield engines
    for engine in engines:
        engine.dispose()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=logs())
def test_the_same_events_give_the_same_rows_in_either_database(
    both: tuple[Engine, Engine], log: list[Recorded[AnyEvent]]
) -> None:
    for engine, size in zip(both, (7, 500), strict=True):
        emptied(engine)
        for first in range(0, len(log), size):
            with engine.begin() as connection:
                project_all(connection, PROJECTORS, log[first : first + size])
    assert hashes(both[0]) == hashes(both[1])


def test_text_that_postgresql_cannot_hold_is_replaced_in_either_database(
    both: tuple[Engine, Engine],
) -> None:
    log = [
        *recorded(named("a\0b"), AgentTagged(agent_id=AgentId(1), tags=("\0",))),
        *recorded(named("c"), workspace_id=WorkspaceId("acme\0"), after=2),
    ]
    for engine in both:
        for one in log:
            with engine.begin() as connection:
                project_all(connection, PROJECTORS, [one])
        with engine.begin() as connection:
            found = connection.execute(select(agents.c.workspace_id, agents.c.name))
            assert sorted(map(tuple, found)) == [("acme", "a\ufffdb"), ("acme\ufffd", "c")]
    assert hashes(both[0]) == hashes(both[1])
