"""`automatos demo`: the whole way, from an agent's file to the usage it caused."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.table import Table

from commands.runs import RunAnswer, StartRun
from commands.workflows import DraftWorkflow
from domain.events import WorkspaceId
from domain.runs import RUN, RunId
from domain.workflows import Step, WorkflowId, WorkflowProfile
from infra.agent_import import import_agents
from infra.cli import agents
from infra.cli.events import line
from infra.cli.shared import notes, out, settings
from infra.composition import Installation, build_installation
from infra.lock import FolderLock
from projections.agents import AgentFilter, AgentRow, agent_page
from projections.runs import RunRow, run, steps_of
from projections.usage import usage_since
from projections.workflows import WorkflowFilter, workflow_page
from read_api.money import decimal_usd

MARKETPLACE = Path(__file__).resolve().parents[3] / "shared" / "data" / "marketplace"
"""Third parties' agents, where the project is developed; not part of it."""

OWN_AGENTS = Path(__file__).resolve().parents[1] / "demo_agents"

PREFERRED = (
    ("incident-responder", "incident-triager"),
    ("incident-response-debugger", "root-cause-investigator"),
    ("code-documentation-docs-architect", "postmortem-writer"),
)
"""For each step, the agents to take if they are there."""

WORKFLOW_NAME = "Incident post-mortem"
LAST_EVENTS = 20
USAGE_ROWS_MAX = 50
AGENTS_MAX = 1_000
ACTOR = "cli:demo"

TEMPLATES = (
    (
        "triage",
        "State what is failing, since when and for whom.\n\nThe report:\n{input.report}",
    ),
    (
        "cause",
        (
            "Name the likeliest cause and the evidence for it.\n\nThe report:\n{input.report}\n\n"
            "What triage found:\n{steps.triage.output}"
        ),
    ),
    (
        "postmortem",
        (
            "Write a short post-mortem: what happened, why, and what prevents it.\n\n"
            "Triage:\n{steps.triage.output}\n\nCause:\n{previous.output}"
        ),
    ),
)

REPORT = """\
Checkout requests began to fail at 14:05 UTC. About 30 percent of European customers saw error 503.
The payment service was deployed at 14:02 with a new connection pool size of 5, down from 50.
Database CPU stayed at 20 percent. Waiting connections rose from 0 to 400 within a minute.
Other services that use the same database showed no errors. Nobody changed the database itself.
At 14:31 the payment service was rolled back. Errors stopped at 14:33.
The load test before the release had used one tenth of the normal traffic.
"""


def demo() -> None:
    """Import agents, run a workflow of three of them, and show what came of it."""
    found = settings()
    lock = FolderLock(found.data_dir)
    try:
        ended = asyncio.run(_demo(build_installation(found)))
    finally:
        lock.release()
    if ended.status != "completed":
        raise typer.Exit(1)


async def _demo(installation: Installation) -> RunRow:
    await installation.start()
    try:
        workspace_id = await installation.writing.local_workspace()
        await _import(installation, workspace_id)
        workflow_id = await _workflow(installation, workspace_id)
        started = await _start(installation, workspace_id, workflow_id)
        ended = await _watch(installation, workspace_id, started.run_id)
        await _show(installation, workspace_id, ended)
        return ended
    finally:
        await installation.stop()


def _heading(text: str) -> None:
    out.print(f"\n== {text}", markup=False)


async def _import(installation: Installation, workspace_id: WorkspaceId) -> None:
    source = MARKETPLACE if MARKETPLACE.is_dir() else OWN_AGENTS
    _heading(f"Importing the agents of {source.name}")
    for attempt in ("first", "second"):
        imported = await import_agents(installation.writing, workspace_id, source)
        out.print(f"{attempt} import: ", end="")
        agents.report(imported)
        head = await installation.writing.store.head()
        out.print(f"  the log has {head} events")


async def _workflow(installation: Installation, workspace_id: WorkspaceId) -> WorkflowId:
    """Draft and publish the demo's workflow, or take the one of an earlier demo."""
    await _caught_up(installation)
    wanted = WorkflowFilter(q=WORKFLOW_NAME, status="active")
    known, _ = await installation.reads.ask(workflow_page, workspace_id, wanted, skip=0, limit=1)
    chosen = await _agents(installation, workspace_id)
    _heading(f"Workflow: {WORKFLOW_NAME}")
    for number, agent in enumerate(chosen, start=1):
        out.print(f"{number}. {TEMPLATES[number - 1][0]:<11} {agent.profile.name}", markup=False)
    if known:
        return known[0].workflow_id
    steps = [
        Step(step_id=name, agent_id=agent.agent_id, prompt_template=template)
        for (name, template), agent in zip(TEMPLATES, chosen, strict=True)
    ]
    profile = WorkflowProfile(name=WORKFLOW_NAME, inputs=("report",))
    command = DraftWorkflow(profile=profile, steps=tuple(steps), publish=True)
    issued = installation.writing.issued(workspace_id, ACTOR)
    return (await installation.writing.workflows.draft(command, issued)).answer.workflow_id


async def _agents(installation: Installation, workspace_id: WorkspaceId) -> list[AgentRow]:
    found, _ = await installation.reads.ask(
        agent_page, workspace_id, AgentFilter(), skip=0, limit=AGENTS_MAX
    )
    by_name = {row.profile.name: row for row in found}
    return [_pick(by_name, names, found) for names in PREFERRED]


def _pick(by_name: dict[str, AgentRow], names: Sequence[str], found: list[AgentRow]) -> AgentRow:
    return next((by_name[name] for name in names if name in by_name), found[0])


async def _start(
    installation: Installation, workspace_id: WorkspaceId, workflow_id: WorkflowId
) -> RunAnswer:
    command = StartRun(workflow_id=workflow_id, input={"report": REPORT})
    issued = installation.writing.issued(workspace_id, ACTOR)
    return (await installation.runs.start(command, issued)).answer


async def _watch(installation: Installation, workspace_id: WorkspaceId, run_id: RunId) -> RunRow:
    """Print the run's events as they are recorded, until it has ended."""
    _heading(f"Run {run_id}, live")
    stream_id, after, store = RUN.stream_id(workspace_id, run_id), 0, installation.writing.store
    while True:
        for recorded in await store.read_stream(stream_id, after=after):
            out.print(line(recorded), markup=False)
            after = recorded.stream_version
        await _caught_up(installation)
        row = await installation.reads.ask(run, workspace_id, run_id)
        if row is not None and row.finished_at is not None and after == row.version:
            return row
        _still_going(installation)
        await store.changed()


def _still_going(installation: Installation) -> None:
    """Fail with whatever ended the follower or the runner, rather than wait for ever."""
    for task in installation.tasks:
        if task.done():
            task.result()


async def _show(installation: Installation, workspace_id: WorkspaceId, ended: RunRow) -> None:
    store = installation.writing.store
    _heading(f"Result: {ended.status}")
    if ended.output is not None:
        out.print(await store.text(workspace_id, ended.output), markup=False)
    for step in await installation.reads.ask(steps_of, workspace_id, ended.run_id):
        if step.provider == "offline":
            notes.print(
                "\nNo API key is set for the agents' provider: the built-in extractive model "
                "answered, which only picks sentences. Set ANTHROPIC_API_KEY for the real one."
            )
            break
    _heading("Usage")
    await _show_usage(installation, workspace_id, ended)
    _heading(f"The last {LAST_EVENTS} events")
    head = await store.head()
    for recorded in await store.read_all(after=max(0, head - LAST_EVENTS), limit=LAST_EVENTS):
        out.print(line(recorded), markup=False)


async def _show_usage(installation: Installation, workspace_id: WorkspaceId, ended: RunRow) -> None:
    rows = await installation.reads.ask(
        usage_since, workspace_id, ended.started_at.date(), limit=USAGE_ROWS_MAX
    )
    found, _ = await installation.reads.ask(
        agent_page, workspace_id, AgentFilter(), skip=0, limit=AGENTS_MAX
    )
    names: dict[int, str] = {row.agent_id: row.profile.name for row in found}
    table = Table("day", "agent", "model", "calls", "in", "out", "USD")
    for row in rows:
        tokens = row.tokens
        counts = (row.calls, tokens.total - tokens.output - tokens.reasoning)
        table.add_row(
            row.day.isoformat(),
            names.get(row.agent_id, str(row.agent_id)),
            f"{row.provider}/{row.model}",
            *(str(count) for count in counts),
            str(tokens.output + tokens.reasoning),
            decimal_usd(row.cost_nano_usd),
        )
    out.print(table)


async def _caught_up(installation: Installation) -> None:
    head = await installation.writing.store.head()
    for name in ("agents", "workflows", "runs", "usage"):
        await installation.follower.wait(name, head, timeout_s=5.0)
