"""Runs and their timelines, the work of agents, and the runs that wait to be taken up."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection

from domain.events import Blob, StreamId
from domain.runs import (
    LEASE,
    RUN,
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
from domain.tokens import Cost, TokenCounts
from domain.usage import (
    CallSubject,
    ModelCallCompleted,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallRequested,
)
from domain.workflows import Step
from projections.runs import (
    AgentWork,
    DueRun,
    RunFilter,
    RunRow,
    StepRow,
    due,
    run,
    run_by_execution,
    run_counts,
    run_page,
    steps_of,
    work_of_agents,
)
from tests.projections.tables import projected
from tests.strategies import START, WORKSPACES, recorded

ACME, GLOBEX = WORKSPACES
SECOND = timedelta(seconds=1)
R = RunId(7)
INPUT, ANSWER = Blob("aa", 2), Blob("bb", 9)
STEPS = (
    Step(step_id="research", agent_id=1, prompt_template="go"),
    Step(step_id="write", agent_id=2, prompt_template="sum up", error_handling="skip"),
)
TOKENS = TokenCounts(input=3, output=4)
COST = Cost(input_nano_usd=5, output_nano_usd=6)


def started(run_id: RunId = R, workflow_id: int = 3) -> RunStarted:
    return RunStarted(
        run_id=run_id,
        execution_id=f"exec-{run_id}",
        workflow_id=workflow_id,
        workflow_version=4,
        workflow_name="Report",
        steps=STEPS,
        input=INPUT,
    )


def subject(step: int) -> CallSubject:
    return CallSubject(agent_id=1, agent_version=5, workflow_id=3, run_id=R, step=step)


def taken(step: int = 0, attempt: int = 1) -> StepStarted:
    return StepStarted(
        run_id=R,
        step=step,
        attempt=attempt,
        worker="w1",
        leased_at=START,
        lease_until=START + LEASE,
    )


def requested(step: int = 0) -> ModelCallRequested:
    return ModelCallRequested(
        call_id="c1",
        subject=subject(step),
        provider="offline",
        model="extract",
        asked_provider="openai",
        asked_model="small",
        prompt=INPUT,
        temperature=0.7,
        max_tokens=9,
    )


def answered(step: int = 0) -> ModelCallCompleted:
    return ModelCallCompleted(
        call_id="c1",
        subject=subject(step),
        provider="offline",
        model="extract",
        response_id="r",
        finish_reason="stop",
        output=ANSWER,
        usage=None,
        tokens=TOKENS,
        cost=COST,
        latency_ms=9,
    )


def refused(step: int = 0, *, in_doubt: bool = False) -> ModelCallFailed:
    return ModelCallFailed(
        call_id="c1",
        subject=subject(step),
        provider="offline",
        model="extract",
        kind="timeout",
        error="slow",
        in_doubt=in_doubt,
    )


def failed(step: int = 0, retry_at: datetime | None = None) -> StepFailed:
    return StepFailed(run_id=R, step=step, attempt=2, error="slow", retry_at=retry_at)


def succeeded(step: int = 0) -> StepSucceeded:
    return StepSucceeded(run_id=R, step=step, attempt=1, output=ANSWER)


DOUBTED = ModelCallInDoubt(call_id="c1", subject=subject(0), provider="offline", model="extract")
SKIPPED = StepSkipped(run_id=R, step=1)
COMPLETED = RunCompleted(run_id=R, output=ANSWER)
FAILED = RunFailed(run_id=R, step=0, error="slow")
CANCELLED = RunCancelled(run_id=R, reason="enough")
CALLING: tuple[RunEvent, ...] = (started(), taken(), requested())
WHOLE: tuple[RunEvent, ...] = (
    *CALLING,
    answered(),
    succeeded(),
    taken(1),
    requested(1),
    refused(1),
    failed(1),
    SKIPPED,
    COMPLETED,
)


def found(connection: Connection) -> RunRow:
    row = run(connection, ACME, R)
    assert row is not None
    return row


def after(*events: RunEvent) -> tuple[RunRow, list[StepRow]]:
    with projected(recorded(*events)) as connection:
        return found(connection), steps_of(connection, ACME, R)


# One run.


def test_a_new_run_has_all_of_its_steps_before_it() -> None:
    row, steps = after(started())
    assert row == RunRow(
        run_id=R,
        execution_id="exec-7",
        workflow_id=3,
        workflow_name="Report",
        status="running",
        current_step=0,
        total_steps=2,
        input=INPUT,
        output=None,
        error=None,
        started_by="key:k1",
        started_at=START,
        finished_at=None,
        calls=0,
        tokens=0,
        cost_nano_usd=0,
        version=1,
    )
    assert [(step.step_id, step.agent_id, step.status) for step in steps] == [
        ("research", 1, "pending"),
        ("write", 2, "pending"),
    ]


def test_a_step_that_is_being_taken_shows_which_model_is_asked_and_which_was_wanted() -> None:
    row, (first, second) = after(*CALLING)
    assert (row.calls, row.version, first.calls, second.calls) == (1, 3, 1, 0)
    assert (first.status, first.attempts, first.started_at) == ("running", 1, START + SECOND)
    assert (first.provider, first.model, first.asked_model) == ("offline", "extract", "small")
    assert second.status == "pending"


def test_a_step_that_succeeded_shows_its_output_and_what_it_cost() -> None:
    row, (first, _) = after(*CALLING, answered(), succeeded())
    assert (row.current_step, row.tokens, row.cost_nano_usd) == (1, 7, 11)
    assert (first.status, first.output, first.finished_at) == (
        "completed",
        ANSWER,
        START + 4 * SECOND,
    )
    assert (first.tokens, first.cost_nano_usd) == (7, 11)


def test_a_step_waits_for_its_next_try_and_keeps_the_start_of_its_first() -> None:
    at = START + 9 * SECOND
    _, (first, _) = after(*CALLING, refused(), failed(retry_at=at))
    assert (first.status, first.error, first.retry_at) == ("waiting", "slow", at)
    assert first.finished_at is None
    _, (again, _) = after(*CALLING, refused(), failed(retry_at=at), taken(attempt=2))
    assert (again.status, again.attempts, again.retry_at) == ("running", 2, None)
    assert again.started_at == START + SECOND


def test_an_error_is_forgotten_once_its_step_succeeds() -> None:
    _, (first, _) = after(*CALLING, refused(), failed(retry_at=START), taken(), succeeded())
    assert (first.status, first.error) == ("completed", None)


def test_a_call_in_doubt_shows_in_its_step() -> None:
    _, (first, _) = after(*CALLING, DOUBTED)
    assert (first.status, first.calls_in_doubt) == ("waiting", 1)
    _, (first, _) = after(*CALLING, refused(in_doubt=True))
    assert first.calls_in_doubt == 1


def test_a_run_that_skipped_its_last_step_is_completed() -> None:
    row, (_, second) = after(*WHOLE)
    assert (row.status, row.output, row.current_step) == ("completed", ANSWER, 2)
    assert row.finished_at == START + (len(WHOLE) - 1) * SECOND
    assert (second.status, second.error, second.attempts) == ("skipped", "slow", 2)
    assert second.finished_at == START + 8 * SECOND


def test_a_run_fails_with_its_step() -> None:
    row, (first, _) = after(*CALLING, refused(), failed(), FAILED)
    assert (row.status, row.error, row.current_step) == ("failed", "slow", 0)
    assert (first.status, first.finished_at) == ("failed", START + 4 * SECOND)


@pytest.mark.parametrize("events", [CALLING, (*CALLING, failed(retry_at=START + SECOND))])
def test_cancelling_a_run_stops_the_step_that_is_under_way(events: tuple[RunEvent, ...]) -> None:
    row, (first, second) = after(*events, CANCELLED)
    at = START + len(events) * SECOND
    assert (row.status, row.error, row.finished_at) == ("cancelled", "enough", at)
    assert (first.status, first.finished_at, first.retry_at) == ("cancelled", at, None)
    assert second.status == "pending"


def test_cancelling_a_run_between_steps_leaves_what_is_done() -> None:
    row, steps = after(*CALLING, succeeded(), RunCancelled(run_id=R))
    assert (row.status, row.error) == ("cancelled", None)
    assert [step.status for step in steps] == ["completed", "pending"]


def test_a_late_answer_is_paid_for_but_does_not_count() -> None:
    row, (first, _) = after(*CALLING, CANCELLED, answered())
    assert (row.status, row.tokens, row.cost_nano_usd) == ("cancelled", 7, 11)
    assert (first.status, first.output, first.tokens) == ("cancelled", None, 7)


def test_a_run_is_found_by_its_name_on_the_wire() -> None:
    with projected(recorded(started(), started(RunId(8)))) as connection:
        assert run_by_execution(connection, ACME, "exec-7") == found(connection)
        assert run_by_execution(connection, ACME, "exec-9") is None
        assert run_by_execution(connection, GLOBEX, "exec-7") is None


# Many runs.


def many() -> list[Any]:
    others = [started(RunId(n), workflow_id=n % 2) for n in (8, 9, 10)]
    return recorded(*WHOLE, *others, RunCancelled(run_id=RunId(9)))


def page(wanted: RunFilter, *, skip: int = 0, limit: int = 9) -> tuple[list[int], int]:
    with projected(many()) as connection:
        rows, total = run_page(connection, ACME, wanted, skip=skip, limit=limit)
    return [row.run_id for row in rows], total


def test_runs_are_listed_newest_first_page_by_page() -> None:
    assert page(RunFilter()) == ([10, 9, 8, 7], 4)
    assert page(RunFilter(), skip=1, limit=2) == ([9, 8], 4)
    assert page(RunFilter(), skip=4) == ([], 4)


@pytest.mark.parametrize(
    ("workflow_id", "status", "runs_found"),
    [
        (0, None, [10, 8]),
        (3, None, [7]),
        (None, "running", [10, 8]),
        (None, "completed", [7]),
        (1, "cancelled", [9]),
        (0, "cancelled", []),
    ],
)
def test_runs_are_filtered_by_workflow_and_status(
    workflow_id: int | None, status: RunStatus | None, runs_found: list[int]
) -> None:
    wanted = RunFilter(workflow_id=workflow_id, status=status)
    assert page(wanted) == (runs_found, len(runs_found))


def test_runs_are_counted_by_how_they_ended() -> None:
    with projected(many()) as connection:
        counts = run_counts(connection, ACME)
        of_workflow = run_counts(connection, ACME, workflow_id=0)
        lately = run_counts(connection, ACME, since=START + SECOND)
    assert counts.by_status == {"running": 2, "completed": 1, "cancelled": 1}
    assert counts.completed_us == (len(WHOLE) - 1) * 1_000_000
    assert (of_workflow.by_status, of_workflow.completed_us) == ({"running": 2}, 0)
    assert lately.by_status == {"running": 2, "cancelled": 1}


def test_an_agents_work_is_counted_by_what_came_of_it() -> None:
    with projected(recorded(*WHOLE)) as connection:
        assert work_of_agents(connection, ACME, [1, 2, 3]) == {
            1: AgentWork(completed=1, failed=0, completed_us=3_000_000),
            2: AgentWork(completed=0, failed=1, completed_us=0),
        }


def test_workspaces_never_see_each_others_runs() -> None:
    log = [*recorded(*CALLING), *recorded(CANCELLED, workspace_id=GLOBEX, after=3)]
    with projected(log) as connection:
        assert found(connection).status == "running"
        assert run(connection, GLOBEX, R) is None
        assert steps_of(connection, GLOBEX, R) == []
        assert run_page(connection, GLOBEX, RunFilter(), skip=0, limit=9) == ([], 0)
        assert run_counts(connection, GLOBEX).by_status == {}
        assert work_of_agents(connection, GLOBEX, [1]) == {}


# Runs that are due.


def due_after(*events: RunEvent) -> list[DueRun]:
    with projected(recorded(*events)) as connection:
        return due(connection, limit=9)


def test_a_run_is_due_from_its_start_to_its_end() -> None:
    stream_id = StreamId(f"{RUN.category}-{ACME}+7")
    waiting = [DueRun(workspace_id=ACME, stream_id=stream_id, due_at=START)]
    assert due_after(started()) == due_after(*CALLING) == waiting
    assert due_after(*CALLING, failed()) == waiting
    for end in (COMPLETED, FAILED, CANCELLED):
        assert due_after(*CALLING, end) == []


def test_a_failed_step_makes_its_run_due_at_the_next_try() -> None:
    at = START + 9 * SECOND
    assert [each.due_at for each in due_after(*CALLING, failed(retry_at=at))] == [at]


def test_runs_of_all_workspaces_are_due_those_that_wait_longest_first() -> None:
    waits = failed(retry_at=START + 9 * SECOND)
    log = [
        *recorded(*CALLING, waits),
        *recorded(started(RunId(8)), workspace_id=GLOBEX, start=START + SECOND, after=4),
        *recorded(started(RunId(6)), workspace_id=GLOBEX, start=START + SECOND, after=5),
    ]
    with projected(log) as connection:
        assert [each.stream_id for each in due(connection, limit=9)] == [
            "run-globex+6",
            "run-globex+8",
            "run-acme+7",
        ]
        assert [each.stream_id for each in due(connection, limit=1)] == ["run-globex+6"]
