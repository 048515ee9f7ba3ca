"""A run that is picked up after any crash: it ends, and pays for no answer twice."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.events import Event
from domain.runs import RUN, Ended, RunId, StepStarted
from domain.usage import (
    ModelCallCompleted,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallRequested,
)
from tests.commands.writing import ACME, Writing, run_stream, step
from tests.fakes import FailingLog, FakeModels, Scripted, failure

STEPS = 5
POINTS = 5 * STEPS
"""Moments at which a life can end: around both appends of each step, and in its call."""

LOOKS_MAX = 200
"""Times a run is looked at; far more than a run of five steps needs."""


class Life:
    """One process that works on a run until its power goes off.

    Args:
        points: Moments it survives; None for all of them.
    """

    def __init__(self, writing: Writing, models: FakeModels, points: int | None) -> None:
        self._left = points
        self._log = FailingLog(writing.log)
        self._log.before = self._log.after = models.on_call = self._pass
        self._side = Writing(self._log, beside=writing)
        self._models = models
        self._task: asyncio.Task[None] | None = None

    async def live(self, run_id: RunId, *, worker: str, sole: bool) -> None:
        process = self._side.process(self._models, worker=worker, sole=sole)

        async def work() -> None:
            for _ in range(LOOKS_MAX):
                due_at = await process.advance(ACME, run_stream(run_id))
                if due_at is None:
                    return
                self._side.clock.now = due_at
            raise AssertionError("The run does not end.")

        self._task = asyncio.create_task(work())
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    def _pass(self) -> None:
        if self._left is None:
            return
        if self._left == 0:
            assert self._task is not None
            self._log.dead = True
            self._task.cancel()
        self._left -= 1


class History(NamedTuple):
    events: Sequence[Event]
    calls: int

    def of(self, *kinds: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kinds)]


async def history(*lives: int, script: tuple[Scripted, ...] = (), sole: bool = True) -> History:
    """Run five steps through as many crashes as there are lives, and one life more."""
    writing = Writing()
    try:
        models = FakeModels(*script)
        steps = [
            await step(writing, f"step-{n}", "{previous.output}." if n else "Go.")
            for n in range(STEPS)
        ]
        run_id = await writing.run(*steps)
        for n, points in enumerate([*lives, None]):
            await Life(writing, models, points).live(run_id, worker=f"worker {n}", sole=sole)
        last = await Writing(beside=writing).store.load(RUN, run_stream(run_id))
        assert isinstance(last.state, Ended)
        found = [recorded.event for recorded in await writing.recorded(run_stream(run_id))]
        return History(found, models.calls)
    finally:
        writing.close()


def check_every_call_has_one_outcome(told: History) -> None:
    asked = Counter(e.call_id for e in told.events if isinstance(e, ModelCallRequested))
    outcomes = Counter(
        e.call_id
        for e in told.events
        if isinstance(e, ModelCallCompleted | ModelCallFailed | ModelCallInDoubt)
    )
    assert asked == outcomes
    assert set(asked.values()) <= {1}


def check_no_answer_is_asked_for_again(told: History) -> None:
    answered: set[int | None] = set()
    for event in told.events:
        if isinstance(event, ModelCallCompleted):
            assert event.subject.step not in answered
            answered.add(event.subject.step)
        if isinstance(event, ModelCallRequested):
            assert event.subject.step not in answered


def check_doubts_are_marked_and_repeated_once(told: History) -> None:
    """Whatever is asked after a doubt, in the same step, says what it repeats."""
    lost: dict[int | None, str] = {}
    doubts: Counter[int | None] = Counter()
    for event in told.events:
        if isinstance(event, ModelCallInDoubt):
            lost[event.subject.step] = event.call_id
            doubts[event.subject.step] += 1
        if isinstance(event, ModelCallRequested):
            assert event.repeats == lost.get(event.subject.step)
    assert all(count <= 2 for count in doubts.values())


def check(told: History) -> None:
    check_every_call_has_one_outcome(told)
    check_no_answer_is_asked_for_again(told)
    check_doubts_are_marked_and_repeated_once(told)
    assert told.calls <= len(told.of(ModelCallRequested))
    assert len(told.of(StepStarted)) == len(told.of(ModelCallRequested))
    assert told.calls >= len(told.of(ModelCallCompleted, ModelCallFailed))


@pytest.mark.parametrize("sole", [True, False], ids=["alone", "among several"])
@pytest.mark.parametrize("points", range(POINTS + 1))
async def test_one_crash_costs_at_most_one_call(points: int, *, sole: bool) -> None:
    told = await history(points, sole=sole)
    check(told)
    assert told.events[-1].tag() == "run_completed"
    assert len(told.of(ModelCallCompleted)) == STEPS
    assert STEPS <= told.calls <= STEPS + 1
    # The moments of a step: intent lost, intent kept, call cut, answer lost, answer kept.
    assert len(told.of(ModelCallInDoubt)) == int(points % 5 in {1, 2, 3} and points < POINTS)


scripts = st.lists(
    st.one_of(
        st.just("an answer"),
        st.builds(failure, retryable=st.booleans(), in_doubt=st.booleans()),
    ),
    max_size=6,
)


@given(
    lives=st.lists(st.integers(0, POINTS), max_size=6),
    script=scripts,
    sole=st.booleans(),
)
@settings(max_examples=100)
def test_a_run_ends_after_any_crashes_and_failures(
    lives: list[int], script: list[Scripted], *, sole: bool
) -> None:
    check(asyncio.run(history(*lives, script=tuple(script), sole=sole)))
