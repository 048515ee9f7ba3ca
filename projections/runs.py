"""Runs with the timeline of their steps, and which of them wait to be taken up."""

from datetime import datetime
from typing import ClassVar, Literal, TypeAlias, get_args

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    Table,
    Text,
    func,
    select,
)

from domain.catalog import AnyEvent
from domain.events import Blob, Event, Recorded, StreamId, WorkspaceId
from domain.runs import (
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
    ModelCallOutcome,
    ModelCallRequested,
)
from projections.projector import READ_MODELS, Batch, Row, as_json, micros, moment

StepStatus: TypeAlias = Literal[
    "pending", "running", "waiting", "completed", "failed", "skipped", "cancelled"
]

runs = Table(
    "runs",
    READ_MODELS,
    Column("workspace_id", Text, primary_key=True),
    Column("run_id", BigInteger, primary_key=True, autoincrement=False),
    Column("execution_id", Text, nullable=False),
    Column("workflow_id", BigInteger, nullable=False),
    Column("workflow_name", Text, nullable=False),
    Column("workflow_version", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("current_step", Integer, nullable=False),
    Column("total_steps", Integer, nullable=False),
    Column("input", Text, nullable=False),
    Column("output", Text, nullable=False),
    Column("error", Text),
    Column("started_by", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Column("calls", Integer, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("cost_nano_usd", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)
Index("runs_by_workflow", runs.c.workspace_id, runs.c.workflow_id, runs.c.run_id)
Index("runs_by_status", runs.c.workspace_id, runs.c.status, runs.c.run_id)

run_steps = Table(
    "run_steps",
    READ_MODELS,
    Column("workspace_id", Text, primary_key=True),
    Column("run_id", BigInteger, primary_key=True, autoincrement=False),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("step_id", Text, nullable=False),
    Column("agent_id", BigInteger, nullable=False),
    Column("prompt_template", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("retry_at", BigInteger),
    Column("output", Text, nullable=False),
    Column("error", Text),
    Column("provider", Text),
    Column("model", Text),
    Column("asked_model", Text),
    Column("calls", Integer, nullable=False),
    Column("calls_in_doubt", Integer, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("cost_nano_usd", BigInteger, nullable=False),
)
Index("run_steps_by_agent", run_steps.c.workspace_id, run_steps.c.agent_id)

due_runs = Table(
    "due_runs",
    READ_MODELS,
    Column("workspace_id", Text, primary_key=True),
    Column("run_id", BigInteger, primary_key=True, autoincrement=False),
    Column("stream_id", Text, nullable=False),
    Column("due_at", BigInteger, nullable=False),
)

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


# Queries.


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    current_step: Steps done so far.
    """

    run_id: RunId
    execution_id: str
    workflow_id: int
    workflow_name: str
    status: RunStatus
    current_step: int
    total_steps: int
    input: Blob
    output: Blob | None
    error: str | None
    started_by: str
    started_at: datetime
    finished_at: datetime | None
    calls: int
    tokens: int
    cost_nano_usd: int
    version: int


class StepRow(msgspec.Struct, frozen=True, kw_only=True):
    step: int
    step_id: str
    agent_id: int
    prompt_template: str
    status: StepStatus
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    retry_at: datetime | None
    output: Blob | None
    error: str | None
    provider: str | None
    model: str | None
    asked_model: str | None
    calls: int
    calls_in_doubt: int
    tokens: int
    cost_nano_usd: int


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    workflow_id: int | None = None
    status: RunStatus | None = None


class RunCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How runs ended, and how long the completed ones took in all."""

    by_status: dict[str, int]
    completed_us: int


class AgentWork(msgspec.Struct, frozen=True, kw_only=True):
    completed: int
    failed: int
    completed_us: int


class DueRun(msgspec.Struct, frozen=True, kw_only=True):
    workspace_id: WorkspaceId
    stream_id: StreamId
    due_at: datetime


def run(connection: Connection, workspace_id: WorkspaceId, run_id: int) -> RunRow | None:
    found = connection.execute(
        select(runs).where(runs.c.workspace_id == workspace_id, runs.c.run_id == run_id)
    )
    row = found.mappings().first()
    return None if row is None else _run_row(dict(row))


def run_by_execution(
    connection: Connection, workspace_id: WorkspaceId, execution_id: str
) -> RunRow | None:
    """Find a run by its `exec-…` name."""
    found = connection.execute(
        select(runs)
        .where(runs.c.workspace_id == workspace_id, runs.c.execution_id == execution_id)
        .order_by(runs.c.run_id.desc())
    )
    row = found.mappings().first()
    return None if row is None else _run_row(dict(row))


def steps_of(connection: Connection, workspace_id: WorkspaceId, run_id: int) -> list[StepRow]:
    found = connection.execute(
        select(run_steps)
        .where(run_steps.c.workspace_id == workspace_id, run_steps.c.run_id == run_id)
        .order_by(run_steps.c.step)
    )
    return [_step_row(dict(row)) for row in found.mappings()]


def run_page(
    connection: Connection,
    workspace_id: WorkspaceId,
    wanted: RunFilter,
    *,
    skip: int,
    limit: int,
) -> tuple[list[RunRow], int]:
    """Select runs, newest first, and tell how many there are in all."""
    where: list[ColumnElement[bool]] = [runs.c.workspace_id == workspace_id]
    if wanted.workflow_id is not None:
        where.append(runs.c.workflow_id == wanted.workflow_id)
    if wanted.status is not None:
        where.append(runs.c.status == wanted.status)
    count = select(func.count()).select_from(runs).where(*where)
    found = connection.execute(
        select(runs).where(*where).order_by(runs.c.run_id.desc()).offset(skip).limit(limit)
    )
    return [_run_row(dict(row)) for row in found.mappings()], connection.execute(count).scalar_one()


def run_counts(
    connection: Connection,
    workspace_id: WorkspaceId,
    *,
    workflow_id: int | None = None,
    since: datetime | None = None,
) -> RunCounts:
    where: list[ColumnElement[bool]] = [runs.c.workspace_id == workspace_id]
    if workflow_id is not None:
        where.append(runs.c.workflow_id == workflow_id)
    if since is not None:
        where.append(runs.c.started_at >= micros(since))
    found = connection.execute(
        select(
            runs.c.status,
            func.count(),
            func.coalesce(func.sum(runs.c.finished_at - runs.c.started_at), 0),
        )
        .where(*where)
        .group_by(runs.c.status)
    )
    rows = {status: (count, int(took)) for status, count, took in found}
    return RunCounts(
        by_status={status: count for status, (count, _) in rows.items()},
        completed_us=rows.get("completed", (0, 0))[1],
    )


def work_of_agents(
    connection: Connection, workspace_id: WorkspaceId, agent_ids: list[int]
) -> dict[int, AgentWork]:
    """Count what steps came of, per agent; agents without any are left out."""
    took = func.sum(run_steps.c.finished_at - run_steps.c.started_at)
    found = connection.execute(
        select(run_steps.c.agent_id, run_steps.c.status, func.count(), func.coalesce(took, 0))
        .where(
            run_steps.c.workspace_id == workspace_id,
            run_steps.c.agent_id.in_(agent_ids),
            run_steps.c.status.in_(("completed", "failed", "skipped")),
        )
        .group_by(run_steps.c.agent_id, run_steps.c.status)
    )
    work: dict[int, AgentWork] = {}
    for agent_id, status, count, us in found:
        known = work.get(agent_id, AgentWork(completed=0, failed=0, completed_us=0))
        done = status == "completed"
        work[agent_id] = AgentWork(
            completed=known.completed + (count if done else 0),
            failed=known.failed + (0 if done else count),
            completed_us=known.completed_us + (int(us) if done else 0),
        )
    return work


def due(connection: Connection, *, limit: int) -> list[DueRun]:
    """Select runs that have not ended, those due longest first, of all workspaces."""
    found = connection.execute(
        select(due_runs.c.workspace_id, due_runs.c.stream_id, due_runs.c.due_at)
        .order_by(due_runs.c.due_at, due_runs.c.run_id)
        .limit(limit)
    )
    return [
        DueRun(workspace_id=WorkspaceId(w), stream_id=StreamId(s), due_at=moment(at))
        for w, s, at in found
    ]


_BLOB = msgspec.json.Decoder(Blob | None)


def _run_row(row: Row) -> RunRow:
    given = _BLOB.decode(row["input"])
    assert given is not None
    return RunRow(
        **{name: row[name] for name in _RUN_PLAIN},
        run_id=RunId(row["run_id"]),
        input=given,
        output=_BLOB.decode(row["output"]),
        started_at=moment(row["started_at"]),
        finished_at=_moment(row["finished_at"]),
    )


_RUN_PLAIN = tuple(
    name
    for name in RunRow.__struct_fields__
    if name not in {"run_id", "input", "output", "started_at", "finished_at"}
)


def _step_row(row: Row) -> StepRow:
    plain = {name: row[name] for name in _STEP_PLAIN}
    moments: Row = {name: _moment(row[name]) for name in _STEP_MOMENTS}
    return StepRow(**plain, **moments, output=_BLOB.decode(row["output"]))


_STEP_MOMENTS = ("started_at", "finished_at", "retry_at")
_STEP_PLAIN = tuple(
    name for name in StepRow.__struct_fields__ if name not in {"output", *_STEP_MOMENTS}
)


def _moment(us: int | None) -> datetime | None:
    return None if us is None else moment(us)
