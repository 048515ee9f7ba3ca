"""The routes."""

from typing import Annotated

from litestar import Controller, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter

from commands.runs import StartRun
from commands.workflows import ArchiveWorkflow, DraftWorkflow, DuplicateWorkflow
from domain.events import JsonObject
from domain.workflows import Step, WorkflowId, WorkflowStatus
from projections.agents import agent_names
from projections.workflows import WorkflowFilter, workflow, workflow_page
from read_api.accepted import accepted
from read_api.asked import ApiRequest
from read_api.auth import may
from read_api.errors import missing
from read_api.lane import SHORT
from read_api.view import EntityId, Skip, View
from read_api.workflows.answers import (
    Drafted,
    StartedRun,
    WorkflowBody,
    WorkflowPage,
    body_of,
    drafted,
    item_of,
    row_of,
)
from read_api.workflows.bodies import (
    NewRun,
    NewWorkflow,
    WorkflowUpdate,
    change_of,
    profile_of,
    steps_of,
)
from read_api.workflows.overview import ActiveBody, dashboard_of, going_on

BODY_MAX = 10 * 1024 * 1024
PAGE_MAX = 200

Limit = Annotated[int, QueryParameter(ge=1, le=PAGE_MAX)]


class WorkflowController(Controller):
    path = "/api/workflows"
    tags = ("workflows",)
    request_max_body_size = BODY_MAX

    @post("/", summary="Draft a workflow", opt=may("workflows:create") | SHORT)
    async def draft(
        self,
        data: JSONBody[NewWorkflow],
        request: ApiRequest,
    ) -> Response[Drafted]:
        workflow_commands = request.commands.workflows
        issued = await request.issued()
        command = DraftWorkflow(
            profile=profile_of(data), steps=steps_of(data.steps), publish=data.is_active
        )
        outcome = await workflow_commands.draft(command, issued)
        return accepted(outcome, drafted(outcome.answer), outcome.answer.version, 201)

    @get("/", summary="List workflows, newest update first", opt=may("workflows:read"))
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
        return view.response(WorkflowPage(items=[item_of(row) for row in rows], total=total))

    @get(
        "/active",
        summary="What is going on: published workflows and their newest runs",
        opt=may("workflows:read"),
    )
    async def active(self, request: ApiRequest) -> Response[ActiveBody]:
        view = request.view
        await view.fresh("workflows", "runs")
        return view.response(await going_on(view))

    @get("/stats/dashboard", summary="Counts of workflows and runs", opt=may("workflows:read"))
    async def dashboard(self, request: ApiRequest) -> Response[JsonObject]:
        view = request.view
        await view.fresh("workflows", "runs")
        return view.response(await dashboard_of(view))

    @get("/{workflow_id:int}", summary="Read a workflow", opt=may("workflows:read"))
    async def read(self, workflow_id: EntityId, request: ApiRequest) -> Response[WorkflowBody]:
        view = request.view
        await view.fresh("workflows", "agents")
        row = await view.ask(workflow, workflow_id)
        if row is None or row.status == "archived":
            raise missing("Workflow")
        names = await _agent_names(view, row.steps)
        return view.response(body_of(row, names), ETag=f'"{row.version}"')

    @put(
        "/{workflow_id:int}",
        summary="Change, publish or withdraw a workflow",
        opt=may("workflows:update"),
    )
    async def change(
        self,
        workflow_id: EntityId,
        data: JSONBody[WorkflowUpdate],
        request: ApiRequest,
    ) -> Response[WorkflowBody]:
        workflow_commands = request.commands.workflows
        issued = await request.issued()
        view = request.view
        # The answer names agents: also those that the caller has made just now.
        await view.fresh("agents")
        outcome = await workflow_commands.change(change_of(workflow_id, data), issued)
        answer = outcome.answer
        names = await _agent_names(view, answer.steps)
        return accepted(outcome, body_of(row_of(answer), names), answer.version, 200)

    @delete(
        "/{workflow_id:int}",
        status_code=200,
        summary="Archive a workflow; its runs stay",
        opt=may("workflows:delete"),
    )
    async def archive(
        self,
        workflow_id: EntityId,
        request: ApiRequest,
    ) -> Response[Drafted]:
        workflow_commands = request.commands.workflows
        issued = await request.issued()
        command = ArchiveWorkflow(workflow_id=WorkflowId(workflow_id))
        outcome = await workflow_commands.archive(command, issued)
        return accepted(outcome, drafted(outcome.answer), outcome.answer.version, 200)

    @post(
        "/{workflow_id:int}/duplicate",
        summary="Draft a copy of a workflow",
        opt=may("workflows:create"),
    )
    async def duplicate(
        self,
        workflow_id: EntityId,
        request: ApiRequest,
    ) -> Response[Drafted]:
        workflow_commands = request.commands.workflows
        issued = await request.issued()
        command = DuplicateWorkflow(workflow_id=WorkflowId(workflow_id))
        outcome = await workflow_commands.duplicate(command, issued)
        return accepted(outcome, drafted(outcome.answer), outcome.answer.version, 201)

    @post(
        ["/{workflow_id:int}/execute", "/{workflow_id:int}/execute-advanced"],
        status_code=202,
        summary="Start a run of a workflow",
        opt=may("workflows:execute"),
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
        async with request.run_places.admitting(request.view) as admit:
            outcome = await run_commands.start(command, issued, admit=admit)
        answer = outcome.answer
        started = StartedRun(
            id=answer.run_id,
            execution_id=answer.execution_id,
            workflow_id=answer.workflow_id,
            status="started",
            total_steps=answer.steps,
            message="Workflow execution started",
        )
        return accepted(outcome, started, answer.version, 202)


def provide_filter(
    q: Annotated[str | None, QueryParameter(max_length=255)] = None,
    owner: Annotated[str | None, QueryParameter(max_length=255)] = None,
    tag: Annotated[str | None, QueryParameter(max_length=255)] = None,
    status: Annotated[WorkflowStatus | None, QueryParameter()] = None,
) -> WorkflowFilter:
    return WorkflowFilter(q=q, owner=owner, tag=tag, status=status)


async def _agent_names(view: View, steps: tuple[Step, ...]) -> dict[int, str]:
    return await view.ask(agent_names, sorted({step.agent_id for step in steps}))
