"""Routes on agents, in the original frontend's shapes."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromQuery, JSONBody, QueryParameter
from msgspec import UNSET, UnsetType

from commands.agents import (
    TAGS_MAX,
    AgentAnswer,
    AgentCommands,
    ArchiveAgent,
    ChangeAgent,
    Description,
    Name,
    RegisterAgent,
)
from commands.transact import Issued
from domain.agents import (
    AGENT_TYPES,
    AgentChanges,
    AgentId,
    AgentProfile,
    AgentSource,
    AgentStatus,
    ModelConfig,
)
from domain.errors import Invalid
from domain.events import JsonObject
from projections.agents import AgentFilter, AgentRow, agent, agent_counts, agent_page
from projections.runs import AgentWork, work_of_agents
from projections.usage import AgentUsage, usage_of_agents
from read_api.accepted import accepted
from read_api.asked import ApiRequest
from read_api.errors import missing
from read_api.lane import SHORT
from read_api.view import EntityId, View

BODY_MAX = 1024 * 1024
PAGE_MAX = 1_000
NANO = 1_000_000_000

Skip = Annotated[int, QueryParameter(ge=0, le=2**53)]
Limit = Annotated[int, QueryParameter(ge=1, le=PAGE_MAX)]
Text255 = Annotated[str, msgspec.Meta(max_length=255)]
Tags = Annotated[list[Text255], msgspec.Meta(max_length=TAGS_MAX)] | str


class NewModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    provider: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    model_id: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.7
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 2000
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    fallback_model_id: Text255 | None = None

    def known(self) -> ModelConfig:
        return msgspec.convert(msgspec.to_builtins(self), ModelConfig)


class NewAgent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Attributes:
    skill_ids, tool_ids, plugin_ids: Accepted because the frontend sends them; there is none
        to name yet.
    """

    name: Name
    description: Description | None = None
    agent_type: Text255 = "custom"
    status: AgentStatus = "active"
    configuration: JsonObject = {}
    system_prompt: str = ""
    model_config: NewModelConfig | None = None
    tags: Tags = []
    skill_ids: list[int] = []
    tool_ids: list[int] = []
    plugin_ids: list[str] = []
    marketplace_category: Text255 | None = None


class AgentUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    agent_type: Text255 | UnsetType = UNSET
    status: AgentStatus | UnsetType = UNSET
    configuration: JsonObject | UnsetType = UNSET
    system_prompt: str | UnsetType = UNSET
    model_config: NewModelConfig | UnsetType | None = UNSET
    tags: Tags | UnsetType = UNSET
    skill_ids: list[int] = []
    tool_ids: list[int] = []
    plugin_ids: list[str] = []


class SwitchedModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model_id: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    provider: Text255 | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None


class ModelUsageStats(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    total_cost: US dollars, of the calls whose price is known.
    """

    total_tokens: int = 0
    total_cost: float = 0.0
    total_requests: int = 0
    avg_tokens_per_request: int = 0
    last_used_at: datetime | None = None


class AgentBody(msgspec.Struct, frozen=True, kw_only=True):
    """The original's AgentResponse, and what is ours at its end.

    Attributes:
        performance_metrics: Empty until the agent has finished a step.
        version: The ETag's number.
    """

    id: int
    name: str
    description: str | None
    agent_type: str
    status: AgentStatus
    configuration: JsonObject
    performance_metrics: JsonObject
    tags: tuple[str, ...]
    priority_level: str
    max_concurrent_tasks: int
    auto_start: bool
    created_at: datetime
    updated_at: datetime
    created_by: str
    skills: list[JsonObject]
    tools: list[JsonObject]
    plugins: list[JsonObject]
    agent_model_config: ModelConfig
    model_usage_stats: ModelUsageStats
    system_prompt: str
    source: AgentSource | None
    version: int


class Message(msgspec.Struct, frozen=True):
    message: str


class TypesBody(msgspec.Struct, frozen=True):
    data: list[str]
    descriptions: dict[str, str]


class StatsBody(msgspec.Struct, frozen=True, kw_only=True):
    total_agents: int
    active_agents: int
    inactive_agents: int
    agents_by_type: dict[str, int]
    timestamp: datetime


class StatusBody(msgspec.Struct, frozen=True, kw_only=True):
    agent_id: int
    name: str
    status: AgentStatus
    updated_at: datetime


class ModelConfigBody(msgspec.Struct, frozen=True, kw_only=True):
    agent_id: int
    agent_name: str
    model_config: ModelConfig
    model_usage_stats: ModelUsageStats


class ModelUsageBody(msgspec.Struct, frozen=True, kw_only=True):
    agent_id: int
    agent_name: str
    current_model: str
    usage_stats: ModelUsageStats
    created_at: datetime
    updated_at: datetime


class AgentController(Controller):
    path = "/api/agents"
    tags = ("agents",)
    request_max_body_size = BODY_MAX

    @post("/", summary="Register an agent", opt=SHORT)
    async def register(
        self,
        data: JSONBody[NewAgent],
        request: ApiRequest,
    ) -> Response[AgentBody]:
        agent_commands = request.commands.agents
        issued = await request.issued()
        view = request.view
        _refuse_unknown_parts(data)
        outcome = await agent_commands.register(RegisterAgent(profile=_profile(data)), issued)
        answer = outcome.answer
        return accepted(outcome, _from_answer(answer, view), answer.version, 201)

    @get("/", summary="List agents, newest first")
    async def list_agents(
        self,
        request: ApiRequest,
        wanted: NamedDependency[AgentFilter],
        skip: Skip = 0,
        limit: Limit = 100,
    ) -> Response[list[AgentBody]]:
        view = request.view
        await view.fresh("agents", "runs", "usage")
        rows, total = await view.ask(agent_page, wanted, skip=skip, limit=limit)
        bodies = await _bodies(view, rows)
        return view.response(bodies, **{"X-Total-Count": str(total)})

    @get("/available", summary="List agents that can be given work")
    async def available(
        self,
        request: ApiRequest,
        skip: Skip = 0,
        limit: Limit = 100,
    ) -> Response[list[AgentBody]]:
        view = request.view
        await view.fresh("agents", "runs", "usage")
        wanted = AgentFilter(status="active")
        rows, total = await view.ask(agent_page, wanted, skip=skip, limit=limit)
        bodies = await _bodies(view, rows)
        return view.response(bodies, **{"X-Total-Count": str(total)})

    @get("/types", summary="List the known kinds of agents")
    async def types(self) -> TypesBody:
        return TypesBody(list(AGENT_TYPES), AGENT_TYPES)

    @get("/stats", summary="Count agents")
    async def stats(
        self,
        request: ApiRequest,
    ) -> Response[StatsBody]:
        view = request.view
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

    @get("/{agent_id:int}", summary="Read an agent")
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

    @put("/{agent_id:int}", summary="Change an agent")
    async def change(
        self,
        agent_id: EntityId,
        data: JSONBody[AgentUpdate],
        request: ApiRequest,
    ) -> Response[AgentBody]:
        agent_commands = request.commands.agents
        issued = await request.issued()
        view = request.view
        _refuse_unknown_parts(data)
        outcome = await agent_commands.change(_change(AgentId(agent_id), data), issued)
        answer = outcome.answer
        used = await view.ask(usage_of_agents, [agent_id])
        worked = await view.ask(work_of_agents, [agent_id])
        body = _from_answer(answer, view, used.get(agent_id), worked.get(agent_id))
        return accepted(outcome, body, answer.version, 200)

    @delete("/{agent_id:int}", status_code=200, summary="Archive an agent; its history stays")
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

    @get("/{agent_id:int}/status", summary="Read an agent's status")
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

    @get("/{agent_id:int}/model-config", summary="Read which model an agent uses")
    async def model_config(
        self,
        agent_id: EntityId,
        request: ApiRequest,
    ) -> Response[ModelConfigBody]:
        view = request.view
        await view.fresh("agents", "usage")
        row = await _found(view, agent_id)
        used = await view.ask(usage_of_agents, [agent_id])
        body = ModelConfigBody(
            agent_id=agent_id,
            agent_name=row.profile.name,
            model_config=row.profile.model or view.default_model,
            model_usage_stats=_usage_stats(used.get(agent_id)),
        )
        return view.response(body, ETag=f'"{row.version}"')

    @put("/{agent_id:int}/model-config", summary="Give an agent another model")
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

    @post("/{agent_id:int}/switch-model", status_code=200, summary="Switch to another model")
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
        known = row.profile.model or view.default_model
        given = {n: v for n, v in msgspec.structs.asdict(data).items() if v is not None}
        model = msgspec.structs.replace(known, **given)
        command = ChangeAgent(agent_id=AgentId(agent_id), model=model)
        return await _configured(command, agent_commands, issued, view)

    @get("/{agent_id:int}/model-usage", summary="Read what an agent's model calls came to")
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
            current_model=(row.profile.model or view.default_model).model_id,
            usage_stats=_usage_stats(used.get(agent_id)),
            created_at=row.created_at,
            updated_at=row.updated_at,
        )
        return view.response(body)


def provide_filter(
    status: FromQuery[AgentStatus | None] = None,
    agent_type: Annotated[str | None, QueryParameter(max_length=255)] = None,
    search: Annotated[str | None, QueryParameter(max_length=255)] = None,
    tag: Annotated[str | None, QueryParameter(max_length=255)] = None,
) -> AgentFilter:
    return AgentFilter(status=status, agent_type=agent_type, search=search, tag=tag)


async def _configured(
    command: ChangeAgent, agent_commands: AgentCommands, issued: Issued, view: View
) -> Response[ModelConfigBody]:
    outcome = await agent_commands.change(command, issued)
    answer = outcome.answer
    assert answer.profile.model is not None
    used = await view.ask(usage_of_agents, [command.agent_id])
    body = ModelConfigBody(
        agent_id=command.agent_id,
        agent_name=answer.profile.name,
        model_config=answer.profile.model,
        model_usage_stats=_usage_stats(used.get(command.agent_id)),
    )
    return accepted(outcome, body, answer.version, 200)


async def _found(view: View, agent_id: int) -> AgentRow:
    row = await view.ask(agent, agent_id)
    if row is None:
        raise missing("Agent")
    return row


def _refuse_unknown_parts(data: NewAgent | AgentUpdate) -> None:
    """Refuse what names a skill, tool or plugin, rather than drop it: this part has none."""
    named = {"skill_ids": data.skill_ids, "tool_ids": data.tool_ids, "plugin_ids": data.plugin_ids}
    for field, ids in named.items():
        if ids:
            what = field.removesuffix("_ids").capitalize() + "s"
            raise Invalid(f"{what} not found: {ids}", pointer=f"/{field}")


def _profile(data: NewAgent) -> AgentProfile:
    configuration = dict(data.configuration)
    if data.marketplace_category is not None:
        configuration["marketplace_category"] = data.marketplace_category
    return AgentProfile(
        name=data.name.strip(),
        description=data.description,
        agent_type=data.agent_type,
        status=data.status,
        configuration=configuration,
        tags=(data.tags,) if isinstance(data.tags, str) else tuple(data.tags),
        model=None if data.model_config is None else data.model_config.known(),
        system_prompt=data.system_prompt,
    )


def _change(agent_id: AgentId, data: AgentUpdate) -> ChangeAgent:
    model = data.model_config
    return ChangeAgent(
        agent_id=agent_id,
        changes=AgentChanges(
            name=data.name if data.name is UNSET else data.name.strip(),
            description=data.description,
            agent_type=data.agent_type,
            configuration=data.configuration,
            system_prompt=data.system_prompt,
        ),
        tags=data.tags,
        model=model.known() if isinstance(model, NewModelConfig) else model,
        status=data.status,
    )


async def _bodies(view: View, rows: list[AgentRow]) -> list[AgentBody]:
    ids: list[int] = [row.agent_id for row in rows]
    used = await view.ask(usage_of_agents, ids)
    worked = await view.ask(work_of_agents, ids)
    return [_body(row, view, used.get(row.agent_id), worked.get(row.agent_id)) for row in rows]


def _from_answer(
    answer: AgentAnswer,
    view: View,
    used: AgentUsage | None = None,
    worked: AgentWork | None = None,
) -> AgentBody:
    row = AgentRow(
        agent_id=answer.agent_id,
        profile=answer.profile,
        archived=False,
        created_at=answer.created_at,
        updated_at=answer.updated_at,
        created_by=answer.created_by,
        version=answer.version,
    )
    return _body(row, view, used, worked)


def _body(
    row: AgentRow,
    view: View,
    used: AgentUsage | None,
    worked: AgentWork | None,
) -> AgentBody:
    profile, configuration = row.profile, row.profile.configuration
    return AgentBody(
        id=row.agent_id,
        name=profile.name,
        description=profile.description,
        agent_type=profile.agent_type,
        status=profile.status,
        configuration=configuration,
        performance_metrics=_performance(worked),
        tags=profile.tags,
        priority_level=_kept(configuration, "priority", default="medium"),
        max_concurrent_tasks=_kept(configuration, "maxConcurrentTasks", default=5),
        auto_start=_kept(configuration, "autoStart", default=False),
        created_at=row.created_at,
        updated_at=row.updated_at,
        created_by=row.created_by,
        skills=[],
        tools=[],
        plugins=[],
        agent_model_config=profile.model or view.default_model,
        model_usage_stats=_usage_stats(used),
        system_prompt=profile.system_prompt,
        source=profile.source,
        version=row.version,
    )


def _kept(configuration: JsonObject, name: str, *, default: Any) -> Any:  # noqa: ANN401
    """Answer with what the frontend once put into the configuration, if it has the right type."""
    value = configuration.get(name, default)
    return value if type(value) is type(default) else default


def _performance(worked: AgentWork | None) -> JsonObject:
    if worked is None:
        return {}
    total = worked.completed + worked.failed
    seconds = worked.completed_us / worked.completed / 1_000_000 if worked.completed else None
    return {
        "success_rate": worked.completed / total,
        "avg_execution_time": seconds,
        "total_tasks": total,
        "completed_tasks": worked.completed,
        "failed_tasks": worked.failed,
    }


def _usage_stats(used: AgentUsage | None) -> ModelUsageStats:
    if used is None:
        return ModelUsageStats()
    return ModelUsageStats(
        total_tokens=used.tokens,
        total_cost=used.cost_nano_usd / NANO,
        total_requests=used.calls,
        avg_tokens_per_request=used.tokens // used.calls if used.calls else 0,
        last_used_at=used.last_used_at,
    )
