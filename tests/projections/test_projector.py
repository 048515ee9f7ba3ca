"""Exactly once: rows and checkpoint move together, whatever the batches, however often."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, inspect, select

from domain.agents import AgentId, AgentProfile, AgentRegistered, AgentTagged
from domain.catalog import AnyEvent
from domain.events import Recorded
from infra.composition import PROJECTORS as COMPOSED
from infra.read_store import LAST_LAP_MAX, rebuild
from projections.agents import AgentsProjector, agents
from projections.projector import (
    Batch,
    Projector,
    checkpoint,
    checkpoints,
    move_checkpoint,
    parked_slices,
    project,
)
from projections.rows import READ_MODELS, folded_tags, micros, moment
from tests.projections.tables import PROJECTORS, database, digests, projected
from tests.strategies import START, logs, moments, recorded

ADA = AgentId(1)
REGISTERED = AgentRegistered(agent_id=ADA, profile=AgentProfile(name="Ada"))
AGENTS = AgentsProjector()


class KeptLog:
    """A log in memory, at the port through which a rebuild reads one."""

    def __init__(self, events: Sequence[Recorded[Any]]) -> None:
        self._events = events

    async def read_all(self, *, after: int, limit: int) -> list[Recorded[Any]]:
        return [each for each in self._events if each.global_position > after][:limit]

    async def head(self) -> int:
        return self._events[-1].global_position if self._events else 0


def follow(engine: Engine, log: Sequence[Recorded[AnyEvent]], size: int) -> None:
    for at in range(0, len(log), size):
        for projector in PROJECTORS:
            with engine.begin() as connection:
                project(connection, projector, log[at : at + size])


def read(engine: Engine) -> dict[str, str]:
    with engine.begin() as connection:
        return digests(connection)


def rebuild_all(engine: Engine, log: Sequence[Recorded[Any]]) -> None:
    for projector in PROJECTORS:
        asyncio.run(rebuild(KeptLog(log), engine, projector))


def test_every_projector_and_every_table_is_tried_here() -> None:
    assert [type(each) for each in PROJECTORS] == [type(each) for each in COMPOSED]
    tables = {table for projector in PROJECTORS for table in projector.tables}
    assert tables | {checkpoints, parked_slices} == set(READ_MODELS.tables.values())


@settings(max_examples=50)
@given(logs())
def test_the_size_of_a_batch_makes_no_difference(log: list[Recorded[AnyEvent]]) -> None:
    with projected(log) as connection:
        at_once = digests(connection)
    for size in (1, 7):
        with database() as engine:
            follow(engine, log, size)
            assert read(engine) == at_once


@settings(max_examples=50)
@given(logs(), st.integers(1, 7))
def test_events_that_come_again_change_nothing(log: list[Recorded[AnyEvent]], size: int) -> None:
    with projected(log) as connection:
        once = digests(connection)
    with database() as engine:
        for end in range(len(log) + 1):
            follow(engine, log[max(0, end - size) : end], size)
        follow(engine, log, 500)
        assert read(engine) == once


@settings(max_examples=50)
@given(logs())
def test_a_rebuild_gives_the_same_rows(log: list[Recorded[AnyEvent]]) -> None:
    with database() as engine:
        follow(engine, log, 500)
        followed = read(engine)
        rebuild_all(engine, log)
        assert read(engine) == followed


def test_a_rebuild_of_a_long_log_mends_rows_and_leaves_the_checkpoint_at_its_end() -> None:
    tagged = [AgentTagged(agent_id=ADA, tags=(f"{n}",)) for n in range(2 * LAST_LAP_MAX)]
    log = recorded(REGISTERED, *tagged)
    with database() as engine:
        follow(engine, log, 500)
        followed = read(engine)
        with engine.begin() as connection:
            connection.execute(agents.update().values(name="damaged"))
        rebuild_all(engine, log)
        assert read(engine) == followed
        with engine.begin() as connection:
            assert {checkpoint(connection, each.name) for each in PROJECTORS} == {len(log)}
        assert {index["name"] for index in inspect(engine).get_indexes("agents")} == {
            "agents_by_state"
        }


@pytest.mark.parametrize("projector", PROJECTORS, ids=lambda each: each.name)
@given(log=logs(max_size=4))
def test_no_event_however_odd_stops_a_projector(
    projector: Projector, log: list[Recorded[AnyEvent]]
) -> None:
    """A change of what was never registered, a step of no run: such events are passed over."""
    with database() as engine, engine.begin() as connection:
        assert project(connection, projector, log) == len(log)


def test_what_the_checkpoint_has_passed_is_skipped() -> None:
    log = recorded(REGISTERED, AgentTagged(agent_id=ADA, tags=("Dev",)))
    with database() as engine, engine.begin() as connection:
        assert checkpoint(connection, AGENTS.name) == 0
        move_checkpoint(connection, AGENTS.name, 1)
        assert project(connection, AGENTS, log) == 2
        assert connection.execute(select(agents)).all() == []
        assert project(connection, AGENTS, log) == 2
        assert checkpoint(connection, AGENTS.name) == 2


def test_projectors_and_partitions_have_checkpoints_of_their_own() -> None:
    with database() as engine, engine.begin() as connection:
        move_checkpoint(connection, "agents", 5)
        move_checkpoint(connection, "agents", 7, partition=1)
        assert checkpoint(connection, "agents") == 5
        assert checkpoint(connection, "agents", 1) == 7
        assert checkpoint(connection, "usage") == 0


class DiskIsFull(Exception):
    pass


class Failing(AgentsProjector):
    def project(self, recorded: Recorded[AnyEvent], batch: Batch) -> None:
        super().project(recorded, batch)
        batch.flush()
        if recorded.global_position == 2:
            raise DiskIsFull


def test_a_batch_that_fails_leaves_neither_rows_nor_checkpoint() -> None:
    log = recorded(REGISTERED, AgentTagged(agent_id=ADA, tags=()))
    with database() as engine:
        with pytest.raises(DiskIsFull), engine.begin() as connection:
            project(connection, Failing(), log)
        with engine.begin() as connection:
            assert connection.execute(select(agents)).all() == []
            assert checkpoint(connection, AGENTS.name) == 0


def test_a_row_deleted_and_put_again_in_one_batch_is_there() -> None:
    row = {"projector": "p", "partition": 0, "global_position": 3}
    with database() as engine, engine.begin() as connection:
        rows = Batch(connection).rows(checkpoints)
        rows.put(row)
        rows.flush()
        rows.delete("p", 0)
        assert rows.get("p", 0) is None
        rows.put(row | {"global_position": 4})
        rows.flush()
        assert checkpoint(connection, "p") == 4
        rows.delete("p", 0)
        rows.flush()
        assert checkpoint(connection, "p") == 0


@given(moments)
def test_a_moment_is_kept_to_the_microsecond(at: Any) -> None:
    assert moment(micros(at)) == at
    assert micros(START) == 1_769_903_940_000_000


@given(st.lists(st.text(max_size=3), max_size=4), st.text(max_size=3))
def test_a_tag_is_found_among_others_only_if_it_is_one_of_them(tags: list[str], tag: str) -> None:
    among = folded_tags((tag,)) in folded_tags(tuple(tags))
    assert among == (tag.casefold() in {other.casefold() for other in tags})
