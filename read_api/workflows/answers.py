"""What is told of one workflow, in the original frontend's shapes."""

from datetime import datetime

import msgspec

from commands.workflows import WorkflowAnswer
from domain.events import JsonObject
from domain.workflows import Step, WorkflowStatus
from projections.workflows import WorkflowRow


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


def drafted(answer: WorkflowAnswer) -> Drafted:
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


def row_of(answer: WorkflowAnswer) -> WorkflowRow:
    return WorkflowRow(**{name: getattr(answer, name) for name in WorkflowRow.__struct_fields__})


def item_of(row: WorkflowRow) -> WorkflowItem:
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


def body_of(row: WorkflowRow, names: dict[int, str]) -> WorkflowBody:
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
