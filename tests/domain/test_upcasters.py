"""Old shapes are brought up to date step by step."""

import pytest

from domain.events import JsonObject
from domain.upcasters import STEPS_MAX, Upcasters, upcast


def named(name: str, **fields: object) -> JsonObject:
    return {"type": name, **fields}


UPCAST: Upcasters = {
    ("agent_hired", 1): lambda body: body | {"wage": 0},
    ("agent_hired", 2): lambda body: body | {"type": "agent_registered"},
    ("agent_registered", 3): lambda body: body | {"currency": "USD"},
}


def test_an_event_in_todays_shape_is_left_alone() -> None:
    body = named("agent_registered", agent_id=1)
    assert upcast(body, 4, UPCAST) is body
    assert upcast(body, 1) is body


def test_an_old_event_goes_through_every_later_upcaster_and_may_change_its_name() -> None:
    assert upcast(named("agent_hired"), 1, UPCAST) == named(
        "agent_registered", wage=0, currency="USD"
    )
    assert upcast(named("agent_hired"), 2, UPCAST) == named("agent_registered", currency="USD")


def test_a_chain_that_goes_in_circles_is_refused() -> None:
    endless: Upcasters = {
        ("agent_hired", version): lambda body: body for version in range(STEPS_MAX + 1)
    }
    with pytest.raises(ValueError, match="agent_hired"):
        upcast(named("agent_hired"), 0, endless)
