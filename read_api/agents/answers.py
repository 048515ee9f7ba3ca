"""What is told of agents, in the original frontend's shapes."""

from datetime import datetime
from typing import Any

import msgspec

from commands.agents import AgentAnswer
from domain.agents import AgentSource, AgentStatus, ModelConfig
from domain.events import JsonObject
from projections.agents import AgentRow
from projections.runs import AgentWork
from projections.usage import AgentUsage
from read_api.money import usd


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


def answered(
    answer: AgentAnswer,
    model: ModelConfig,
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
    return body_of(row, model, used, worked)


def body_of(
    row: AgentRow,
    model: ModelConfig,
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
        agent_model_config=model,
        model_usage_stats=usage_stats(used),
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


def usage_stats(used: AgentUsage | None) -> ModelUsageStats:
    if used is None:
        return ModelUsageStats()
    return ModelUsageStats(
        total_tokens=used.tokens,
        total_cost=usd(used.cost_nano_usd),
        total_requests=used.calls,
        avg_tokens_per_request=used.tokens // used.calls if used.calls else 0,
        last_used_at=used.last_used_at,
    )
