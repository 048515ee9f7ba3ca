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


class LlmInfo(msgspec.Struct, frozen=True, kw_only=True):
    provider: str
    model_id: str


class PerformanceBody(msgspec.Struct, frozen=True, kw_only=True):
    """The original's shape, of what was recorded; null is what nobody measures.

    Attributes:
        success_rate: Of the steps that have ended, 0 to 1; null before the first.
        average_response_time: Seconds of a completed step; null before the first.
        total_tasks: Steps of runs that have ended; those that run are not counted yet.
        total_cost: US dollars, of the calls whose price is known.
        overall_score, average_memory_usage, average_cpu_usage, uptime_percentage, runtime: The
            original made them up.
    """

    agent_id: int
    agent_name: str
    period: str
    status: AgentStatus
    overall_score: float | None
    success_rate: float | None
    average_response_time: float | None
    total_tasks: int
    completed_tasks: int
    failed_tasks: int
    average_tokens_per_task: int
    total_tokens_used: int
    total_cost: float
    total_requests: int
    average_memory_usage: float | None
    average_cpu_usage: float | None
    uptime_percentage: float | None
    runtime: JsonObject | None
    llm_info: LlmInfo
    raw_performance_metrics: JsonObject
    raw_model_stats: ModelUsageStats


def performance_of(
    row: AgentRow, model: ModelConfig, used: AgentUsage | None, worked: AgentWork | None
) -> PerformanceBody:
    worked = worked or AgentWork(completed=0, failed=0, completed_us=0)
    stats, total = usage_stats(used), worked.completed + worked.failed
    seconds = worked.completed_us / worked.completed / 1_000_000 if worked.completed else None
    return PerformanceBody(
        agent_id=row.agent_id,
        agent_name=row.profile.name,
        period="all_time",
        status=row.profile.status,
        overall_score=None,
        success_rate=worked.completed / total if total else None,
        average_response_time=seconds,
        total_tasks=total,
        completed_tasks=worked.completed,
        failed_tasks=worked.failed,
        average_tokens_per_task=stats.total_tokens // total if total else 0,
        total_tokens_used=stats.total_tokens,
        total_cost=stats.total_cost,
        total_requests=stats.total_requests,
        average_memory_usage=None,
        average_cpu_usage=None,
        uptime_percentage=None,
        runtime=None,
        llm_info=LlmInfo(provider=model.provider, model_id=model.model_id),
        raw_performance_metrics=_performance(worked if total else None),
        raw_model_stats=stats,
    )


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
