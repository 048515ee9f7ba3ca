"""What is going on in all workflows: the overviews of the original frontend."""

from datetime import datetime, timedelta
from typing import Any

import msgspec

from domain.events import JsonObject
from domain.workflows import WorkflowStatus
from projections.runs import RunFilter, RunRow, run_counts, run_page, steps_of
from projections.workflows import WorkflowFilter, WorkflowRow, workflow_counts, workflow_page
from read_api.view import View

ACTIVE_MAX = 100
"""Workflows in the overview of active ones."""

RECENT_MAX = 5
"""Runs of each of them that are told."""

ACTIVITY_MAX = 20
"""Runs on the dashboard."""

TREND_DAYS = 7
LOAD_PER_RUN = 15
"""Points of the original's `system_load` for each run going on."""


class CurrentRun(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    progress: Steps done, in percent of all: nothing is guessed from the time that has passed.
    """

    id: int | None
    status: str
    progress: int
    current_step: str | None
    started_at: datetime | None
    estimated_completion: datetime | None = None


class RecentRun(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    status: str
    started_at: datetime
    completed_at: datetime | None
    duration: float | None


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    success_rate: Percent of the runs that have ended; None before the first.
    avg_duration: Seconds, of completed runs; None before the first.
    """

    total_executions: int
    successful_executions: int
    success_rate: float | None
    avg_duration: float | None
    last_execution: datetime | None


class ActiveWorkflow(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    name: str
    description: str | None
    status: WorkflowStatus
    current_execution: CurrentRun
    metrics: Metrics
    recent_executions: list[RecentRun]
    created_at: datetime
    updated_at: datetime


class ActiveBody(msgspec.Struct, frozen=True, kw_only=True):
    active_workflows: list[ActiveWorkflow]
    recipe_runs: list[JsonObject]
    total_active: int
    total_recipe_runs: int
    system_load: int
    last_updated: datetime


async def going_on(view: View) -> ActiveBody:
    """Tell of published workflows and their newest runs."""
    wanted = WorkflowFilter(status="active")
    rows, total = await view.ask(workflow_page, wanted, skip=0, limit=ACTIVE_MAX)
    counts = await view.ask(run_counts)
    running = counts.by_status.get("running", 0)
    return ActiveBody(
        active_workflows=[await _active(view, row) for row in rows],
        recipe_runs=[],
        total_active=total,
        total_recipe_runs=0,
        system_load=min(100, LOAD_PER_RUN * running),
        last_updated=view.now(),
    )


async def _active(view: View, row: WorkflowRow) -> ActiveWorkflow:
    wanted = RunFilter(workflow_id=row.workflow_id)
    recent, _ = await view.ask(run_page, wanted, skip=0, limit=RECENT_MAX)
    counts = await view.ask(run_counts, workflow_id=row.workflow_id)
    return ActiveWorkflow(
        id=row.workflow_id,
        name=row.profile.name,
        description=row.profile.description,
        status=row.status,
        current_execution=await _current(view, row),
        metrics=_metrics(counts.by_status, counts.completed_us, recent),
        recent_executions=[_recent(run) for run in recent],
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


async def dashboard_of(view: View) -> JsonObject:
    """Count in the original's shape; what is not known is None, never a made-up figure."""
    now = view.now()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    workflows = await view.ask(workflow_counts)
    ever = await view.ask(run_counts)
    since_midnight = await view.ask(run_counts, since=today)
    recent, _ = await view.ask(run_page, RunFilter(), skip=0, limit=ACTIVITY_MAX)
    of_all = _metrics(ever.by_status, ever.completed_us, recent)
    of_today = _metrics(since_midnight.by_status, since_midnight.completed_us, recent)
    return {
        "overview": {
            "total_workflows": sum(workflows.values()),
            "active_workflows": workflows.get("active", 0),
            "draft_workflows": workflows.get("draft", 0),
            "archived_workflows": workflows.get("archived", 0),
            "total_executions": of_all.total_executions,
            "running_executions": ever.by_status.get("running", 0),
        },
        "today_stats": {
            "executions": of_today.total_executions,
            "completed": of_today.successful_executions,
            "failed": since_midnight.by_status.get("failed", 0),
            "success_rate": of_today.success_rate,
        },
        "today": {"success_rate_today": of_today.success_rate},
        "performance": {
            "overall_success_rate": of_all.success_rate,
            "avg_execution_time": of_all.avg_duration,
        },
        "execution_trends": [
            await _trend(view, today - timedelta(days=d)) for d in reversed(range(TREND_DAYS))
        ],
        "recent_activity": [msgspec.to_builtins(_recent(run)) for run in recent],
        "last_updated": now,
    }


async def _trend(view: View, day: datetime) -> dict[str, Any]:
    upto = await view.ask(run_counts, since=day)
    after = await view.ask(run_counts, since=day + timedelta(days=1))
    total = sum(upto.by_status.values()) - sum(after.by_status.values())
    return {"date": day.date().isoformat(), "executions": total}


async def _current(view: View, row: WorkflowRow) -> CurrentRun:
    """Tell of the newest run that goes on. Its steps are those it was started with."""
    wanted = RunFilter(workflow_id=row.workflow_id, status="running")
    running, _ = await view.ask(run_page, wanted, skip=0, limit=1)
    if not running:
        return CurrentRun(id=None, status="idle", progress=0, current_step=None, started_at=None)
    run = running[0]
    names = [step.step_id for step in await view.ask(steps_of, run.run_id)]
    return CurrentRun(
        id=run.run_id,
        status=run.status,
        progress=100 * run.current_step // max(1, run.total_steps),
        current_step=names[run.current_step] if run.current_step < len(names) else None,
        started_at=run.started_at,
    )


def _metrics(by_status: dict[str, int], completed_us: int, recent: list[RunRow]) -> Metrics:
    completed = by_status.get("completed", 0)
    ended = completed + by_status.get("failed", 0) + by_status.get("cancelled", 0)
    return Metrics(
        total_executions=sum(by_status.values()),
        successful_executions=completed,
        success_rate=100 * completed / ended if ended else None,
        avg_duration=completed_us / completed / 1_000_000 if completed else None,
        last_execution=recent[0].started_at if recent else None,
    )


def _recent(run: RunRow) -> RecentRun:
    took = None if run.finished_at is None else (run.finished_at - run.started_at).total_seconds()
    return RecentRun(
        id=run.run_id,
        status=run.status,
        started_at=run.started_at,
        completed_at=run.finished_at,
        duration=took,
    )
