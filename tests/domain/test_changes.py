"""Partial changes: what is not set stays, what is the same is no change."""

from functools import reduce
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.agents import AgentChanges, AgentProfile
from domain.changes import DEPTH_MAX, alike, applied, differences, differing

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


# Differences.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("a/~", max_size=2), inner),
    max_leaves=12,
)


@given(JSON, JSON)
def test_what_differs_makes_the_one_of_the_other(before: object, after: object) -> None:
    holder = {"": before}
    for difference in differences(before, after):
        *path, last = [
            part.replace("~1", "/").replace("~0", "~") for part in difference.path.split("/")
        ]
        place = reduce(lambda at, key: at[key], path, cast("dict[str, Any]", holder))
        if difference.op == "add":
            assert last not in place
        else:
            assert alike(place[last], difference.was)
        if difference.op == "remove":
            del place[last]
        else:
            place[last] = difference.value
    assert alike(holder[""], after)


@given(JSON)
def test_what_is_alike_differs_in_nothing(value: object) -> None:
    assert differences(value, value) == []


def test_what_lies_too_deep_is_compared_whole() -> None:
    def nested(leaf: int) -> object:
        return reduce(lambda inner, _: {"a": inner}, range(DEPTH_MAX + 1), cast("object", leaf))

    (difference,) = differences(nested(1), nested(2))
    assert difference.path == "/a" * DEPTH_MAX
    assert (difference.was, difference.value) == ({"a": 1}, {"a": 2})
