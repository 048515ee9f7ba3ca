"""Runs: one execution of a workflow, step after step, surviving any crash.

A run is a process manager. Its stream holds what it decided (claims, model
calls about to be made) and what it was told (their outcomes), so `due` can be
asked again after any crash: the answer is what was left to do.
"""

from datetime import datetime, timedelta
from typing import Literal, NewType, TypeAlias, assert_never

import msgspec

from domain.errors import NotFound, RunIsFinished
from domain.events import Aggregate, Blob, Event
from domain.usage import (
    CallSubject,
    ModelCallCompleted,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallRequested,
    UsageEvent,
)
from domain.workflows import Step

RunId = NewType("RunId", int)

RunStatus: TypeAlias = Literal["running", "completed", "failed", "cancelled"]

LEASE = timedelta(seconds=330)
"""Longer than the longest model call (300 s in all), so that no live call is claimed twice."""

DOUBTS_MAX = 1
"""Times a step's call in doubt is repeated before the step is given up."""

RETRY_BASE = timedelta(milliseconds=500)
RETRY_DELAY_MAX = timedelta(seconds=30)
RETRY_AFTER_MAX = timedelta(seconds=60)
RETRY_SPAN_MAX = timedelta(seconds=120)
"""Of one step, from its first try to the start of its last."""


# Events.


class RunStarted(Event, frozen=True, kw_only=True, tag="run_started"):
    """Somebody started a run; the workflow's steps are pinned as they were.

    Attributes:
        execution_id: `exec-` and 12 hex digits: the run's name on the wire.
        workflow_version: Stream version of the workflow whose steps are pinned here.
        input: JSON object of the run's input.
    """

    run_id: RunId
    execution_id: str
    workflow_id: int
    workflow_version: int
    workflow_name: str
    steps: tuple[Step, ...]
    input: Blob


class StepStarted(Event, frozen=True, kw_only=True, tag="run_step_started"):
    """The claim of one try of a step; appending it is the lock."""

    run_id: RunId
    step: int
    attempt: int
    worker: str
    leased_at: datetime
    lease_until: datetime


class StepSucceeded(Event, frozen=True, kw_only=True, tag="run_step_succeeded"):
    """A step's answer counts, and the run goes on to the next step."""

    run_id: RunId
    step: int
    attempt: int
    output: Blob


class StepFailed(Event, frozen=True, kw_only=True, tag="run_step_failed"):
    """A try of a step came to nothing.

    Attributes:
        retry_at: When the next try is due; None when there will be none.
    """

    run_id: RunId
    step: int
    attempt: int
    error: str
    retry_at: datetime | None = None


class StepSkipped(Event, frozen=True, kw_only=True, tag="run_step_skipped"):
    """Failed for good, and its author said to go on without it."""

    run_id: RunId
    step: int


class RunCompleted(Event, frozen=True, kw_only=True, tag="run_completed"):
    """The last step is done.

    Attributes:
        output: Of the last step that succeeded; None when every step was skipped.
    """

    run_id: RunId
    output: Blob | None


class RunFailed(Event, frozen=True, kw_only=True, tag="run_failed"):
    """A step failed for good, and with it the run."""

    run_id: RunId
    step: int
    error: str


class RunCancelled(Event, frozen=True, kw_only=True, tag="run_cancelled"):
    """Somebody stopped the run."""

    run_id: RunId
    reason: str = ""


RunEvent: TypeAlias = (
    RunStarted
    | StepStarted
    | StepSucceeded
    | StepFailed
    | StepSkipped
    | RunCompleted
    | RunFailed
    | RunCancelled
    | UsageEvent
)


# State.


class NotStarted(msgspec.Struct, frozen=True, tag=True):
    pass


class Lease(msgspec.Struct, frozen=True):
    worker: str
    until: datetime


class OpenCall(msgspec.Struct, frozen=True):
    """A model call whose outcome is not recorded."""

    call_id: str
    subject: CallSubject
    provider: str
    model: str
    in_doubt: bool = False


class Running(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Attributes:
    step: Index of the first step neither succeeded nor skipped.
    attempt: Tries of that step so far.
    doubts: Those of its tries whose call may have been paid without an answer.
    first_try_at: When that step was first tried.
    """

    run_id: RunId
    execution_id: str
    workflow_id: int
    steps: tuple[Step, ...]
    input: Blob
    outputs: tuple[Blob | None, ...] = ()
    attempt: int = 0
    doubts: int = 0
    first_try_at: datetime | None = None
    lease: Lease | None = None
    retry_at: datetime | None = None
    calls: tuple[OpenCall, ...] = ()

    @property
    def step(self) -> int:
        return len(self.outputs)

    @property
    def current(self) -> Step | None:
        return self.steps[self.step] if self.step < len(self.steps) else None


class Ended(msgspec.Struct, frozen=True, tag=True):
    run_id: RunId
    status: RunStatus
    calls: tuple[OpenCall, ...] = ()


RunState: TypeAlias = NotStarted | Running | Ended


def evolve(state: RunState, event: RunEvent) -> RunState:
    match event:
        case RunStarted():
            return _started(event)
        case RunCompleted():
            return _ended(state, event.run_id, "completed")
        case RunFailed():
            return _ended(state, event.run_id, "failed")
        case RunCancelled():
            return _ended(state, event.run_id, "cancelled")
        case ModelCallCompleted() | ModelCallFailed():
            return _settled(state, event)
        case ModelCallRequested() | ModelCallInDoubt():
            return _evolve_call(state, event) if isinstance(state, Running) else state
        case StepStarted() | StepSucceeded() | StepFailed() | StepSkipped():
            return _evolve_step(state, event) if isinstance(state, Running) else state
        case _:
            assert_never(event)


def _started(event: RunStarted) -> Running:
    return Running(
        run_id=event.run_id,
        execution_id=event.execution_id,
        workflow_id=event.workflow_id,
        steps=event.steps,
        input=event.input,
    )


def _ended(state: RunState, run_id: RunId, status: RunStatus) -> Ended:
    return Ended(run_id, status, () if isinstance(state, NotStarted) else state.calls)


def _settled(state: RunState, event: ModelCallCompleted | ModelCallFailed) -> RunState:
    if isinstance(state, NotStarted):
        return state
    left = tuple(call for call in state.calls if call.call_id != event.call_id)
    if isinstance(state, Running) and _doubts(state, event):
        return msgspec.structs.replace(state, calls=left, doubts=state.doubts + 1)
    return msgspec.structs.replace(state, calls=left)


def _doubts(state: Running, event: ModelCallCompleted | ModelCallFailed) -> bool:
    """A call that was marked in doubt before has been counted, perhaps for an earlier step."""
    in_doubt = isinstance(event, ModelCallFailed) and event.in_doubt
    return in_doubt and _is_current(state, event.call_id)


def _evolve_call(state: Running, event: ModelCallRequested | ModelCallInDoubt) -> Running:
    others = tuple(call for call in state.calls if call.call_id != event.call_id)
    doubtful = isinstance(event, ModelCallInDoubt)
    call = OpenCall(event.call_id, event.subject, event.provider, event.model, doubtful)
    if doubtful:
        state = msgspec.structs.replace(state, doubts=state.doubts + 1, lease=None)
    return msgspec.structs.replace(state, calls=(*others, call))


def _evolve_step(
    state: Running, event: StepStarted | StepSucceeded | StepFailed | StepSkipped
) -> Running:
    match event:
        case StepStarted():
            return msgspec.structs.replace(
                state,
                attempt=event.attempt,
                first_try_at=state.first_try_at or event.leased_at,
                lease=Lease(event.worker, event.lease_until),
                retry_at=None,
            )
        case StepFailed():
            return msgspec.structs.replace(state, lease=None, retry_at=event.retry_at)
        case StepSucceeded():
            return _next_step(state, event.output)
        case StepSkipped():
            return _next_step(state, None)
        case _:
            assert_never(event)


def _next_step(state: Running, output: Blob | None) -> Running:
    return msgspec.structs.replace(
        state,
        outputs=(*state.outputs, output),
        attempt=0,
        doubts=0,
        first_try_at=None,
        lease=None,
        retry_at=None,
    )


RUN: Aggregate[RunState, RunEvent] = Aggregate(category="run", initial=NotStarted(), evolve=evolve)


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
    if not isinstance(state, Running) or not _is_current(state, outcome.call_id):
        return (outcome,)
    succeeded = StepSucceeded(
        run_id=state.run_id, step=state.step, attempt=state.attempt, output=outcome.output
    )
    return (outcome, succeeded, *_end(_next_step(state, outcome.output)))


def record_failure(
    state: RunState, *, outcome: ModelCallFailed, retry_at: datetime | None
) -> tuple[RunEvent, ...]:
    """Record a failed call, and either when its step is tried again or what becomes of it.

    Args:
        retry_at: From `next_try`; ignored when the step has no tries left.
    """
    if not _is_open(state, outcome.call_id):
        return ()
    if not isinstance(state, Running) or not _is_current(state, outcome.call_id):
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
        return (failed, skipped, *_end(_next_step(state, None)))
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


def _is_current(state: Running, call_id: str) -> bool:
    """A call counts for its step unless it was given up as in doubt."""
    return any(call.call_id == call_id and not call.in_doubt for call in state.calls)
