"""Folds runs into rows."""

from datetime import datetime
from typing import ClassVar, get_args

from sqlalchemy import Table

from domain.catalog import AnyEvent
from domain.events import Event, Recorded
from domain.runs import (
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunStarted,
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
    ModelCallOutcome,
    ModelCallRequested,
)
from projections.projector import Batch
from projections.rows import Row, as_json, micros
from projections.runs.tables import due_runs, run_steps, runs

_NOTHING = as_json(None)


class DueRunsProjector:
    """Which runs have not ended: what a worker looks through when it starts."""

    name: ClassVar[str] = "due_runs"
    tables: ClassVar[tuple[Table, ...]] = (due_runs,)
    folds: ClassVar[frozenset[type[Event]]] = frozenset(
        {RunStarted, StepFailed, RunCompleted, RunFailed, RunCancelled}
    )

    def project(self, recorded: Recorded[AnyEvent], batch: Batch) -> None:
        workspace_id = recorded.metadata.workspace_id
        match recorded.event:
            case RunStarted() as event:
                batch.rows(due_runs).put(
                    {
                        "workspace_id": workspace_id,
                        "run_id": event.run_id,
                        "stream_id": recorded.stream_id,
                        "due_at": micros(recorded.metadata.occurred_at),
                    }
                )
            case StepFailed(retry_at=datetime() as retry_at) as event:
                rows = batch.rows(due_runs)
                row = rows.get(workspace_id, event.run_id)
                if row is not None:
                    rows.put(row | {"due_at": micros(retry_at)})
            case RunCompleted() | RunFailed() | RunCancelled() as event:
                batch.rows(due_runs).delete(workspace_id, event.run_id)
            case _:
                pass


class RunsProjector:
    name: ClassVar[str] = "runs"
    tables: ClassVar[tuple[Table, ...]] = (runs, run_steps)
    folds: ClassVar[frozenset[type[Event]]] = frozenset(get_args(RunEvent))

    def project(self, recorded: Recorded[AnyEvent], batch: Batch) -> None:
        match recorded.event:
            case RunStarted() as event:
                _start(recorded, event, batch)
            case RunCompleted() | RunFailed() | RunCancelled() as event:
                _end(recorded, event, batch)
            case StepStarted() | StepSucceeded() | StepFailed() | StepSkipped() as event:
                _move_step(recorded, event, batch)
            case ModelCallRequested() as event:
                _note_request(recorded, event, batch)
            case ModelCallInDoubt() as event:
                _note_doubt(recorded, event, batch)
            case ModelCallCompleted() | ModelCallFailed() as event:
                _note_outcome(recorded, event, batch)
            case _:
                pass


def _start(recorded: Recorded[AnyEvent], event: RunStarted, batch: Batch) -> None:
    workspace_id = recorded.metadata.workspace_id
    batch.rows(runs).put(
        {
            "workspace_id": workspace_id,
            "run_id": event.run_id,
            "execution_id": event.execution_id,
            "workflow_id": event.workflow_id,
            "workflow_name": event.workflow_name,
            "workflow_version": event.workflow_version,
            "status": "running",
            "current_step": 0,
            "total_steps": len(event.steps),
            "input": as_json(event.input),
            "output": _NOTHING,
            "error": None,
            "started_by": recorded.metadata.actor,
            "started_at": micros(recorded.metadata.occurred_at),
            "finished_at": None,
            "calls": 0,
            "tokens": 0,
            "cost_nano_usd": 0,
            "version": recorded.stream_version,
        }
    )
    for number, step in enumerate(event.steps):
        row = _new_step(step.step_id, step.agent_id, step.prompt_template)
        place = {"workspace_id": workspace_id, "run_id": event.run_id, "step": number}
        batch.rows(run_steps).put(place | row)


def _new_step(step_id: str, agent_id: int, prompt_template: str) -> Row:
    return {
        "step_id": step_id,
        "agent_id": agent_id,
        "prompt_template": prompt_template,
        "status": "pending",
        "attempts": 0,
        "started_at": None,
        "finished_at": None,
        "retry_at": None,
        "output": _NOTHING,
        "error": None,
        "provider": None,
        "model": None,
        "asked_model": None,
        "calls": 0,
        "calls_in_doubt": 0,
        "tokens": 0,
        "cost_nano_usd": 0,
    }


def _end(
    recorded: Recorded[AnyEvent],
    event: RunCompleted | RunFailed | RunCancelled,
    batch: Batch,
) -> None:
    run = _run(recorded, event.run_id, batch)
    if run is None:
        return
    at = micros(recorded.metadata.occurred_at)
    run["finished_at"] = at
    match event:
        case RunCompleted():
            run |= {"status": "completed", "output": as_json(event.output)}
        case RunFailed():
            run |= {"status": "failed", "error": event.error}
        case RunCancelled():
            run |= {"status": "cancelled", "error": event.reason or None}
            _stop_step(recorded, run, batch)


def _stop_step(recorded: Recorded[AnyEvent], run: Row, batch: Batch) -> None:
    row = _step(recorded, run["run_id"], run["current_step"], batch)
    if row is not None and row["status"] in {"running", "waiting"}:
        at = micros(recorded.metadata.occurred_at)
        row |= {"status": "cancelled", "finished_at": at, "retry_at": None}


def _move_step(
    recorded: Recorded[AnyEvent],
    event: StepStarted | StepSucceeded | StepFailed | StepSkipped,
    batch: Batch,
) -> None:
    run = _run(recorded, event.run_id, batch)
    row = _step(recorded, event.run_id, event.step, batch)
    if run is None or row is None:
        return
    at = micros(recorded.metadata.occurred_at)
    match event:
        case StepStarted():
            row |= {"status": "running", "attempts": event.attempt, "retry_at": None}
            row["started_at"] = row["started_at"] or at
        case StepFailed(retry_at=datetime() as retry_at):
            row |= {"status": "waiting", "error": event.error, "retry_at": micros(retry_at)}
        case StepFailed():
            row |= {"status": "failed", "error": event.error, "finished_at": at}
            row["attempts"] = event.attempt
        case StepSucceeded():
            row |= {"status": "completed", "finished_at": at, "error": None}
            row["output"] = as_json(event.output)
            run["current_step"] = event.step + 1
        case StepSkipped():
            row |= {"status": "skipped"}
            run["current_step"] = event.step + 1


def _note_request(recorded: Recorded[AnyEvent], event: ModelCallRequested, batch: Batch) -> None:
    for row in _counted(recorded, event.subject, batch):
        row["calls"] += 1
        if "step" in row:
            asked = event.asked_model or event.model
            row |= {"provider": event.provider, "model": event.model, "asked_model": asked}


def _note_doubt(recorded: Recorded[AnyEvent], event: ModelCallInDoubt, batch: Batch) -> None:
    for row in _counted(recorded, event.subject, batch):
        if "step" in row:
            row |= {"status": "waiting", "calls_in_doubt": row["calls_in_doubt"] + 1}


def _note_outcome(recorded: Recorded[AnyEvent], event: ModelCallOutcome, batch: Batch) -> None:
    tokens, cost = event.tokens or TokenCounts(), event.cost or Cost()
    for row in _counted(recorded, event.subject, batch):
        row["tokens"] += tokens.total
        row["cost_nano_usd"] += cost.total_nano_usd
        if "step" in row and isinstance(event, ModelCallFailed) and event.in_doubt:
            row["calls_in_doubt"] += 1


def _counted(recorded: Recorded[AnyEvent], subject: CallSubject, batch: Batch) -> list[Row]:
    """Find the run and the step a call was made for, both to be written again."""
    if subject.run_id is None or subject.step is None:
        return []
    run = _run(recorded, subject.run_id, batch)
    row = _step(recorded, subject.run_id, subject.step, batch)
    return [found for found in (run, row) if found is not None]


def _run(recorded: Recorded[AnyEvent], run_id: int, batch: Batch) -> Row | None:
    rows = batch.rows(runs)
    run = rows.get(recorded.metadata.workspace_id, run_id)
    if run is not None:
        run["version"] = recorded.stream_version
        rows.put(run)
    return run


def _step(recorded: Recorded[AnyEvent], run_id: int, step: int, batch: Batch) -> Row | None:
    rows = batch.rows(run_steps)
    row = rows.get(recorded.metadata.workspace_id, run_id, step)
    if row is not None:
        rows.put(row)
    return row
