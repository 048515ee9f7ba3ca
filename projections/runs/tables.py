"""The tables of runs."""

from sqlalchemy import BigInteger, Column, Index, Integer, Table, Text

from projections.rows import READ_MODELS

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
Index("runs_by_execution", runs.c.workspace_id, runs.c.execution_id)
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
