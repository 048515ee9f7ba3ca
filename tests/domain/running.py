"""What happens to a run of two steps, for tests to put in a row."""

from datetime import UTC, datetime, timedelta

from domain.events import Blob
from domain.runs import (
    LEASE,
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunId,
    RunStarted,
    StepFailed,
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

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
R = RunId(7)
TEXT = Blob("aa", 3)
FIRST = Step(step_id="research", agent_id=1, prompt_template="go", max_retries=2)
SECOND_STEP = Step(step_id="write", agent_id=2, prompt_template="go", error_handling="skip")
DOUBTED_TWICE = "The outcomes of two of its model calls are unknown; a third could be paid in vain."


def started(*steps: Step) -> RunStarted:
    return RunStarted(
        run_id=R,
        execution_id="exec-000000000007",
        workflow_id=3,
        workflow_version=4,
        workflow_name="Report",
        steps=steps,
        input=TEXT,
    )


def taken(
    step: int = 0, attempt: int = 1, *, worker: str = "w1", at: datetime = NOW
) -> StepStarted:
    return StepStarted(
        run_id=R,
        step=step,
        attempt=attempt,
        worker=worker,
        leased_at=at,
        lease_until=at + LEASE,
    )


def subject(step: int = 0) -> CallSubject:
    return CallSubject(agent_id=1, agent_version=5, workflow_id=3, run_id=R, step=step)


def requested(call_id: str, step: int = 0, repeats: str | None = None) -> ModelCallRequested:
    return ModelCallRequested(
        call_id=call_id,
        subject=subject(step),
        provider="openai",
        model="small",
        prompt=TEXT,
        temperature=0.7,
        max_tokens=100,
        repeats=repeats,
    )


def answered(call_id: str, step: int = 0, output: Blob = TEXT) -> ModelCallCompleted:
    return ModelCallCompleted(
        call_id=call_id,
        subject=subject(step),
        provider="openai",
        model="small",
        response_id="r",
        finish_reason="stop",
        output=output,
        usage=None,
        tokens=None,
        cost=None,
        latency_ms=9,
    )


def refused(call_id: str, step: int = 0, *, in_doubt: bool = False) -> ModelCallFailed:
    return ModelCallFailed(
        call_id=call_id,
        subject=subject(step),
        provider="openai",
        model="small",
        kind="timeout",
        error="too slow",
        in_doubt=in_doubt,
    )


def doubted(call_id: str, step: int = 0) -> ModelCallInDoubt:
    return ModelCallInDoubt(
        call_id=call_id, subject=subject(step), provider="openai", model="small"
    )


def failed(
    step: int = 0, attempt: int = 1, *, error: str = "too slow", retry_at: datetime | None = None
) -> StepFailed:
    return StepFailed(run_id=R, step=step, attempt=attempt, error=error, retry_at=retry_at)


def succeeded(step: int = 0, attempt: int = 1, output: Blob = TEXT) -> StepSucceeded:
    return StepSucceeded(run_id=R, step=step, attempt=attempt, output=output)


STARTED = started(FIRST, SECOND_STEP)
CALLING: tuple[RunEvent, ...] = (STARTED, taken(), requested("c1"))
"""The first step's call is being made."""
WRITING: tuple[RunEvent, ...] = (
    *CALLING,
    answered("c1"),
    succeeded(),
    taken(1),
    requested("c2", 1),
)
"""The second step's, which may be skipped."""
CANCELLED = RunCancelled(run_id=R)
COMPLETED = RunCompleted(run_id=R, output=TEXT)
FAILED = RunFailed(run_id=R, step=0, error="too slow")
