"""Routes on workflows, in the original frontend's shapes."""

from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter
from msgspec import UNSET, UnsetType

from commands.runs import StartRun
from commands.workflows import (
    RETRIES_MAX,
    STEPS_MAX,
    ArchiveWorkflow,
    ChangeWorkflow,
    DraftWorkflow,
    DuplicateWorkflow,
    Name,
    WorkflowAnswer,
)
from domain.events import JsonObject
from domain.workflows import (
    ErrorHandling,
    Step,
    WorkflowChanges,
    WorkflowId,
    WorkflowProfile,
    WorkflowStatus,
)
from projections.agents import agent_names
from projections.runs import RunFilter, RunRow, run_counts, run_page
from projections.workflows import (
    WorkflowFilter,
    WorkflowRow,
    workflow,
    workflow_counts,
    workflow_page,
)
from read_api.accepted import accepted
from read_api.asked import ApiRequest
from read_api.errors import missing
from read_api.lane import SHORT
from read_api.view import EntityId, View

BODY_MAX = 10 * 1024 * 1024
PAGE_MAX = 200
ACTIVE_MAX = 100
"""Workflows in the overview of active ones."""

RECENT_MAX = 5
LOAD_PER_RUN = 15
"""Points of the original's `system_load` for each run going on."""

Skip = Annotated[int, QueryParameter(ge=0, le=2**53)]
Limit = Annotated[int, QueryParameter(ge=1, le=PAGE_MAX)]
Text255 = Annotated[str, msgspec.Meta(max_length=255)]
LongText = Annotated[str, msgspec.Meta(max_length=65_536)]
Tags = Annotated[list[Text255], msgspec.Meta(max_length=100)]
StepId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
InputName = Annotated[str, msgspec.Meta(pattern=r"^[\w-]{1,64}$")]
Inputs = Annotated[list[InputName], msgspec.Meta(max_length=100)]


class NewStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Attributes:
    order: Sorts the steps where it is given; else they stand as they come.
    """

    agent_id: int
    prompt_template: Annotated[str, msgspec.Meta(min_length=1)]
    step_id: StepId | None = None
    order: int | None = None
    error_handling: ErrorHandling = "stop"
    max_retries: Annotated[int, msgspec.Meta(ge=0, le=RETRIES_MAX)] = 4


Steps = Annotated[list[NewStep], msgspec.Meta(max_length=STEPS_MAX)]


class NewWorkflow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Attributes:
    is_active: Publish at once; needs a step.
    inputs: Names every run must be given; a template may then name no other.
    """

    name: Name
    description: LongText | None = None
    goal: LongText | None = None
    context: LongText | None = None
    category: Text255 = "automation"
    priority: Text255 = "medium"
    owner: Text255 | None = None
    config: JsonObject = {}
    steps: Steps = []
    agents: list[Text255] = []
    tags: Tags = []
    inputs: Inputs | None = None
    is_active: bool = False
    created_by: Text255 | None = None


class WorkflowUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name | UnsetType = UNSET
    description: LongText | UnsetType | None = UNSET
    goal: LongText | UnsetType | None = UNSET
    context: LongText | UnsetType | None = UNSET
    category: Text255 | UnsetType = UNSET
    priority: Text255 | UnsetType = UNSET
    owner: Text255 | UnsetType | None = UNSET
    config: JsonObject | UnsetType = UNSET
    steps: Steps | None = None
    tags: Tags | UnsetType = UNSET
    inputs: Inputs | UnsetType | None = UNSET
    status: WorkflowStatus | None = None


class NewRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    input_data: JsonObject = {}


class Drafted(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    name: str
    description: str | None
    status: WorkflowStatus
    created_at: datetime
    updated_at: datetime
    version: int
    message: str


class WorkflowItem(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    name: str
    description: str | None
    status: WorkflowStatus
    owner: str | None
    tags: tuple[str, ...]
    default_policy_id: int | None
    created_at: datetime
    updated_at: datetime


class WorkflowPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[WorkflowItem]
    total: int


class NamedAgent(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    name: str | None


class WorkflowBody(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    name: str
    description: str | None
    goal: str | None
    context: str | None
    category: str
    priority: str
    status: WorkflowStatus
    owner: str | None
    tags: tuple[str, ...]
    config: JsonObject
    inputs: tuple[str, ...] | None
    steps: tuple[Step, ...]
    agents: list[NamedAgent]
    created_at: datetime
    updated_at: datetime
    created_by: str
    version: int


class StartedRun(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    execution_id: str
    workflow_id: int
    status: str
    total_steps: int
    message: str


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


class WorkflowController(Controller):
    path = "/api/workflows"
    tags = ("workflows",)
    request_max_body_size = BODY_MAX

    @post("/", summary="Draft a workflow", opt=SHORT)
    async def draft(
        self,
        data: JSONBody[NewWorkflow],
        request: ApiRequest,
    ) -> Response[Drafted]:
        workflow_commands = request.commands.workflows
        issued = await request.issued()
        command = DraftWorkflow(
            profile=_profile(data), steps=_steps(data.steps), publish=data.is_active
        )
        outcome = await workflow_commands.draft(command, issued)
        return accepted(outcome, _drafted(outcome.answer), outcome.answer.version, 201)

    @get("/", summary="List workflows, newest update first")
    async def list_workflows(
        self,
        request: ApiRequest,
        wanted: NamedDependency[WorkflowFilter],
        skip: Skip = 0,
        limit: Limit = 50,
    ) -> Response[WorkflowPage]:
        view = request.view
        await view.fresh("workflows")
        rows, total = await view.ask(workflow_page, wanted, skip=skip, limit=limit)
        return view.response(WorkflowPage(items=[_item(row) for row in rows], total=total))

    @get("/active", summary="What is going on: published workflows and their newest runs")
    async def active(self, request: ApiRequest) -> Response[ActiveBody]:
        view = request.view
        await view.fresh("workflows", "runs")
        wanted = WorkflowFilter(status="active")
        rows, total = await view.ask(workflow_page, wanted, skip=0, limit=ACTIVE_MAX)
        counts = await view.ask(run_counts)
        running = counts.by_status.get("running", 0)
        body = ActiveBody(
            active_workflows=[await _active(view, row) for row in rows],
            recipe_runs=[],
            total_active=total,
            total_recipe_runs=0,
            system_load=min(100, LOAD_PER_RUN * running),
            last_updated=view.now(),
        )
        return view.response(body)

    @get("/stats/dashboard", summary="Counts of workflows and runs")
    async def dashboard(self, request: ApiRequest) -> Response[JsonObject]:
        view = request.view
        await view.fresh("workflows", "runs")
        return view.response(await _dashboard(view))

    @get("/{workflow_id:int}", summary="Read a workflow")
    async def read(self, workflow_id: EntityId, request: ApiRequest) -> Response[WorkflowBody]:
        view = request.view
        await view.fresh("workflows", "agents")
        row = await view.ask(workflow, workflow_id)
        if row is None or row.status == "archived":
            raise missing("Workflow")
        names = await _agent_names(view, row.steps)
        return view.response(_body(row, names), ETag=f'"{row.version}"')

    @put("/{workflow_id:int}", summary="Change, publish or withdraw a workflow")
    async def change(
        self,
        workflow_id: EntityId,
        data: JSONBody[WorkflowUpdate],
        request: ApiRequest,
    ) -> Response[WorkflowBody]:
        workflow_commands = request.commands.workflows
        issued = await request.issued()
        view = request.view
        outcome = await workflow_commands.change(_change(workflow_id, data), issued)
        answer = outcome.answer
        names = await _agent_names(view, answer.steps)
        return accepted(outcome, _body(_row(answer), names), answer.version, 200)

    @delete("/{workflow_id:int}", status_code=200, summary="Archive a workflow; its runs stay")
    async def archive(
        self,
        workflow_id: EntityId,
        request: ApiRequest,
    ) -> Response[Drafted]:
        workflow_commands = request.commands.workflows
        issued = await request.issued()
        command = ArchiveWorkflow(workflow_id=WorkflowId(workflow_id))
        outcome = await workflow_commands.archive(command, issued)
        return accepted(outcome, _drafted(outcome.answer), outcome.answer.version, 200)

    @post("/{workflow_id:int}/duplicate", summary="Draft a copy of a workflow")
    async def duplicate(
        self,
        workflow_id: EntityId,
        request: ApiRequest,
    ) -> Response[Drafted]:
        workflow_commands = request.commands.workflows
        issued = await request.issued()
        command = DuplicateWorkflow(workflow_id=WorkflowId(workflow_id))
        outcome = await workflow_commands.duplicate(command, issued)
        return accepted(outcome, _drafted(outcome.answer), outcome.answer.version, 201)

    @post(
        ["/{workflow_id:int}/execute", "/{workflow_id:int}/execute-advanced"],
        status_code=202,
        summary="Start a run of a workflow",
    )
    async def execute(
        self,
        workflow_id: EntityId,
        request: ApiRequest,
        data: JSONBody[NewRun | None] = None,
    ) -> Response[StartedRun]:
        run_commands = request.commands.runs
        issued = await request.issued()
        given = {} if data is None else data.input_data
        command = StartRun(workflow_id=WorkflowId(workflow_id), input=given)
        outcome = await run_commands.start(command, issued)
        answer = outcome.answer
        body = StartedRun(
            id=answer.run_id,
            execution_id=answer.execution_id,
            workflow_id=answer.workflow_id,
            status="started",
            total_steps=answer.steps,
            message="Workflow execution started",
        )
        return accepted(outcome, body, answer.version, 202)


def provide_filter(
    q: Annotated[str | None, QueryParameter(max_length=255)] = None,
    owner: Annotated[str | None, QueryParameter(max_length=255)] = None,
    tag: Annotated[str | None, QueryParameter(max_length=255)] = None,
    status: Annotated[WorkflowStatus | None, QueryParameter()] = None,
) -> WorkflowFilter:
    return WorkflowFilter(q=q, owner=owner, tag=tag, status=status)


async def _agent_names(view: View, steps: tuple[Step, ...]) -> dict[int, str]:
    return await view.ask(agent_names, sorted({step.agent_id for step in steps}))


def _profile(data: NewWorkflow) -> WorkflowProfile:
    return WorkflowProfile(
        name=data.name.strip(),
        description=data.description,
        goal=data.goal,
        context=data.context,
        category=data.category,
        priority=data.priority,
        owner=data.owner or data.created_by,
        tags=tuple(data.tags),
        configuration={**data.config, **({"agents": data.agents} if data.agents else {})},
        inputs=None if data.inputs is None else tuple(data.inputs),
    )


def _steps(given: list[NewStep]) -> tuple[Step, ...]:
    """Put steps in order and name those that have no name: `step-1`, `step-2` and so on."""
    ordered = sorted(given, key=lambda step: 0 if step.order is None else step.order)
    return tuple(
        Step(
            step_id=step.step_id or f"step-{number}",
            agent_id=step.agent_id,
            prompt_template=step.prompt_template,
            error_handling=step.error_handling,
            max_retries=step.max_retries,
        )
        for number, step in enumerate(ordered, start=1)
    )


def _change(workflow_id: int, data: WorkflowUpdate) -> ChangeWorkflow:
    return ChangeWorkflow(
        workflow_id=WorkflowId(workflow_id),
        changes=WorkflowChanges(
            name=data.name if data.name is UNSET else data.name.strip(),
            description=data.description,
            goal=data.goal,
            context=data.context,
            category=data.category,
            priority=data.priority,
            owner=data.owner,
            tags=data.tags if data.tags is UNSET else tuple(data.tags),
            configuration=data.config,
            inputs=tuple(data.inputs) if isinstance(data.inputs, list) else data.inputs,
        ),
        steps=None if data.steps is None else _steps(data.steps),
        status=data.status,
    )


def _drafted(answer: WorkflowAnswer) -> Drafted:
    done = {"draft": "drafted", "active": "published", "archived": "deleted"}[answer.status]
    return Drafted(
        id=answer.workflow_id,
        name=answer.profile.name,
        description=answer.profile.description,
        status=answer.status,
        created_at=answer.created_at,
        updated_at=answer.updated_at,
        version=answer.version,
        message=f"Workflow {done} successfully",
    )


def _row(answer: WorkflowAnswer) -> WorkflowRow:
    return WorkflowRow(**{name: getattr(answer, name) for name in WorkflowRow.__struct_fields__})


def _item(row: WorkflowRow) -> WorkflowItem:
    return WorkflowItem(
        id=row.workflow_id,
        name=row.profile.name,
        description=row.profile.description,
        status=row.status,
        owner=row.profile.owner,
        tags=row.profile.tags,
        default_policy_id=None,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _body(row: WorkflowRow, names: dict[int, str]) -> WorkflowBody:
    profile = row.profile
    ids = dict.fromkeys(step.agent_id for step in row.steps)
    return WorkflowBody(
        id=row.workflow_id,
        name=profile.name,
        description=profile.description,
        goal=profile.goal,
        context=profile.context,
        category=profile.category,
        priority=profile.priority,
        status=row.status,
        owner=profile.owner,
        tags=profile.tags,
        config=profile.configuration,
        inputs=profile.inputs,
        steps=row.steps,
        agents=[NamedAgent(id=agent_id, name=names.get(agent_id)) for agent_id in ids],
        created_at=row.created_at,
        updated_at=row.updated_at,
        created_by=row.created_by,
        version=row.version,
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
        current_execution=_current(row, recent),
        metrics=_metrics(counts.by_status, counts.completed_us, recent),
        recent_executions=[_recent(run) for run in recent],
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _current(row: WorkflowRow, recent: list[RunRow]) -> CurrentRun:
    running = [run for run in recent if run.status == "running"]
    if not running:
        return CurrentRun(id=None, status="idle", progress=0, current_step=None, started_at=None)
    run = running[0]
    names = [step.step_id for step in row.steps]
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


async def _dashboard(view: View) -> JsonObject:
    """Count in the original's shape; what is not known is None, never a made-up figure."""
    now = view.now()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    workflows = await view.ask(workflow_counts)
    ever = await view.ask(run_counts)
    since_midnight = await view.ask(run_counts, since=today)
    recent, _ = await view.ask(run_page, RunFilter(), skip=0, limit=20)
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
            await _trend(view, today - timedelta(days=d)) for d in range(6, -1, -1)
        ],
        "recent_activity": [msgspec.to_builtins(_recent(run)) for run in recent],
        "last_updated": now,
    }


async def _trend(view: View, day: datetime) -> dict[str, Any]:
    upto = await view.ask(run_counts, since=day)
    after = await view.ask(run_counts, since=day + timedelta(days=1))
    total = sum(upto.by_status.values()) - sum(after.by_status.values())
    return {"date": day.date().isoformat(), "executions": total}
