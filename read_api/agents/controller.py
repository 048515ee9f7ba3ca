"""The routes."""

from typing import Annotated

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromQuery, JSONBody, QueryParameter

from commands.agents import AgentCommands, ArchiveAgent, ChangeAgent, RegisterAgent, RegisterAgents
from commands.transact import Issued
from domain.agents import AGENT_TYPES, AgentId, AgentStatus, ModelConfig
from projections.agents import AgentFilter, AgentRow, agent, agent_counts, agent_page
from projections.runs import work_of_agents
from projections.usage import usage_of_agents
from read_api.accepted import accepted
from read_api.agents.answers import (
    AgentBody,
    Message,
    ModelConfigBody,
    ModelUsageBody,
    PerformanceBody,
    StatsBody,
    StatusBody,
    TypesBody,
    answered,
    body_of,
    performance_of,
    usage_stats,
)
from read_api.agents.bodies import (
    AgentUpdate,
    NewAgent,
    NewModelConfig,
    SwitchedModel,
    change_of,
    profile_of,
    refuse_unknown_parts,
)
from read_api.asked import ApiRequest
from read_api.auth import may
from read_api.errors import missing
from read_api.lane import SHORT
from read_api.view import EntityId, Skip, View

BODY_MAX = 1024 * 1024
PAGE_MAX = 1_000

Limit = Annotated[int, QueryParameter(ge=1, le=PAGE_MAX)]


class AgentController(Controller):
    path = "/api/agents"
    tags = ("agents",)
    request_max_body_size = BODY_MAX

    @post("/", summary="Register an agent", opt=may("agents:create") | SHORT)
    async def register(
        self,
        data: JSONBody[NewAgent],
        request: ApiRequest,
    ) -> Response[AgentBody]:
        agent_commands = request.commands.agents
        issued = await request.issued()
        view = request.view
        refuse_unknown_parts(data)
        outcome = await agent_commands.register(RegisterAgent(profile=profile_of(data)), issued)
        answer = outcome.answer
        body = answered(answer, await view.model(answer.profile.model))
        return accepted(outcome, body, answer.version, 201)

    @post("/bulk", summary="Register agents, all of them or none", opt=may("agents:create"))
    async def register_all(
        self, data: JSONBody[list[NewAgent]], request: ApiRequest
    ) -> Response[list[AgentBody]]:
        for number, each in enumerate(data):
            refuse_unknown_parts(each, f"/{number}")
        command = RegisterAgents(profiles=tuple(profile_of(each) for each in data))
        outcome = await request.commands.agents.register_all(command, await request.issued())
        made, view = outcome.answer.agents, request.view
        bodies = [answered(each, await view.model(each.profile.model)) for each in made]
        return accepted(outcome, bodies, None, 201)

    @get("/", summary="List agents, newest first", opt=may("agents:read"))
    async def list_agents(
        self,
        request: ApiRequest,
        wanted: NamedDependency[AgentFilter],
        skip: Skip = 0,
        limit: Limit = 100,
    ) -> Response[list[AgentBody]]:
        return await _page(request.view, wanted, skip=skip, limit=limit)

    @get("/available", summary="List agents that can be given work", opt=may("agents:read"))
    async def available(
        self,
        request: ApiRequest,
        skip: Skip = 0,
        limit: Limit = 100,
    ) -> Response[list[AgentBody]]:
        wanted = AgentFilter(status="active")
        return await _page(request.view, wanted, skip=skip, limit=limit)

    @get("/types", summary="List the known kinds of agents", opt=may("agents:read"))
    async def types(self) -> TypesBody:
        return TypesBody(list(AGENT_TYPES), AGENT_TYPES)

    @get("/stats", summary="Count agents", opt=may("agents:read"))
    async def stats(
        self,
        request: ApiRequest,
    ) -> Response[StatsBody]:
        return await stats_of(request.view)

    @get("/{agent_id:int}", summary="Read an agent", opt=may("agents:read"))
    async def read(
        self,
        agent_id: EntityId,
        request: ApiRequest,
    ) -> Response[AgentBody]:
        view = request.view
        await view.fresh("agents", "runs", "usage")
        row = await _found(view, agent_id)
        (body,) = await _bodies(view, [row])
        return view.response(body, ETag=f'"{row.version}"')

    @put("/{agent_id:int}", summary="Change an agent", opt=may("agents:update"))
    async def change(
        self,
        agent_id: EntityId,
        data: JSONBody[AgentUpdate],
        request: ApiRequest,
    ) -> Response[AgentBody]:
        agent_commands = request.commands.agents
        issued = await request.issued()
        view = request.view
        refuse_unknown_parts(data)
        outcome = await agent_commands.change(change_of(AgentId(agent_id), data), issued)
        answer = outcome.answer
        used = await view.ask(usage_of_agents, [agent_id])
        worked = await view.ask(work_of_agents, [agent_id])
        model = await view.model(answer.profile.model)
        body = answered(answer, model, used.get(agent_id), worked.get(agent_id))
        return accepted(outcome, body, answer.version, 200)

    @delete(
        "/{agent_id:int}",
        status_code=200,
        summary="Archive an agent; its history stays",
        opt=may("agents:delete"),
    )
    async def archive(
        self,
        agent_id: EntityId,
        request: ApiRequest,
    ) -> Response[Message]:
        agent_commands = request.commands.agents
        issued = await request.issued()
        command = ArchiveAgent(agent_id=AgentId(agent_id))
        outcome = await agent_commands.archive(command, issued)
        message = Message(f"Agent {outcome.answer.name} deleted successfully")
        return accepted(outcome, message, outcome.answer.version, 200)

    @get("/{agent_id:int}/status", summary="Read an agent's status", opt=may("agents:read"))
    async def status(
        self,
        agent_id: EntityId,
        request: ApiRequest,
    ) -> Response[StatusBody]:
        view = request.view
        await view.fresh("agents")
        row = await _found(view, agent_id)
        body = StatusBody(
            agent_id=agent_id,
            name=row.profile.name,
            status=row.profile.status,
            updated_at=row.updated_at,
        )
        return view.response(body)

    @get(
        "/{agent_id:int}/model-config",
        summary="Read which model an agent uses",
        opt=may("agents:read"),
    )
    async def model_config(
        self,
        agent_id: EntityId,
        request: ApiRequest,
    ) -> Response[ModelConfigBody]:
        view = request.view
        await view.fresh("agents", "usage")
        row = await _found(view, agent_id)
        model = await view.model(row.profile.model)
        body = await _model_config(view, agent_id, row.profile.name, model)
        return view.response(body, ETag=f'"{row.version}"')

    @put(
        "/{agent_id:int}/model-config",
        summary="Give an agent another model",
        opt=may("agents:update"),
    )
    async def configure_model(
        self,
        agent_id: EntityId,
        data: JSONBody[NewModelConfig],
        request: ApiRequest,
    ) -> Response[ModelConfigBody]:
        agent_commands = request.commands.agents
        issued = await request.issued()
        view = request.view
        command = ChangeAgent(agent_id=AgentId(agent_id), model=data.known())
        return await _configured(command, agent_commands, issued, view)

    @post(
        "/{agent_id:int}/switch-model",
        status_code=200,
        summary="Switch to another model",
        opt=may("agents:update"),
    )
    async def switch_model(
        self,
        agent_id: EntityId,
        data: JSONBody[SwitchedModel],
        request: ApiRequest,
    ) -> Response[ModelConfigBody]:
        agent_commands = request.commands.agents
        issued = await request.issued()
        view = request.view
        await view.fresh("agents")
        row = await _found(view, agent_id)
        known = await view.model(row.profile.model)
        given = {n: v for n, v in msgspec.structs.asdict(data).items() if v is not None}
        model = msgspec.structs.replace(known, **given)
        command = ChangeAgent(agent_id=AgentId(agent_id), model=model)
        return await _configured(command, agent_commands, issued, view)

    @get(
        "/{agent_id:int}/model-usage",
        summary="Read what an agent's model calls came to",
        opt=may("agents:read"),
    )
    async def model_usage(
        self,
        agent_id: EntityId,
        request: ApiRequest,
    ) -> Response[ModelUsageBody]:
        view = request.view
        await view.fresh("agents", "usage")
        row = await _found(view, agent_id)
        used = await view.ask(usage_of_agents, [agent_id])
        body = ModelUsageBody(
            agent_id=agent_id,
            agent_name=row.profile.name,
            current_model=(await view.model(row.profile.model)).model_id,
            usage_stats=usage_stats(used.get(agent_id)),
            created_at=row.created_at,
            updated_at=row.updated_at,
        )
        return view.response(body)

    @get(
        "/{agent_id:int}/performance",
        summary="Read how an agent's steps and model calls went",
        opt=may("agents:read"),
    )
    async def performance(
        self,
        agent_id: EntityId,
        request: ApiRequest,
    ) -> Response[PerformanceBody]:
        view = request.view
        await view.fresh("agents", "runs", "usage")
        row = await _found(view, agent_id)
        used = await view.ask(usage_of_agents, [agent_id])
        worked = await view.ask(work_of_agents, [agent_id])
        model = await view.model(row.profile.model)
        body = performance_of(row, model, used.get(agent_id), worked.get(agent_id))
        return view.response(body)


def provide_filter(
    status: FromQuery[AgentStatus | None] = None,
    agent_type: Annotated[str | None, QueryParameter(max_length=255)] = None,
    search: Annotated[str | None, QueryParameter(max_length=255)] = None,
    tag: Annotated[str | None, QueryParameter(max_length=255)] = None,
) -> AgentFilter:
    return AgentFilter(status=status, agent_type=agent_type, search=search, tag=tag)


async def stats_of(view: View) -> Response[StatsBody]:
    """Count the workspace's agents."""
    await view.fresh("agents")
    counts = await view.ask(agent_counts)
    body = StatsBody(
        total_agents=counts.total,
        active_agents=counts.active,
        inactive_agents=counts.total - counts.active,
        agents_by_type=counts.by_type,
        timestamp=view.now(),
    )
    return view.response(body)


async def _page(
    view: View, wanted: AgentFilter, *, skip: int, limit: int
) -> Response[list[AgentBody]]:
    await view.fresh("agents", "runs", "usage")
    rows, total = await view.ask(agent_page, wanted, skip=skip, limit=limit)
    bodies = await _bodies(view, rows)
    return view.response(bodies, **{"X-Total-Count": str(total)})


async def _configured(
    command: ChangeAgent, agent_commands: AgentCommands, issued: Issued, view: View
) -> Response[ModelConfigBody]:
    outcome = await agent_commands.change(command, issued)
    answer = outcome.answer
    assert answer.profile.model is not None
    body = await _model_config(view, command.agent_id, answer.profile.name, answer.profile.model)
    return accepted(outcome, body, answer.version, 200)


async def _model_config(
    view: View, agent_id: int, name: str, model: ModelConfig
) -> ModelConfigBody:
    used = await view.ask(usage_of_agents, [agent_id])
    return ModelConfigBody(
        agent_id=agent_id,
        agent_name=name,
        model_config=model,
        model_usage_stats=usage_stats(used.get(agent_id)),
    )


async def _found(view: View, agent_id: int) -> AgentRow:
    row = await view.ask(agent, agent_id)
    if row is None:
        raise missing("Agent")
    return row


async def _bodies(view: View, rows: list[AgentRow]) -> list[AgentBody]:
    ids: list[int] = [row.agent_id for row in rows]
    used = await view.ask(usage_of_agents, ids)
    worked = await view.ask(work_of_agents, ids)
    return [
        body_of(
            row,
            await view.model(row.profile.model),
            used.get(row.agent_id),
            worked.get(row.agent_id),
        )
        for row in rows
    ]
