"""What is recorded of a run."""

from datetime import datetime
from typing import Literal, NewType, TypeAlias

from domain.events import Blob, Event
from domain.usage import UsageEvent
from domain.workflows import Step

RunId = NewType("RunId", int)

RunStatus: TypeAlias = Literal["running", "completed", "failed", "cancelled"]


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
