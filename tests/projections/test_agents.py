"""Agents as they are now: lists, filters, counts and names."""

from datetime import timedelta
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.agents import (
    AGENT,
    AgentArchived,
    AgentChanged,
    AgentChanges,
    AgentDeactivated,
    AgentEvent,
    AgentId,
    AgentModelConfigured,
    AgentProfile,
    AgentRegistered,
    AgentSource,
    AgentTagged,
    ModelConfig,
    Registered,
)
from domain.events import Recorded
from projections.agents import (
    AgentFilter,
    AgentRow,
    agent,
    agent_counts,
    agent_names,
    agent_page,
)
from tests.projections.tables import projected
from tests.strategies import START, WORKSPACES, events_of, made, recorded

ACME, GLOBEX = WORKSPACES
ADA, BOB, EVE = AgentId(1), AgentId(2), AgentId(3)
PROFILES = {
    ADA: AgentProfile(name="Ada", description="Liest Straßenkarten", tags=("Dev", "ops")),
    BOB: AgentProfile(name="50%_off\\Bob", agent_type="data_analyst", tags=('say "hi"',)),
    EVE: AgentProfile(name="Ève", status="training", agent_type="data_analyst"),
}
REGISTERED = [AgentRegistered(agent_id=a, profile=p) for a, p in PROFILES.items()]


def found(wanted: AgentFilter, *events: AgentEvent, skip: int = 0, limit: int = 9) -> list[str]:
    with projected(recorded(*REGISTERED, *events)) as connection:
        rows, total = agent_page(connection, ACME, wanted, skip=skip, limit=limit)
    assert total == len(rows) or (skip, limit) != (0, 9)
    return [row.profile.name for row in rows]


def ids(wanted: AgentFilter) -> set[int]:
    with projected(recorded(*REGISTERED)) as connection:
        return {row.agent_id for row in agent_page(connection, ACME, wanted, skip=0, limit=9)[0]}


def test_an_agent_is_shown_as_it_was_registered() -> None:
    profile = AgentProfile(
        name="Ada",
        description="Reads",
        configuration={"b": [1, {"c": None}], "a": True},
        tags=("Dev",),
        model=ModelConfig(provider="openai", model_id="small", temperature=0.25),
        system_prompt="Be short",
        source=AgentSource(format="md", key="k", path="p", digest="d", tools=("Bash",)),
    )
    log = recorded(AgentRegistered(agent_id=ADA, profile=profile), actor="key:k9")
    with projected(log) as connection:
        assert agent(connection, ACME, ADA) == AgentRow(
            agent_id=ADA,
            profile=profile,
            archived=False,
            created_at=START,
            updated_at=START,
            created_by="key:k9",
            version=1,
        )


def test_a_change_moves_the_version_and_the_time_of_the_last_update() -> None:
    changed = AgentChanged(agent_id=ADA, changes=AgentChanges(name="Ada L."))
    with projected(recorded(REGISTERED[0], changed)) as connection:
        row = agent(connection, ACME, ADA)
    assert row is not None
    assert (row.profile.name, row.version) == ("Ada L.", 2)
    assert (row.created_at, row.updated_at) == (START, START + timedelta(seconds=1))


@given(st.lists(events_of(AgentEvent), max_size=10), made(AgentRegistered))
def test_an_agent_is_shown_as_its_events_make_it(
    events: list[Any], registered: AgentRegistered
) -> None:
    history = [event for event in [registered, *events] if event.agent_id == registered.agent_id]
    history = list(takewhile(lambda event: not isinstance(event, AgentArchived), history))
    state = AGENT.fold(history)
    with projected(recorded(*history)) as connection:
        row = agent(connection, ACME, registered.agent_id)
    assert isinstance(state, Registered)
    assert row is not None
    assert (row.profile, row.version) == (state.profile, len(history))


# Lists.


def test_the_newest_agents_come_first() -> None:
    assert found(AgentFilter()) == ["Ève", "50%_off\\Bob", "Ada"]


def test_a_page_is_a_part_of_the_list_and_knows_its_whole() -> None:
    with projected(recorded(*REGISTERED)) as connection:
        rows, total = agent_page(connection, ACME, AgentFilter(), skip=1, limit=1)
        beyond = agent_page(connection, ACME, AgentFilter(), skip=3, limit=1)
    assert ([row.agent_id for row in rows], total) == ([BOB], 3)
    assert beyond == ([], 3)


@pytest.mark.parametrize(
    ("search", "agents_found"),
    [
        ("ADA", {ADA}),
        ("STRASSEN", {ADA}),
        ("ÈVE", {EVE}),
        ("%", {BOB}),
        ("0%_O", {BOB}),
        ("_", {BOB}),
        ("a_a", set()),
        ("f\\b", {BOB}),
        ("/", set()),
        ("", {ADA, BOB, EVE}),
        ("nobody", set()),
    ],
)
def test_a_search_finds_its_very_text_in_name_or_description_in_any_case(
    search: str, agents_found: set[AgentId]
) -> None:
    assert ids(AgentFilter(search=search)) == agents_found


@pytest.mark.parametrize(
    ("tag", "agents_found"),
    [
        ("dev", {ADA}),
        ("OPS", {ADA}),
        ("de", set()),
        (",", set()),
        ('SAY "HI"', {BOB}),
        ("hi", set()),
        ("%", set()),
    ],
)
def test_a_tag_is_found_whole_and_in_any_case(tag: str, agents_found: set[AgentId]) -> None:
    assert ids(AgentFilter(tag=tag)) == agents_found


def test_filters_are_met_all_at_once() -> None:
    assert ids(AgentFilter(status="training")) == {EVE}
    assert ids(AgentFilter(agent_type="data_analyst")) == {BOB, EVE}
    assert ids(AgentFilter(agent_type="data_analyst", status="active")) == {BOB}
    assert ids(AgentFilter(agent_type="data_analyst", search="ada")) == set()


def test_a_filter_sees_what_has_changed_since() -> None:
    changed = AgentChanged(agent_id=ADA, changes=AgentChanges(name="Lovelace", description=None))
    assert found(AgentFilter(search="lovelace"), changed) == ["Lovelace"]
    assert found(AgentFilter(search="strasse"), changed) == []
    tagged = AgentTagged(agent_id=ADA, tags=("QA",))
    assert found(AgentFilter(tag="qa"), tagged) == ["Ada"]
    assert found(AgentFilter(tag="dev"), tagged) == []
    assert found(AgentFilter(status="inactive"), AgentDeactivated(agent_id=ADA)) == ["Ada"]


# Archived agents, other workspaces.


def test_an_archived_agent_vanishes_from_lists_but_keeps_its_name() -> None:
    with projected(recorded(*REGISTERED, AgentArchived(agent_id=BOB))) as connection:
        assert agent(connection, ACME, BOB) is None
        rows, total = agent_page(connection, ACME, AgentFilter(), skip=0, limit=9)
        assert ([row.agent_id for row in rows], total) == ([EVE, ADA], 2)
        assert agent_names(connection, ACME, [ADA, BOB]) == {ADA: "Ada", BOB: "50%_off\\Bob"}
        assert agent_counts(connection, ACME).by_type == {"custom": 1, "data_analyst": 1}


def test_agents_are_counted_by_type_and_by_whether_they_are_active() -> None:
    with projected(recorded(*REGISTERED)) as connection:
        counts = agent_counts(connection, ACME)
    assert (counts.total, counts.active) == (3, 2)
    assert counts.by_type == {"custom": 1, "data_analyst": 2}


def test_workspaces_never_see_each_others_agents() -> None:
    theirs = AgentRegistered(agent_id=ADA, profile=AgentProfile(name="Theirs"))
    configured = AgentModelConfigured(agent_id=BOB, model=None)
    log: list[Recorded[Any]] = [
        *recorded(*REGISTERED),
        *recorded(theirs, configured, workspace_id=GLOBEX, after=len(REGISTERED)),
    ]
    with projected(log) as connection:
        names = {w: agent_names(connection, w, [ADA, BOB, EVE]) for w in WORKSPACES}
        rows, total = agent_page(connection, GLOBEX, AgentFilter(), skip=0, limit=9)
        assert agent(connection, GLOBEX, BOB) is None
        assert agent_counts(connection, GLOBEX).total == 1
    assert names == {ACME: {a: p.name for a, p in PROFILES.items()}, GLOBEX: {ADA: "Theirs"}}
    assert ([row.profile.name for row in rows], total) == (["Theirs"], 1)
