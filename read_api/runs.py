"""Routes on runs, which the wire calls executions."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, get, post
from litestar.params import FromPath, QueryParameter

from commands.runs import CancelRun
from domain.events import JsonObject
from domain.runs import RunId, RunStatus
from projections.agents import agent_names
from projections.runs import (
    RunFilter,
    RunRow,
    StepRow,
    StepStatus,
    run,
    run_by_execution,
    run_page,
    steps_of,
)
from read_api.accepted import accepted
from read_api.asked import ApiRequest
from read_api.auth import may
from read_api.errors import missing
from read_api.money import decimal_usd, usd
from read_api.view import ID_MAX, Skip, View

PAGE_MAX = 100

Limit = Annotated[int, QueryParameter(ge=1, le=PAGE_MAX)]


class StepBody(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a run's timeline.

    Attributes:
        model: Who really answered; `asked_model` is what the agent names.
        calls_in_doubt: Calls that may have been paid without an answer to show for it.
        cost_usd: Decimal, of the calls whose price is known.
        duration_ms: From the first try to the end; None while it lasts.
    """

    order: int
    step_id: str
    agent_id: int
    agent_name: str | None
    prompt_template: str
    status: StepStatus
    attempts: int
    started_at: datetime | None
    completed_at: datetime | None
    retry_at: datetime | None
    duration_ms: int | None
    provider: str | None
    model: str | None
    asked_model: str | None
    calls: int
    calls_in_doubt: int
    tokens_used: int
    cost_usd: str
    output: str | None
    error: str | None


class ExecutionItem(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    execution_id: str
    workflow_id: int
    workflow_name: str
    status: RunStatus
    current_step: int
    total_steps: int
    progress: int
    started_at: datetime
    completed_at: datetime | None
    error_message: str | None
    triggered_by: str
    total_tokens: int
    total_cost: float


class ExecutionPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[ExecutionItem]
    total: int
    skip: int
    limit: int


class ExecutionBody(ExecutionItem, frozen=True, kw_only=True):
    """Attributes:
    output_data: The keys the original frontend reads; nothing in it is estimated.
    """

    input_data: JsonObject
    output_data: JsonObject | None
    step_results: list[StepBody]


class Cancelled(msgspec.Struct, frozen=True, kw_only=True):
    status: RunStatus
    execution_id: int
    message: str


class ExecutionController(Controller):
    path = "/api/workflows/executions"
    tags = ("executions",)

    @get("/", summary="List executions, newest first", opt=may("executions:read"))
    async def list_executions(
        self,
        request: ApiRequest,
        workflow_id: Annotated[int | None, QueryParameter(ge=1, le=ID_MAX)] = None,
        status: Annotated[RunStatus | None, QueryParameter()] = None,
        skip: Skip = 0,
        limit: Limit = 50,
    ) -> Response[ExecutionPage]:
        view = request.view
        await view.fresh("runs")
        wanted = RunFilter(workflow_id=workflow_id, status=status)
        rows, total = await view.ask(run_page, wanted, skip=skip, limit=limit)
        items = [ExecutionItem(**_item(row)) for row in rows]
        return view.response(ExecutionPage(items=items, total=total, skip=skip, limit=limit))

    @get(
        "/{execution_id:str}",
        summary="Read an execution with the timeline of its steps",
        opt=may("executions:read"),
    )
    async def read(
        self, execution_id: FromPath[str], request: ApiRequest
    ) -> Response[ExecutionBody]:
        view = request.view
        await view.fresh("runs", "agents")
        row = await _found(view, execution_id)
        steps = await view.ask(steps_of, row.run_id)
        names = await view.ask(agent_names, sorted({step.agent_id for step in steps}))
        timeline = [await _step(view, step, names) for step in steps]
        body = ExecutionBody(
            **_item(row),
            input_data=msgspec.json.decode(await view.text(row.input) or "{}"),
            output_data=await _output(view, row, timeline),
            step_results=timeline,
        )
        return view.response(body, ETag=f'"{row.version}"')

    @post(
        "/{execution_id:str}/cancel",
        status_code=200,
        summary="Stop an execution, for good",
        opt=may("executions:cancel"),
    )
    async def cancel(
        self,
        execution_id: FromPath[str],
        request: ApiRequest,
    ) -> Response[Cancelled]:
        run_commands = request.commands.runs
        issued = await request.issued()
        view = request.view
        run_id = await _run_id(view, execution_id)
        outcome = await run_commands.cancel(CancelRun(run_id=run_id), issued)
        body = Cancelled(status="cancelled", execution_id=run_id, message="Execution cancelled")
        return accepted(outcome, body, outcome.answer.version, 200)


async def _run_id(view: View, execution_id: str) -> RunId:
    """Tell a run's integer id. A number is not looked up: to stop a run waits for no projector."""
    if _is_integer_id(execution_id):
        return RunId(int(execution_id))
    await view.fresh("runs")
    return RunId((await _found(view, execution_id)).run_id)


def _is_integer_id(execution_id: str) -> bool:
    return execution_id.isdecimal() and len(execution_id) < 19  # noqa: PLR2004 digits of 2^63


async def _found(view: View, execution_id: str) -> RunRow:
    """Find a run by its integer id or by its `exec-…` name."""
    if _is_integer_id(execution_id):
        row = await view.ask(run, int(execution_id))
    else:
        row = await view.ask(run_by_execution, execution_id)
    if row is None:
        raise missing("Execution")
    return row


def _item(row: RunRow) -> dict[str, Any]:
    return {
        "id": row.run_id,
        "execution_id": row.execution_id,
        "workflow_id": row.workflow_id,
        "workflow_name": row.workflow_name,
        "status": row.status,
        "current_step": row.current_step,
        "total_steps": row.total_steps,
        "progress": 100 * row.current_step // max(1, row.total_steps),
        "started_at": row.started_at,
        "completed_at": row.finished_at,
        "error_message": row.error,
        "triggered_by": row.started_by,
        "total_tokens": row.tokens,
        "total_cost": usd(row.cost_nano_usd),
    }


async def _step(view: View, row: StepRow, names: dict[int, str]) -> StepBody:
    plain = {name: getattr(row, name) for name in _PLAIN}
    return StepBody(
        **plain,
        order=row.step + 1,
        agent_name=names.get(row.agent_id),
        completed_at=row.finished_at,
        duration_ms=_took_ms(row.started_at, row.finished_at),
        tokens_used=row.tokens,
        cost_usd=decimal_usd(row.cost_nano_usd),
        output=await view.text(row.output),
    )


_PLAIN = tuple(
    sorted((set(StepBody.__struct_fields__) & set(StepRow.__struct_fields__)) - {"output"})
)


async def _output(view: View, row: RunRow, steps: list[StepBody]) -> JsonObject | None:
    if row.finished_at is None:
        return None
    return {
        "result": await view.text(row.output),
        "steps_completed": sum(step.status == "completed" for step in steps),
        "execution_time": (row.finished_at - row.started_at).total_seconds(),
        "total_cost": usd(row.cost_nano_usd),
        "total_tokens_used": row.tokens,
        "total_requests": row.calls,
        "subtasks": [_subtask(step) for step in steps],
    }


def _subtask(step: StepBody) -> JsonObject:
    return {
        "description": step.prompt_template,
        "selected_agent": {"agent_id": step.agent_id, "agent_name": step.agent_name},
        "execution_result": {
            "status": step.status,
            "tokens_used": step.tokens_used,
            "execution_time_ms": step.duration_ms,
            "llm_response": step.output,
            "error": step.error,
            "retries": max(0, step.attempts - 1),
        },
        "completed": step.status == "completed",
    }


def _took_ms(began: datetime | None, ended: datetime | None) -> int | None:
    if began is None or ended is None:
        return None
    return round((ended - began).total_seconds() * 1000)
