"""The rules of runs: who may take a step, when it is tried again, and what an answer counts."""

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from domain import runs
from domain.errors import NotFound, RunIsFinished
from domain.events import Blob
from domain.runs import (
    DOUBTS_MAX,
    LEASE,
    RUN,
    CallInDoubt,
    Ended,
    Nothing,
    NotStarted,
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    Running,
    RunStatus,
    StepSkipped,
    TakeStep,
)
from domain.usage import ModelCallRequested
from tests.domain.running import (
    CALLING,
    CANCELLED,
    COMPLETED,
    DOUBTED_TWICE,
    FAILED,
    FIRST,
    NOW,
    SECOND,
    SECOND_STEP,
    STARTED,
    TEXT,
    WRITING,
    R,
    answered,
    doubted,
    failed,
    refused,
    requested,
    started,
    subject,
    succeeded,
    taken,
)
from tests.given import given


def due(*events: RunEvent, now: datetime = NOW, sole_worker: str | None = None) -> runs.Due:
    return runs.due(RUN.fold(events), now=now, sole_worker=sole_worker)


# Starting.


def test_a_run_is_started_once() -> None:
    given(RUN).when(runs.start, started=STARTED).then(STARTED)
    given(RUN, STARTED).when(runs.start, started=STARTED).then_nothing()
    given(RUN, STARTED, CANCELLED).when(runs.start, started=STARTED).then_nothing()


# What is due.


def test_a_new_runs_first_step_is_due() -> None:
    assert due(STARTED) == TakeStep(0, 1)


def test_after_a_step_the_next_one_is_due() -> None:
    assert due(*CALLING, answered("c1"), succeeded()) == TakeStep(1, 1)


@pytest.mark.parametrize("end", [COMPLETED, FAILED, CANCELLED])
def test_nothing_is_due_once_a_run_has_ended(end: RunEvent) -> None:
    assert due(STARTED, end) == Nothing()


def test_nothing_is_due_before_a_run_has_started_or_past_its_last_step() -> None:
    assert due() == Nothing()
    assert due(started(FIRST), succeeded()) == Nothing()


def test_a_leased_step_is_left_to_its_worker_until_the_lease_ends() -> None:
    until = NOW + LEASE
    assert due(*CALLING, now=until - SECOND) == Nothing(until)
    assert isinstance(due(*CALLING, now=until), CallInDoubt)


def test_the_sole_worker_takes_over_from_any_other_at_once() -> None:
    assert isinstance(due(*CALLING, sole_worker="w2"), CallInDoubt)


def test_the_sole_worker_keeps_its_own_lease() -> None:
    assert due(*CALLING, sole_worker="w1") == Nothing(NOW + LEASE)


def test_a_claim_whose_call_was_never_asked_for_is_simply_taken_again() -> None:
    assert due(STARTED, taken(), now=NOW + LEASE) == TakeStep(0, 2)


def test_a_call_left_open_is_in_doubt_before_its_step_is_taken_again() -> None:
    lost = due(*CALLING, now=NOW + LEASE)
    assert isinstance(lost, CallInDoubt)
    assert (lost.call.call_id, lost.call.subject) == ("c1", subject())
    assert due(*CALLING, doubted("c1")) == TakeStep(0, 2)


def test_a_failed_step_waits_for_its_next_try() -> None:
    at = NOW + SECOND
    waiting = (*CALLING, refused("c1"), failed(retry_at=at))
    assert due(*waiting) == Nothing(at)
    assert due(*waiting, now=at) == TakeStep(0, 2)


# Taking a step.


def begin(step: int, attempt: int, call: ModelCallRequested, worker: str = "w1") -> dict[str, Any]:
    return {"step": step, "attempt": attempt, "worker": worker, "now": NOW, "call": call}


def test_a_step_is_claimed_together_with_the_call_it_is_about_to_make() -> None:
    given(RUN, STARTED).when(runs.begin_step, **begin(0, 1, requested("c1"))).then(
        taken(), requested("c1")
    )


def test_a_lease_outlives_the_longest_call() -> None:
    assert taken().lease_until - NOW > timedelta(seconds=300)


def test_a_worker_that_lost_the_race_decides_to_nothing() -> None:
    given(RUN, *CALLING).when(
        runs.begin_step, **begin(0, 1, requested("c2"), worker="w2")
    ).then_nothing()


@pytest.mark.parametrize(("step", "attempt"), [(0, 2), (1, 1)])
def test_only_the_next_try_of_the_current_step_can_be_claimed(step: int, attempt: int) -> None:
    given(RUN, STARTED).when(
        runs.begin_step, **begin(step, attempt, requested("c1"))
    ).then_nothing()


@pytest.mark.parametrize("history", [(), (STARTED, CANCELLED), (started(FIRST), succeeded())])
def test_no_step_is_taken_where_none_is_left(history: tuple[RunEvent, ...]) -> None:
    given(RUN, *history).when(runs.begin_step, **begin(1, 1, requested("c1"))).then_nothing()
    given(RUN, *history).when(runs.fail_step, step=1, attempt=1, error="gone").then_nothing()


def test_a_repeated_call_names_the_one_in_doubt() -> None:
    given(RUN, *CALLING, doubted("c1")).when(runs.begin_step, **begin(0, 2, requested("c2"))).then(
        taken(0, 2), requested("c2", repeats="c1")
    )


def test_a_later_step_repeats_no_call_of_an_earlier_one() -> None:
    history = (*CALLING, doubted("c1"), taken(0, 2), requested("c2"), answered("c2"))
    given(RUN, *history, succeeded(0, 2)).when(
        runs.begin_step, **begin(1, 1, requested("c3", 1))
    ).then(taken(1), requested("c3", 1))


# Calls in doubt.


def test_a_call_whose_worker_died_is_marked_in_doubt_once() -> None:
    given(RUN, *CALLING).when(runs.mark_in_doubt, call_id="c1").then(doubted("c1"))
    given(RUN, *CALLING, doubted("c1")).when(runs.mark_in_doubt, call_id="c1").then_nothing()


@pytest.mark.parametrize("history", [(), (STARTED,), (*CALLING, CANCELLED)])
def test_only_an_open_call_of_a_running_run_is_marked(history: tuple[RunEvent, ...]) -> None:
    given(RUN, *history).when(runs.mark_in_doubt, call_id="c1").then_nothing()


def test_a_step_that_is_in_doubt_too_often_is_given_up() -> None:
    assert DOUBTS_MAX == 1
    given(RUN, *CALLING, doubted("c1"), taken(0, 2), requested("c2")).when(
        runs.mark_in_doubt, call_id="c2"
    ).then(
        doubted("c2"),
        failed(0, 2, error=DOUBTED_TWICE),
        RunFailed(run_id=R, step=0, error=DOUBTED_TWICE),
    )


def test_a_failure_in_doubt_counts_as_a_doubt() -> None:
    history = (*CALLING, refused("c1", in_doubt=True), failed(retry_at=NOW))
    given(RUN, *history, taken(0, 2), requested("c2")).when(
        runs.record_failure, outcome=refused("c2", in_doubt=True), retry_at=NOW
    ).then(refused("c2", in_doubt=True), failed(0, 2), FAILED)


def test_doubts_are_forgotten_with_the_step_they_were_about() -> None:
    history = (*CALLING, doubted("c1"), taken(0, 2), requested("c2"), answered("c2"))
    given(RUN, *history, succeeded(0, 2), taken(1), requested("c3", 1)).when(
        runs.mark_in_doubt, call_id="c3"
    ).then(doubted("c3", 1))


def test_a_late_failure_of_a_call_in_doubt_is_no_second_doubt() -> None:
    late = refused("c1", in_doubt=True)
    given(RUN, *CALLING, doubted("c1")).when(runs.record_failure, outcome=late, retry_at=NOW).then(
        late
    )
    history = (*CALLING, doubted("c1"), taken(0, 2), requested("c2"), answered("c2"))
    given(RUN, *history, succeeded(0, 2), taken(1), requested("c3", 1), late).when(
        runs.mark_in_doubt, call_id="c3"
    ).then(doubted("c3", 1))


# Answers.


def test_an_answer_lets_its_step_succeed() -> None:
    given(RUN, *CALLING).when(runs.record_answer, outcome=answered("c1")).then(
        answered("c1"), succeeded()
    )


def test_the_last_steps_answer_completes_the_run() -> None:
    summary = answered("c2", 1, Blob("bb", 5))
    given(RUN, *WRITING).when(runs.record_answer, outcome=summary).then(
        summary,
        succeeded(1, output=Blob("bb", 5)),
        RunCompleted(run_id=R, output=Blob("bb", 5)),
    )


def test_an_answer_is_accepted_once() -> None:
    given(RUN, *CALLING, answered("c1"), succeeded()).when(
        runs.record_answer, outcome=answered("c1")
    ).then_nothing()
    given(RUN, *CALLING, answered("c1"), succeeded()).when(
        runs.record_failure, outcome=refused("c1"), retry_at=NOW
    ).then_nothing()
    given(RUN).when(runs.record_answer, outcome=answered("c1")).then_nothing()


@pytest.mark.parametrize("late", [(doubted("c1"),), (CANCELLED,), (FAILED,)])
def test_an_answer_that_comes_too_late_is_metered_but_does_not_count(
    late: tuple[RunEvent, ...],
) -> None:
    given(RUN, *CALLING, *late).when(runs.record_answer, outcome=answered("c1")).then(
        answered("c1")
    )
    given(RUN, *CALLING, *late).when(runs.record_failure, outcome=refused("c1"), retry_at=NOW).then(
        refused("c1")
    )
    given(RUN, *CALLING, *late, answered("c1")).when(
        runs.record_answer, outcome=answered("c1")
    ).then_nothing()


# Failures.


def test_a_failed_call_is_tried_again_later() -> None:
    given(RUN, *CALLING).when(
        runs.record_failure, outcome=refused("c1"), retry_at=NOW + SECOND
    ).then(refused("c1"), failed(retry_at=NOW + SECOND))


def test_a_failure_without_another_try_fails_the_run() -> None:
    given(RUN, *CALLING).when(runs.record_failure, outcome=refused("c1"), retry_at=None).then(
        refused("c1"), failed(), FAILED
    )


def test_a_step_that_may_be_skipped_is_and_the_run_goes_on() -> None:
    skippable = msgspec.structs.replace(FIRST, error_handling="skip")
    given(RUN, started(skippable, FIRST), taken(), requested("c1")).when(
        runs.record_failure, outcome=refused("c1"), retry_at=None
    ).then(refused("c1"), failed(), StepSkipped(run_id=R, step=0))


def test_a_run_whose_last_step_is_skipped_has_the_output_of_the_one_before() -> None:
    given(RUN, *WRITING).when(runs.record_failure, outcome=refused("c2", 1), retry_at=None).then(
        refused("c2", 1), failed(1), StepSkipped(run_id=R, step=1), COMPLETED
    )


def test_a_run_of_skipped_steps_only_has_no_output() -> None:
    given(RUN, started(SECOND_STEP)).when(runs.fail_step, step=0, attempt=1, error="gone").then(
        failed(error="gone"),
        StepSkipped(run_id=R, step=0),
        RunCompleted(run_id=R, output=None),
    )


def test_a_try_that_never_gets_as_far_as_a_call_fails_its_step() -> None:
    given(RUN, STARTED).when(runs.fail_step, step=0, attempt=1, error="gone").then(
        failed(error="gone"), RunFailed(run_id=R, step=0, error="gone")
    )
    given(RUN, *CALLING).when(runs.fail_step, step=0, attempt=1, error="gone").then_nothing()


# Cancelling.


def test_a_running_run_is_cancelled_once() -> None:
    given(RUN, *CALLING).when(runs.cancel, run_id=R, reason="enough").then(
        RunCancelled(run_id=R, reason="enough")
    )
    given(RUN, STARTED, CANCELLED).when(runs.cancel, run_id=R, reason="").then_nothing()


@pytest.mark.parametrize(("end", "status"), [(COMPLETED, "completed"), (FAILED, "failed")])
def test_a_run_that_has_ended_cannot_be_cancelled(end: RunEvent, status: RunStatus) -> None:
    given(RUN, STARTED, end).when(runs.cancel, run_id=R, reason="").then_refused(RunIsFinished)
    assert RUN.fold([STARTED, end]) == Ended(R, status)


def test_a_run_that_never_was_cannot_be_cancelled() -> None:
    given(RUN).when(runs.cancel, run_id=R, reason="").then_refused(NotFound)


# What the events say.


def test_a_run_knows_its_current_step_and_what_came_before() -> None:
    state = RUN.fold(WRITING)
    assert isinstance(state, Running)
    assert (state.step, state.current, state.outputs) == (1, SECOND_STEP, (TEXT,))
    assert (state.attempt, state.doubts, state.first_try_at) == (1, 0, NOW)


def test_a_skipped_step_leaves_no_output_and_the_next_one_starts_afresh() -> None:
    state = RUN.fold([*CALLING, refused("c1"), failed(), StepSkipped(run_id=R, step=0)])
    assert isinstance(state, Running)
    assert (state.step, state.outputs, state.lease, state.attempt) == (1, (None,), None, 0)


def test_what_happens_to_a_run_that_never_started_is_passed_over() -> None:
    assert RUN.fold([taken(), requested("c1"), answered("c1"), doubted("c1")]) == NotStarted()
    assert RUN.fold([CANCELLED]) == Ended(R, "cancelled")
