"""What may be sent about workflows, and the commands it means."""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from commands.workflows import RETRIES_MAX, STEPS_MAX, ChangeWorkflow, Name
from domain.events import JsonObject
from domain.workflows import (
    ErrorHandling,
    Step,
    WorkflowChanges,
    WorkflowId,
    WorkflowProfile,
    WorkflowStatus,
)

Text255 = Annotated[str, msgspec.Meta(max_length=255)]
LongText = Annotated[str, msgspec.Meta(max_length=65_536)]
Tags = Annotated[list[Text255], msgspec.Meta(max_length=100)]
StepId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
InputName = Annotated[str, msgspec.Meta(pattern=r"^[\w-]{1,64}\Z")]
Inputs = Annotated[list[InputName], msgspec.Meta(max_length=100)]
Agents = Annotated[list[Text255], msgspec.Meta(max_length=STEPS_MAX)]


class NewStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Attributes:
    order: Sorts the steps where it is given; else they stand as they come.
    """

    agent_id: int
    prompt_template: Annotated[str, msgspec.Meta(min_length=1)]
    step_id: StepId | None = None
    order: int | None = None
    error_handling: ErrorHandling = "stop"
    max_retries: Annotated[int, msgspec.Meta(ge=0, le=RETRIES_MAX)] = 4


Steps = Annotated[list[NewStep], msgspec.Meta(max_length=STEPS_MAX)]


class NewWorkflow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Attributes:
    is_active: Publish at once; needs a step.
    inputs: Names every run must be given; a template may then name no other.
    """

    name: Name
    description: LongText | None = None
    goal: LongText | None = None
    context: LongText | None = None
    category: Text255 = "automation"
    priority: Text255 = "medium"
    owner: Text255 | None = None
    config: JsonObject = {}
    steps: Steps = []
    agents: Agents = []
    tags: Tags = []
    inputs: Inputs | None = None
    is_active: bool = False
    created_by: Text255 | None = None


class WorkflowUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name | UnsetType = UNSET
    description: LongText | UnsetType | None = UNSET
    goal: LongText | UnsetType | None = UNSET
    context: LongText | UnsetType | None = UNSET
    category: Text255 | UnsetType = UNSET
    priority: Text255 | UnsetType = UNSET
    owner: Text255 | UnsetType | None = UNSET
    config: JsonObject | UnsetType = UNSET
    steps: Steps | None = None
    tags: Tags | UnsetType = UNSET
    inputs: Inputs | UnsetType | None = UNSET
    status: WorkflowStatus | None = None


class NewRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    input_data: JsonObject = {}


def profile_of(data: NewWorkflow) -> WorkflowProfile:
    return WorkflowProfile(
        name=data.name.strip(),
        description=data.description,
        goal=data.goal,
        context=data.context,
        category=data.category,
        priority=data.priority,
        owner=data.owner or data.created_by,
        tags=tuple(data.tags),
        configuration={**data.config, **({"agents": data.agents} if data.agents else {})},
        inputs=None if data.inputs is None else tuple(data.inputs),
    )


def steps_of(given: list[NewStep]) -> tuple[Step, ...]:
    """Put steps in order and name those that have no name: `step-1`, `step-2` and so on."""
    ordered = sorted(given, key=lambda step: 0 if step.order is None else step.order)
    return tuple(
        Step(
            step_id=step.step_id or f"step-{number}",
            agent_id=step.agent_id,
            prompt_template=step.prompt_template,
            error_handling=step.error_handling,
            max_retries=step.max_retries,
        )
        for number, step in enumerate(ordered, start=1)
    )


def change_of(workflow_id: int, data: WorkflowUpdate) -> ChangeWorkflow:
    return ChangeWorkflow(
        workflow_id=WorkflowId(workflow_id),
        changes=WorkflowChanges(
            name=data.name if data.name is UNSET else data.name.strip(),
            description=data.description,
            goal=data.goal,
            context=data.context,
            category=data.category,
            priority=data.priority,
            owner=data.owner,
            tags=data.tags if data.tags is UNSET else tuple(data.tags),
            configuration=data.config,
            inputs=tuple(data.inputs) if isinstance(data.inputs, list) else data.inputs,
        ),
        steps=None if data.steps is None else steps_of(data.steps),
        status=data.status,
    )
