"""What an agent has been told to be, from its first version on."""

from datetime import datetime
from typing import Annotated

import msgspec
from litestar import Controller, Response, get, post
from litestar.params import JSONBody, PathParameter, QueryParameter

from commands.agents import RollBackAgent
from domain.agents import (
    AGENT,
    AgentId,
    AgentRolledBack,
    AgentSource,
    AgentStatus,
    ModelConfig,
    Registered,
)
from domain.catalog import AnyEvent
from domain.changes import Difference, differences
from domain.events import JsonObject, Recorded
from projections.usage import usage_of_agents
from read_api.accepted import accepted
from read_api.agents.answers import AgentBody, answered
from read_api.asked import ApiRequest
from read_api.auth import may
from read_api.errors import missing
from read_api.view import ID_MAX, EntityId, View

PAGE_MAX = 1_000

VersionNumber = Annotated[int, PathParameter(ge=1, le=ID_MAX)]
Limit = Annotated[int, QueryParameter(ge=1, le=PAGE_MAX)]
After = Annotated[int, QueryParameter(ge=0, le=ID_MAX)]
# Not `ge=0`: Litestar's document leaves a bound of 0 out where there may be nothing.
Since = Annotated[int | None, QueryParameter(gt=-1, le=ID_MAX)]


class VersionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One version, and the event that made it.

    Attributes:
        type: The event's.
        actor: Whose command it was.
        position: The event's in the log.
        restored: Which version a rollback restored.
    """

    version: int
    type: str
    occurred_at: datetime
    actor: str
    position: int
    restored: int | None


class VersionsBody(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    items: Oldest first.
    next: What to give as `after` for more; null at the end.
    """

    items: list[VersionEntry]
    next: int | None


class VersionBody(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as it once was.

    Attributes:
        model_config: Null: the installation's default.
    """

    agent_id: AgentId
    version: int
    name: str
    description: str | None
    agent_type: str
    status: AgentStatus
    configuration: JsonObject
    tags: tuple[str, ...]
    model_config: ModelConfig | None
    system_prompt: str
    source: AgentSource | None


class DiffBody(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    changes: What makes the one of the other, in the order of their paths.
    """

    agent_id: AgentId
    from_version: int
    to_version: int
    changes: list[Difference]


class Rollback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Annotated[int, msgspec.Meta(ge=1, le=ID_MAX)]


class AgentHistoryController(Controller):
    path = "/api/agents/{agent_id:int}"
    tags = ("agents",)

    @get("/versions", summary="List an agent's versions", opt=may("agents:read"))
    async def versions(
        self, agent_id: EntityId, request: ApiRequest, after: After = 0, limit: Limit = 100
    ) -> Response[VersionsBody]:
        view = request.view
        entries = await _entries(view, agent_id, after=after, limit=limit + 1)
        if not entries and not (after and await _entries(view, agent_id, after=0, limit=1)):
            raise missing("Agent")
        items, more = entries[:limit], len(entries) > limit
        return view.response(VersionsBody(items=items, next=items[-1].version if more else None))

    @get("/versions/{version:int}", summary="Read an agent as it once was", opt=may("agents:read"))
    async def version(
        self, agent_id: EntityId, version: VersionNumber, request: ApiRequest
    ) -> Response[VersionBody]:
        return request.view.response(await _version(request.view, agent_id, version))

    @get(
        "/versions/{version:int}/diff",
        summary="Tell how a version differs from the one before it, or from another",
        opt=may("agents:read"),
    )
    async def diff(
        self,
        agent_id: EntityId,
        version: VersionNumber,
        request: ApiRequest,
        since: Since = None,
    ) -> Response[DiffBody]:
        """Before version 1 there was nothing: `since=0` tells all of it."""
        view, first = request.view, version - 1 if since is None else since
        after = await _version(view, agent_id, version)
        before = _compared(await _version(view, agent_id, first)) if first else {}
        body = DiffBody(
            agent_id=after.agent_id,
            from_version=first,
            to_version=version,
            changes=differences(before, _compared(after)),
        )
        return request.view.response(body)

    @post(
        "/rollback",
        status_code=200,
        summary="Make an agent what it was at an earlier version",
        opt=may("agents:update"),
    )
    async def roll_back(
        self, agent_id: EntityId, data: JSONBody[Rollback], request: ApiRequest
    ) -> Response[AgentBody]:
        """Records a new version; whether the agent is in service stays as it is."""
        view, command = (
            request.view,
            RollBackAgent(agent_id=AgentId(agent_id), version=data.version),
        )
        outcome = await request.commands.agents.roll_back(command, await request.issued())
        answer = outcome.answer
        used = await view.ask(usage_of_agents, [agent_id])
        model = await view.model(answer.profile.model)
        body = answered(answer, model, used.get(agent_id))
        return accepted(outcome, body, answer.version, 200)


async def _entries(view: View, agent_id: int, *, after: int, limit: int) -> list[VersionEntry]:
    events = await view.stream(AGENT, agent_id, after=after, limit=limit)
    return [_entry(recorded) for recorded in events]


def _entry(recorded: Recorded[AnyEvent]) -> VersionEntry:
    event = recorded.event
    return VersionEntry(
        version=recorded.stream_version,
        type=event.tag(),
        occurred_at=recorded.metadata.occurred_at,
        actor=recorded.metadata.actor,
        position=recorded.global_position,
        restored=event.version if isinstance(event, AgentRolledBack) else None,
    )


async def _version(view: View, agent_id: int, version: int) -> VersionBody:
    """Raises:
    ProblemDetailsException: There is no such version, or by then the agent was archived.
    """
    state = await view.once(AGENT, agent_id, version)
    if not isinstance(state, Registered):
        raise missing("Version")
    profile = state.profile
    return VersionBody(
        agent_id=state.agent_id,
        version=version,
        name=profile.name,
        description=profile.description,
        agent_type=profile.agent_type,
        status=profile.status,
        configuration=profile.configuration,
        tags=profile.tags,
        model_config=profile.model,
        system_prompt=profile.system_prompt,
        source=profile.source,
    )


def _compared(body: VersionBody) -> JsonObject:
    told: JsonObject = msgspec.to_builtins(body)
    return {name: value for name, value in told.items() if name not in {"agent_id", "version"}}
