"""The rules of agents."""

import msgspec
import pytest

from domain import agents
from domain.agents import (
    AGENT,
    AgentActivated,
    AgentArchived,
    AgentChanged,
    AgentChanges,
    AgentDeactivated,
    AgentId,
    AgentModelConfigured,
    AgentProfile,
    AgentRegistered,
    AgentRolledBack,
    AgentStatus,
    AgentTagged,
    Archived,
    ModelConfig,
    Registered,
    Unregistered,
    normalized_tags,
)
from domain.errors import AgentIsArchived, AlreadyExists, NotFound
from tests.given import given

ADA = AgentId(1)
PROFILE = AgentProfile(name="Ada", configuration={"depth": 2}, tags=("Dev",))
REGISTERED = AgentRegistered(agent_id=ADA, profile=PROFILE)
ARCHIVED = AgentArchived(agent_id=ADA)
SMALL = ModelConfig(provider="openai", model_id="small")


def profile_after(*events: agents.AgentEvent) -> AgentProfile:
    state = AGENT.fold((REGISTERED, *events))
    assert isinstance(state, Registered)
    return state.profile


# Registering.


def test_an_agent_is_registered_with_its_profile() -> None:
    given(AGENT).when(agents.register, agent_id=ADA, profile=PROFILE).then(REGISTERED)


def test_registering_the_same_agent_again_records_nothing() -> None:
    given(AGENT, REGISTERED).when(agents.register, agent_id=ADA, profile=PROFILE).then_nothing()


@pytest.mark.parametrize("later", [AgentTagged(agent_id=ADA, tags=()), ARCHIVED])
def test_an_id_is_never_used_for_another_agent(later: agents.AgentEvent) -> None:
    given(AGENT, REGISTERED, later).when(
        agents.register, agent_id=ADA, profile=PROFILE
    ).then_refused(AlreadyExists)


def test_tags_move_out_of_a_new_agents_configuration() -> None:
    asked = AgentProfile(name="Ada", configuration={"depth": 2, "tags": "Dev, dev"})
    given(AGENT).when(agents.register, agent_id=ADA, profile=asked).then(REGISTERED)


def test_tags_of_a_new_agent_win_over_those_in_its_configuration() -> None:
    asked = AgentProfile(name="Ada", configuration={"depth": 2, "tags": ["Ops"]}, tags=("Dev",))
    given(AGENT).when(agents.register, agent_id=ADA, profile=asked).then(REGISTERED)


# Changing.


def test_only_what_differs_is_recorded_as_changed() -> None:
    changes = AgentChanges(name="Ada", description="Reviews", agent_type="custom")
    given(AGENT, REGISTERED).when(agents.change, agent_id=ADA, changes=changes).then(
        AgentChanged(agent_id=ADA, changes=AgentChanges(description="Reviews"))
    )


def test_changing_nothing_records_nothing() -> None:
    changes = AgentChanges(name="Ada", configuration={"depth": 2})
    given(AGENT, REGISTERED).when(agents.change, agent_id=ADA, changes=changes).then_nothing()


def test_a_configuration_is_merged_key_by_key() -> None:
    changes = AgentChanges(configuration={"width": 3})
    given(AGENT, REGISTERED).when(agents.change, agent_id=ADA, changes=changes).then(
        AgentChanged(agent_id=ADA, changes=AgentChanges(configuration={"depth": 2, "width": 3}))
    )


def test_tags_in_a_changed_configuration_become_the_agents() -> None:
    changes = AgentChanges(configuration={"tags": "Ops"})
    given(AGENT, REGISTERED).when(agents.change, agent_id=ADA, changes=changes).then(
        AgentTagged(agent_id=ADA, tags=("Ops",))
    )


def test_a_description_can_be_taken_away() -> None:
    described = AgentChanged(agent_id=ADA, changes=AgentChanges(description="Reviews"))
    taken = AgentChanged(agent_id=ADA, changes=AgentChanges(description=None))
    given(AGENT, REGISTERED, described).when(
        agents.change, agent_id=ADA, changes=taken.changes
    ).then(taken)
    assert profile_after(described, taken) == PROFILE


def test_tags_are_tidied_and_recorded_when_they_differ() -> None:
    given(AGENT, REGISTERED).when(agents.tag, agent_id=ADA, tags="Ops, ops ,Dev").then(
        AgentTagged(agent_id=ADA, tags=("Ops", "Dev"))
    )
    given(AGENT, REGISTERED).when(agents.tag, agent_id=ADA, tags=[" Dev,"]).then_nothing()


def test_a_model_is_configured_once_and_can_be_taken_away() -> None:
    configured = AgentModelConfigured(agent_id=ADA, model=SMALL)
    given(AGENT, REGISTERED).when(agents.configure_model, agent_id=ADA, model=SMALL).then(
        configured
    )
    given(AGENT, REGISTERED, configured).when(
        agents.configure_model, agent_id=ADA, model=SMALL
    ).then_nothing()
    given(AGENT, REGISTERED, configured).when(
        agents.configure_model, agent_id=ADA, model=None
    ).then(AgentModelConfigured(agent_id=ADA, model=None))


@pytest.mark.parametrize(
    ("status", "event"),
    [
        ("inactive", AgentDeactivated(agent_id=ADA)),
        ("training", AgentDeactivated(agent_id=ADA, training=True)),
    ],
)
def test_an_agent_is_taken_out_of_service_and_put_back(
    status: AgentStatus, event: AgentDeactivated
) -> None:
    given(AGENT, REGISTERED).when(agents.set_status, agent_id=ADA, status=status).then(event)
    given(AGENT, REGISTERED, event).when(
        agents.set_status, agent_id=ADA, status=status
    ).then_nothing()
    given(AGENT, REGISTERED, event).when(agents.set_status, agent_id=ADA, status="active").then(
        AgentActivated(agent_id=ADA)
    )


# Archiving.


def test_an_agent_is_archived_once() -> None:
    given(AGENT, REGISTERED).when(agents.archive, agent_id=ADA, reason="old").then(
        AgentArchived(agent_id=ADA, reason="old")
    )
    given(AGENT, REGISTERED, ARCHIVED).when(
        agents.archive, agent_id=ADA, reason="again"
    ).then_nothing()


def test_an_agent_that_never_was_cannot_be_archived() -> None:
    given(AGENT).when(agents.archive, agent_id=ADA, reason="").then_refused(NotFound)


def test_only_a_registered_agent_can_work() -> None:
    assert agents.registered(AGENT.fold([REGISTERED]), ADA).profile == PROFILE
    with pytest.raises(NotFound) as missing:
        agents.registered(AGENT.initial, ADA)
    assert (missing.value.kind, missing.value.identifier) == ("Agent", "1")
    with pytest.raises(AgentIsArchived) as archived:
        agents.registered(AGENT.fold([REGISTERED, ARCHIVED]), ADA, pointer="/steps/0/agent_id")
    assert archived.value.agent_id == ADA
    assert archived.value.pointer == "/steps/0/agent_id"


# What the events say.


def test_every_change_shows_in_the_profile() -> None:
    changed = AgentChanged(agent_id=ADA, changes=AgentChanges(system_prompt="Be kind"))
    assert profile_after(
        changed,
        AgentTagged(agent_id=ADA, tags=("Ops",)),
        AgentModelConfigured(agent_id=ADA, model=SMALL),
        AgentDeactivated(agent_id=ADA),
    ) == msgspec.structs.replace(
        PROFILE, system_prompt="Be kind", tags=("Ops",), model=SMALL, status="inactive"
    )
    assert profile_after(AgentDeactivated(agent_id=ADA, training=True)).status == "training"
    assert profile_after(AgentDeactivated(agent_id=ADA), AgentActivated(agent_id=ADA)) == PROFILE


def test_an_archived_agent_keeps_its_name_and_changes_no_more() -> None:
    tagged = AgentTagged(agent_id=ADA, tags=("Ops",))
    assert AGENT.fold([REGISTERED, ARCHIVED, tagged]) == Archived(ADA, "Ada")
    assert AGENT.fold([ARCHIVED]) == Archived(ADA, "")
    assert AGENT.fold([tagged]) == Unregistered()


# Tags and prompt.


@pytest.mark.parametrize(
    ("given_tags", "kept"),
    [
        (["a, B", "b", 3, "C "], ("a", "B", "C")),
        ("Dev, dev , Ops,,ops", ("Dev", "Ops")),
        (("Straße", "STRASSE"), ("Straße",)),
        ({"one"}, ("one",)),
        ("", ()),
        (" , ,", ()),
        (None, ()),
        (7, ()),
        ({"a": "b"}, ()),
    ],
)
def test_tags_are_split_trimmed_and_kept_once(given_tags: object, kept: tuple[str, ...]) -> None:
    assert normalized_tags(given_tags) == kept


def test_a_model_is_told_who_it_is_before_its_own_prompt() -> None:
    profile = AgentProfile(name="Ada", description="Reads logs.", system_prompt="Be short.")
    assert agents.system_prompt(profile) == (
        "You are Ada, an agent of type custom.\n\nReads logs.\n\nBe short."
    )
    assert agents.system_prompt(AgentProfile(name="Ada")) == "You are Ada, an agent of type custom."


# Rolling back.


def test_a_rollback_makes_an_agent_what_it_was_but_leaves_it_in_or_out_of_service() -> None:
    changed = AgentChanged(agent_id=ADA, changes=AgentChanges(name="Eve"))
    deactivated = AgentDeactivated(agent_id=ADA)
    back = AgentRolledBack(
        agent_id=ADA, version=1, profile=msgspec.structs.replace(PROFILE, status="inactive")
    )
    then = AGENT.fold([REGISTERED])
    given(AGENT, REGISTERED, changed, deactivated).when(
        agents.roll_back, agent_id=ADA, version=1, then=then
    ).then(back)
    assert profile_after(changed, deactivated, back) == back.profile


def test_a_rollback_to_what_an_agent_is_records_nothing() -> None:
    given(AGENT, REGISTERED).when(
        agents.roll_back, agent_id=ADA, version=1, then=AGENT.fold([REGISTERED])
    ).then_nothing()


def test_a_rollback_tells_json_apart_that_python_takes_for_equal() -> None:
    changes = AgentChanges(configuration={"depth": 2.0})
    changed = AgentChanged(agent_id=ADA, changes=changes)
    given(AGENT, REGISTERED, changed).when(
        agents.roll_back, agent_id=ADA, version=1, then=AGENT.fold([REGISTERED])
    ).then(AgentRolledBack(agent_id=ADA, version=1, profile=PROFILE))


def test_there_is_no_rollback_to_a_version_that_never_was() -> None:
    given(AGENT, REGISTERED).when(
        agents.roll_back, agent_id=ADA, version=7, then=Unregistered()
    ).then_refused(NotFound)


def test_an_archived_agent_is_not_rolled_back() -> None:
    given(AGENT, REGISTERED, ARCHIVED).when(
        agents.roll_back, agent_id=ADA, version=1, then=AGENT.fold([REGISTERED])
    ).then_refused(AgentIsArchived)


def test_a_rollback_of_an_agent_that_never_was_is_read_over() -> None:
    back = AgentRolledBack(agent_id=ADA, version=1, profile=PROFILE)
    assert AGENT.fold([back]) == Unregistered()
