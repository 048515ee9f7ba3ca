"""Given events, when a decision is taken, then these events. No I/O, no mocks."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import pytest

from domain.errors import DomainError
from domain.events import Aggregate, Event

S = TypeVar("S")
E = TypeVar("E", bound=Event)


class Given(Generic[S, E]):
    def __init__(self, aggregate: Aggregate[S, E], *events: E) -> None:
        self._aggregate = aggregate
        self._events = events
        self._taken: Callable[[], Sequence[E]] | None = None

    def when(self, decision: Callable[..., Sequence[E]], **arguments: Any) -> "Given[S, E]":
        state = self._aggregate.fold(self._events)
        self._taken = lambda: decision(state, **arguments)
        return self

    def then(self, *expected: E) -> None:
        assert self._taken is not None
        decided = tuple(self._taken())
        assert decided == expected, f"decided {decided}"

    def then_nothing(self) -> None:
        self.then()

    def then_refused(self, error: type[DomainError], *, pointer: str | None = None) -> None:
        """Expect a refusal, and that it points at what is at fault."""
        assert self._taken is not None
        with pytest.raises(error) as refusal:
            self._taken()
        assert refusal.type is error
        assert refusal.value.pointer == pointer


given = Given
