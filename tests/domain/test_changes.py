"""Partial changes: what is not set stays, what is the same is no change."""

import pytest

from domain.agents import AgentChanges, AgentProfile
from domain.changes import applied, differing

KNOWN = AgentProfile(name="Ada", description="Reads", configuration={"a": 1, "b": {"c": 2}})


def test_what_is_not_set_stays() -> None:
    assert applied(KNOWN, AgentChanges()) == KNOWN
    assert applied(KNOWN, AgentChanges(name="Bob")) == AgentProfile(
        name="Bob", description="Reads", configuration=KNOWN.configuration
    )


def test_setting_to_nothing_is_not_leaving_it() -> None:
    assert applied(KNOWN, AgentChanges(description=None)).description is None


def test_what_is_the_same_is_no_change() -> None:
    changes = AgentChanges(name="Ada", description=None, configuration={"b": {"c": 2}, "a": 1})
    assert differing(changes, KNOWN) == AgentChanges(description=None)


@pytest.mark.parametrize("value", [True, 1.0])
def test_json_that_python_takes_for_equal_is_a_change_all_the_same(value: object) -> None:
    configuration: dict[str, object] = {"a": value, "b": {"c": 2}}
    kept = differing(AgentChanges(configuration=configuration), KNOWN)
    assert repr(kept.configuration) == repr(configuration)
