"""What may be asked about runs."""

from datetime import datetime
from typing import Literal, TypeAlias

import msgspec
from sqlalchemy import ColumnElement, Connection, func, select

from domain.events import Blob, StreamId, WorkspaceId
from domain.runs import RunId, RunStatus
from projections.rows import Row, micros, moment
from projections.runs.tables import due_runs, run_steps, runs

StepStatus: TypeAlias = Literal[
    "pending", "running", "waiting", "completed", "failed", "skipped", "cancelled"
]


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
