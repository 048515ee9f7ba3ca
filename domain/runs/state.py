"""What a run is by now, folded from what is recorded of it."""

from datetime import datetime
from typing import TypeAlias, assert_never

import msgspec

from domain.events import Aggregate, Blob
from domain.runs.events import (
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunId,
    RunStarted,
    RunStatus,
    StepFailed,
    StepSkipped,
    StepStarted,
    StepSucceeded,
)
from domain.usage import (
    CallSubject,
    ModelCallCompleted,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallRequested,
)
from domain.workflows import Step


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
    return in_doubt and is_current(state, event.call_id)


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
            return next_step(state, event.output)
        case StepSkipped():
            return next_step(state, None)
        case _:
            assert_never(event)


def next_step(state: Running, output: Blob | None) -> Running:
    return msgspec.structs.replace(
        state,
        outputs=(*state.outputs, output),
        attempt=0,
        doubts=0,
        first_try_at=None,
        lease=None,
        retry_at=None,
    )


def is_current(state: Running, call_id: str) -> bool:
    """A call counts for its step unless it was given up as in doubt."""
    return any(call.call_id == call_id and not call.in_doubt for call in state.calls)


RUN: Aggregate[RunState, RunEvent] = Aggregate(category="run", initial=NotStarted(), evolve=evolve)
