"""What a run waits for, and what it decides."""

from datetime import datetime, timedelta
from typing import TypeAlias, assert_never

import msgspec

from domain.errors import NotFound, RunIsFinished
from domain.runs.events import (
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunId,
    RunStarted,
    StepFailed,
    StepSkipped,
    StepStarted,
    StepSucceeded,
)
from domain.runs.state import Ended, NotStarted, OpenCall, Running, RunState, is_current, next_step
from domain.usage import ModelCallCompleted, ModelCallFailed, ModelCallInDoubt, ModelCallRequested

LEASE = timedelta(seconds=330)
"""Longer than the longest model call (300 s in all), so that no live call is claimed twice."""

DOUBTS_MAX = 1
"""Times a step's call in doubt is repeated before the step is given up."""

RETRY_BASE = timedelta(milliseconds=500)
RETRY_DELAY_MAX = timedelta(seconds=30)
RETRY_AFTER_MAX = timedelta(seconds=60)
RETRY_SPAN_MAX = timedelta(seconds=120)
"""Of one step, from its first try to the start of its last."""


# What is due.


class Nothing(msgspec.Struct, frozen=True, tag=True):
    """Attributes:
    until: When to ask again; None when time alone changes nothing.
    """

    until: datetime | None = None


class CallInDoubt(msgspec.Struct, frozen=True, tag=True):
    """Whoever made this call died before recording its outcome."""

    call: OpenCall


class TakeStep(msgspec.Struct, frozen=True, tag=True):
    step: int
    attempt: int


Due: TypeAlias = Nothing | CallInDoubt | TakeStep


def due(state: RunState, *, now: datetime, sole_worker: str | None) -> Due:
    """Tell what a run waits for.

    Args:
        sole_worker: The only worker alive, where that is known: every other
            one's lease is void. An embedded installation, which holds an
            exclusive lock, names itself; among several workers it is None.
    """
    if not isinstance(state, Running) or state.current is None:
        return Nothing()
    lease = state.lease
    if lease is not None and sole_worker in (None, lease.worker) and now < lease.until:
        return Nothing(lease.until)
    lost = [call for call in state.calls if not call.in_doubt]
    if lost:
        return CallInDoubt(lost[0])
    if state.retry_at is not None and now < state.retry_at:
        return Nothing(state.retry_at)
    return TakeStep(state.step, state.attempt + 1)


# Decisions.


def start(state: RunState, *, started: RunStarted) -> tuple[RunEvent, ...]:
    return (started,) if isinstance(state, NotStarted) else ()


def begin_step(
    state: RunState,
    *,
    step: int,
    attempt: int,
    worker: str,
    now: datetime,
    call: ModelCallRequested,
) -> tuple[RunEvent, ...]:
    """Claim a try of a step and say which call it is about to make, as one fact.

    Of two workers deciding at once one loses the race on the stream version,
    and decides again to nothing.
    """
    if not isinstance(state, Running) or not _awaits(state, step, attempt):
        return ()
    doubtful = [c.call_id for c in state.calls if c.in_doubt and c.subject.step == step]
    return (
        StepStarted(
            run_id=state.run_id,
            step=step,
            attempt=attempt,
            worker=worker,
            leased_at=now,
            lease_until=now + LEASE,
        ),
        msgspec.structs.replace(call, repeats=doubtful[-1] if doubtful else None),
    )


def mark_in_doubt(state: RunState, *, call_id: str) -> tuple[RunEvent, ...]:
    """Record that a call's outcome will never be known; give up a step that doubts too often."""
    if not isinstance(state, Running):
        return ()
    lost = [call for call in state.calls if call.call_id == call_id and not call.in_doubt]
    if not lost:
        return ()
    call = lost[0]
    marked = ModelCallInDoubt(
        call_id=call_id, subject=call.subject, provider=call.provider, model=call.model
    )
    if state.doubts < DOUBTS_MAX:
        return (marked,)
    error = "The outcomes of two of its model calls are unknown; a third could be paid in vain."
    return (marked, *_give_up(state, error))


def record_answer(state: RunState, *, outcome: ModelCallCompleted) -> tuple[RunEvent, ...]:
    """Accept an answer once. One that comes too late to count is still metered."""
    if not _is_open(state, outcome.call_id):
        return ()
    if not isinstance(state, Running) or not is_current(state, outcome.call_id):
        return (outcome,)
    succeeded = StepSucceeded(
        run_id=state.run_id, step=state.step, attempt=state.attempt, output=outcome.output
    )
    return (outcome, succeeded, *_end(next_step(state, outcome.output)))


def record_failure(
    state: RunState, *, outcome: ModelCallFailed, retry_at: datetime | None
) -> tuple[RunEvent, ...]:
    """Record a failed call, and either when its step is tried again or what becomes of it.

    Args:
        retry_at: From `next_try`; ignored when the step has no tries left.
    """
    if not _is_open(state, outcome.call_id):
        return ()
    if not isinstance(state, Running) or not is_current(state, outcome.call_id):
        return (outcome,)
    doubts = state.doubts + (1 if outcome.in_doubt else 0)
    if retry_at is None or doubts > DOUBTS_MAX:
        return (outcome, *_give_up(state, outcome.error))
    failed = StepFailed(
        run_id=state.run_id,
        step=state.step,
        attempt=state.attempt,
        error=outcome.error,
        retry_at=retry_at,
    )
    return (outcome, failed)


def fail_step(state: RunState, *, step: int, attempt: int, error: str) -> tuple[RunEvent, ...]:
    """Fail a try that never got as far as a call: its agent is gone, its prompt too long."""
    if not isinstance(state, Running) or not _awaits(state, step, attempt):
        return ()
    return _give_up(msgspec.structs.replace(state, attempt=attempt), error)


def cancel(state: RunState, *, run_id: RunId, reason: str) -> tuple[RunEvent, ...]:
    match state:
        case Running():
            return (RunCancelled(run_id=run_id, reason=reason),)
        case NotStarted():
            raise NotFound("Execution", str(run_id))
        case Ended(status="cancelled"):
            return ()
        case Ended():
            raise RunIsFinished(run_id, state.status)
        case _:
            assert_never(state)


def next_try(
    state: RunState,
    *,
    now: datetime,
    retryable: bool,
    retry_after: timedelta | None,
    jitter: float,
) -> datetime | None:
    """Tell when a failed step is worth another try; None for never.

    The provider's own wish comes first, else full jitter over an exponential
    delay (reliability matrix: 0.5 s doubling, at most 30 s, 120 s in all).

    Args:
        jitter: Uniform in [0, 1), drawn by the caller.
    """
    if not retryable or not isinstance(state, Running) or state.first_try_at is None:
        return None
    if state.current is None or state.attempt > state.current.max_retries:
        return None
    ceiling = min(RETRY_DELAY_MAX, RETRY_BASE * 2 ** min(state.attempt - 1, 10))
    delay = ceiling * jitter if retry_after is None else min(retry_after, RETRY_AFTER_MAX)
    at = now + delay
    return at if at - state.first_try_at <= RETRY_SPAN_MAX else None


def _give_up(state: Running, error: str) -> tuple[RunEvent, ...]:
    failed = StepFailed(
        run_id=state.run_id, step=state.step, attempt=state.attempt, error=error, retry_at=None
    )
    if state.current is not None and state.current.error_handling == "skip":
        skipped = StepSkipped(run_id=state.run_id, step=state.step)
        return (failed, skipped, *_end(next_step(state, None)))
    return (failed, RunFailed(run_id=state.run_id, step=state.step, error=error))


def _end(state: Running) -> tuple[RunEvent, ...]:
    if state.step < len(state.steps):
        return ()
    done = [output for output in state.outputs if output is not None]
    return (RunCompleted(run_id=state.run_id, output=done[-1] if done else None),)


def _awaits(state: Running, step: int, attempt: int) -> bool:
    return state.current is not None and (state.step, state.attempt + 1) == (step, attempt)


def _is_open(state: RunState, call_id: str) -> bool:
    return not isinstance(state, NotStarted) and any(c.call_id == call_id for c in state.calls)
