"""Agents as they are now, and what work they have done."""

from datetime import datetime
from typing import ClassVar, get_args

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Index,
    Table,
    Text,
    func,
    select,
)

from domain.agents import (
    AgentActivated,
    AgentArchived,
    AgentChanged,
    AgentDeactivated,
    AgentEvent,
    AgentId,
    AgentModelConfigured,
    AgentProfile,
    AgentRegistered,
    AgentRolledBack,
    AgentSource,
    AgentStatus,
    AgentTagged,
    ModelConfig,
    changed,
)
from domain.catalog import AnyEvent
from domain.events import Event, JsonObject, Recorded, WorkspaceId
from projections.projector import Batch
from projections.rows import READ_MODELS, Row, as_json, folded_tags, micros, moment

agents = Table(
    "agents",
    READ_MODELS,
    Column("workspace_id", Text, primary_key=True),
    Column("agent_id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("description", Text),
    Column("agent_type", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("archived", Boolean, nullable=False),
    Column("configuration", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("folded_tags", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("system_prompt", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("search_text", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
)
Index("agents_by_state", agents.c.workspace_id, agents.c.archived, agents.c.agent_id)


class AgentsProjector:
    name: ClassVar[str] = "agents"
    tables: ClassVar[tuple[Table, ...]] = (agents,)
    folds: ClassVar[frozenset[type[Event]]] = frozenset(get_args(AgentEvent))

    def project(self, recorded: Recorded[AnyEvent], batch: Batch) -> None:
        match recorded.event:
            case AgentRegistered() as event:
                batch.rows(agents).put(_registered(recorded, event))
            case (
                AgentChanged()
                | AgentTagged()
                | AgentModelConfigured()
                | AgentActivated()
                | AgentDeactivated()
                | AgentRolledBack()
                | AgentArchived()
            ) as event:
                rows = batch.rows(agents)
                row = rows.get(recorded.metadata.workspace_id, event.agent_id)
                if row is not None:
                    row |= _changed(row, event)
                    row["updated_at"] = micros(recorded.metadata.occurred_at)
                    row["version"] = recorded.stream_version
                    rows.put(row)
            case _:
                pass


def _registered(recorded: Recorded[AnyEvent], event: AgentRegistered) -> Row:
    at = micros(recorded.metadata.occurred_at)
    return {
        "workspace_id": recorded.metadata.workspace_id,
        "agent_id": event.agent_id,
        "archived": False,
        "created_at": at,
        "updated_at": at,
        "created_by": recorded.metadata.actor,
        "version": recorded.stream_version,
        **_profile_columns(event.profile),
    }


def _changed(
    row: Row,
    event: AgentChanged
    | AgentTagged
    | AgentModelConfigured
    | AgentActivated
    | AgentDeactivated
    | AgentRolledBack
    | AgentArchived,
) -> Row:
    match event:
        case AgentChanged():
            return _profile_columns(changed(_profile(row), event.changes))
        case AgentTagged():
            return _tag_columns(event.tags)
        case AgentModelConfigured():
            return {"model": as_json(event.model)}
        case AgentActivated():
            return {"status": "active"}
        case AgentDeactivated():
            return {"status": "training" if event.training else "inactive"}
        case AgentRolledBack():
            return _profile_columns(event.profile)
        case AgentArchived():
            return {"archived": True, "status": "inactive"}


def _profile_columns(profile: AgentProfile) -> Row:
    return {
        "name": profile.name,
        "description": profile.description,
        "agent_type": profile.agent_type,
        "status": profile.status,
        "configuration": as_json(profile.configuration),
        **_tag_columns(profile.tags),
        "model": as_json(profile.model),
        "system_prompt": profile.system_prompt,
        "source": as_json(profile.source),
        "search_text": f"{profile.name}\n{profile.description or ''}".casefold(),
    }


def _tag_columns(tags: tuple[str, ...]) -> Row:
    return {"tags": as_json(tags), "folded_tags": folded_tags(tags)}


def _profile(row: Row) -> AgentProfile:
    return AgentProfile(
        name=row["name"],
        description=row["description"],
        agent_type=row["agent_type"],
        status=row["status"],
        configuration=_CONFIGURATION.decode(row["configuration"]),
        tags=_TAGS.decode(row["tags"]),
        model=_MODEL.decode(row["model"]),
        system_prompt=row["system_prompt"],
        source=_SOURCE.decode(row["source"]),
    )


_CONFIGURATION = msgspec.json.Decoder(JsonObject)
_TAGS = msgspec.json.Decoder(tuple[str, ...])
_MODEL = msgspec.json.Decoder(ModelConfig | None)
_SOURCE = msgspec.json.Decoder(AgentSource | None)


# Queries.


class AgentRow(msgspec.Struct, frozen=True, kw_only=True):
    agent_id: AgentId
    profile: AgentProfile
    archived: bool
    created_at: datetime
    updated_at: datetime
    created_by: str
    version: int


class AgentFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    search: Found in name or description, in any case.
    tag: One of the agent's tags, in any case.
    """

    status: AgentStatus | None = None
    agent_type: str | None = None
    search: str | None = None
    tag: str | None = None


class AgentCounts(msgspec.Struct, frozen=True, kw_only=True):
    total: int
    active: int
    by_type: dict[str, int]


def agent(connection: Connection, workspace_id: WorkspaceId, agent_id: int) -> AgentRow | None:
    found = connection.execute(
        select(agents).where(
            agents.c.workspace_id == workspace_id,
            agents.c.agent_id == agent_id,
            agents.c.archived.is_(False),
        )
    )
    row = found.mappings().first()
    return None if row is None else _row(dict(row))


def agent_page(
    connection: Connection,
    workspace_id: WorkspaceId,
    wanted: AgentFilter,
    *,
    skip: int,
    limit: int,
) -> tuple[list[AgentRow], int]:
    """Select living agents, newest first, and tell how many there are in all."""
    where = _where(workspace_id, wanted)
    total = connection.execute(select(func.count()).select_from(agents).where(*where)).scalar_one()
    found = connection.execute(
        select(agents).where(*where).order_by(agents.c.agent_id.desc()).offset(skip).limit(limit)
    )
    return [_row(dict(row)) for row in found.mappings()], total


def agent_counts(connection: Connection, workspace_id: WorkspaceId) -> AgentCounts:
    found = connection.execute(
        select(agents.c.agent_type, agents.c.status, func.count())
        .where(agents.c.workspace_id == workspace_id, agents.c.archived.is_(False))
        .group_by(agents.c.agent_type, agents.c.status)
        .order_by(agents.c.agent_type)
    )
    by_type: dict[str, int] = {}
    active = 0
    for agent_type, status, count in found:
        by_type[agent_type] = by_type.get(agent_type, 0) + count
        active += count if status == "active" else 0
    return AgentCounts(total=sum(by_type.values()), active=active, by_type=by_type)


def agent_names(
    connection: Connection, workspace_id: WorkspaceId, agent_ids: list[int]
) -> dict[int, str]:
    """Name agents, archived ones too."""
    found = connection.execute(
        select(agents.c.agent_id, agents.c.name).where(
            agents.c.workspace_id == workspace_id, agents.c.agent_id.in_(agent_ids)
        )
    )
    return dict(found.all())


def _where(workspace_id: WorkspaceId, wanted: AgentFilter) -> list[ColumnElement[bool]]:
    where = [agents.c.workspace_id == workspace_id, agents.c.archived.is_(False)]
    if wanted.status is not None:
        where.append(agents.c.status == wanted.status)
    if wanted.agent_type is not None:
        where.append(agents.c.agent_type == wanted.agent_type)
    if wanted.search:
        where.append(agents.c.search_text.contains(wanted.search.casefold(), autoescape=True))
    if wanted.tag:
        folded = folded_tags((wanted.tag,))
        where.append(agents.c.folded_tags.contains(folded, autoescape=True))
    return where


def _row(row: Row) -> AgentRow:
    return AgentRow(
        agent_id=AgentId(row["agent_id"]),
        profile=_profile(row),
        archived=row["archived"],
        created_at=moment(row["created_at"]),
        updated_at=moment(row["updated_at"]),
        created_by=row["created_by"],
        version=row["version"],
    )
