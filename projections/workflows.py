"""Workflows as they are now."""

from datetime import datetime
from typing import ClassVar, get_args

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Index,
    Table,
    Text,
    func,
    select,
)

from domain.catalog import AnyEvent
from domain.changes import applied
from domain.events import Event, Recorded, WorkspaceId
from domain.workflows import (
    Step,
    WorkflowArchived,
    WorkflowChanged,
    WorkflowDrafted,
    WorkflowEvent,
    WorkflowId,
    WorkflowProfile,
    WorkflowPublished,
    WorkflowStatus,
    WorkflowStepsChanged,
    WorkflowWithdrawn,
)
from projections.projector import Batch
from projections.rows import READ_MODELS, Row, as_json, folded_tags, micros, moment

workflows = Table(
    "workflows",
    READ_MODELS,
    Column("workspace_id", Text, primary_key=True),
    Column("workflow_id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("owner", Text),
    Column("status", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("folded_tags", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("steps", Text, nullable=False),
    Column("search_text", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
)
Index("workflows_by_update", workflows.c.workspace_id, workflows.c.updated_at)


class WorkflowsProjector:
    name: ClassVar[str] = "workflows"
    tables: ClassVar[tuple[Table, ...]] = (workflows,)
    folds: ClassVar[frozenset[type[Event]]] = frozenset(get_args(WorkflowEvent))

    def project(self, recorded: Recorded[AnyEvent], batch: Batch) -> None:
        match recorded.event:
            case WorkflowDrafted() as event:
                batch.rows(workflows).put(_drafted(recorded, event))
            case (
                WorkflowChanged()
                | WorkflowStepsChanged()
                | WorkflowPublished()
                | WorkflowWithdrawn()
                | WorkflowArchived()
            ) as event:
                rows = batch.rows(workflows)
                row = rows.get(recorded.metadata.workspace_id, event.workflow_id)
                if row is not None:
                    row |= _changed(row, event)
                    row["updated_at"] = micros(recorded.metadata.occurred_at)
                    row["version"] = recorded.stream_version
                    rows.put(row)
            case _:
                pass


def _drafted(recorded: Recorded[AnyEvent], event: WorkflowDrafted) -> Row:
    at = micros(recorded.metadata.occurred_at)
    return {
        "workspace_id": recorded.metadata.workspace_id,
        "workflow_id": event.workflow_id,
        "status": "draft",
        "steps": as_json(event.steps),
        "created_at": at,
        "updated_at": at,
        "created_by": recorded.metadata.actor,
        "version": recorded.stream_version,
        **_profile_columns(event.profile),
    }


def _changed(
    row: Row,
    event: WorkflowChanged
    | WorkflowStepsChanged
    | WorkflowPublished
    | WorkflowWithdrawn
    | WorkflowArchived,
) -> Row:
    match event:
        case WorkflowChanged():
            return _profile_columns(applied(_PROFILE.decode(row["profile"]), event.changes))
        case WorkflowStepsChanged():
            return {"steps": as_json(event.steps)}
        case WorkflowPublished():
            return {"status": "active"}
        case WorkflowWithdrawn():
            return {"status": "draft"}
        case WorkflowArchived():
            return {"status": "archived"}


def _profile_columns(profile: WorkflowProfile) -> Row:
    return {
        "name": profile.name,
        "owner": profile.owner,
        **_tag_columns(profile.tags),
        "profile": as_json(profile),
        "search_text": f"{profile.name}\n{profile.description or ''}".casefold(),
    }


def _tag_columns(tags: tuple[str, ...]) -> Row:
    return {"tags": as_json(tags), "folded_tags": folded_tags(tags)}


_PROFILE = msgspec.json.Decoder(WorkflowProfile)
_STEPS = msgspec.json.Decoder(tuple[Step, ...])


# Queries.


class WorkflowRow(msgspec.Struct, frozen=True, kw_only=True):
    workflow_id: WorkflowId
    profile: WorkflowProfile
    steps: tuple[Step, ...]
    status: WorkflowStatus
    created_at: datetime
    updated_at: datetime
    created_by: str
    version: int


class WorkflowFilter(msgspec.Struct, frozen=True, kw_only=True):
    q: str | None = None
    owner: str | None = None
    tag: str | None = None
    status: WorkflowStatus | None = None


def workflow(
    connection: Connection, workspace_id: WorkspaceId, workflow_id: int
) -> WorkflowRow | None:
    """Find one, archived ones too: their runs still speak of them."""
    found = connection.execute(
        select(workflows).where(
            workflows.c.workspace_id == workspace_id, workflows.c.workflow_id == workflow_id
        )
    )
    row = found.mappings().first()
    return None if row is None else _row(dict(row))


def workflow_page(
    connection: Connection,
    workspace_id: WorkspaceId,
    wanted: WorkflowFilter,
    *,
    skip: int,
    limit: int,
) -> tuple[list[WorkflowRow], int]:
    """Select workflows, newest update first; archived ones only when asked for by status."""
    where = _where(workspace_id, wanted)
    count = select(func.count()).select_from(workflows).where(*where)
    found = connection.execute(
        select(workflows)
        .where(*where)
        .order_by(workflows.c.updated_at.desc(), workflows.c.workflow_id.desc())
        .offset(skip)
        .limit(limit)
    )
    return [_row(dict(row)) for row in found.mappings()], connection.execute(count).scalar_one()


def workflow_counts(connection: Connection, workspace_id: WorkspaceId) -> dict[str, int]:
    found = connection.execute(
        select(workflows.c.status, func.count())
        .where(workflows.c.workspace_id == workspace_id)
        .group_by(workflows.c.status)
    )
    return dict(found.all())


def _where(workspace_id: WorkspaceId, wanted: WorkflowFilter) -> list[ColumnElement[bool]]:
    where = [workflows.c.workspace_id == workspace_id]
    if wanted.status is None:
        where.append(workflows.c.status != "archived")
    else:
        where.append(workflows.c.status == wanted.status)
    if wanted.q:
        where.append(workflows.c.search_text.contains(wanted.q.casefold(), autoescape=True))
    if wanted.owner:
        where.append(workflows.c.owner == wanted.owner)
    if wanted.tag:
        folded = folded_tags((wanted.tag,))
        where.append(workflows.c.folded_tags.contains(folded, autoescape=True))
    return where


def _row(row: Row) -> WorkflowRow:
    return WorkflowRow(
        workflow_id=WorkflowId(row["workflow_id"]),
        profile=_PROFILE.decode(row["profile"]),
        steps=_STEPS.decode(row["steps"]),
        status=row["status"],
        created_at=moment(row["created_at"]),
        updated_at=moment(row["updated_at"]),
        created_by=row["created_by"],
        version=row["version"],
    )
