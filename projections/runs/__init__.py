"""Runs with the timeline of their steps, and which of them wait to be taken up."""

from projections.runs.projectors import DueRunsProjector, RunsProjector
from projections.runs.queries import (
    AgentWork,
    DueRun,
    RunFilter,
    RunRow,
    StepRow,
    StepStatus,
    due,
    run,
    run_by_execution,
    run_counts,
    run_page,
    steps_of,
    work_of_agents,
)
from projections.runs.tables import due_runs

__all__ = [
    "AgentWork",
    "DueRun",
    "DueRunsProjector",
    "RunFilter",
    "RunRow",
    "RunsProjector",
    "StepRow",
    "StepStatus",
    "due",
    "due_runs",
    "run",
    "run_by_execution",
    "run_counts",
    "run_page",
    "steps_of",
    "work_of_agents",
]
