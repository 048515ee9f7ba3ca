"""Workflows: ordered steps for agents, drafted, published, at last archived."""

from collections.abc import Mapping
from typing import Literal, NewType, TypeAlias, assert_never

import msgspec
from msgspec import UNSET, UnsetType

from domain import templates
from domain.changes import applied, differing
from domain.errors import (
    AlreadyExists,
    Invalid,
    NotFound,
    WorkflowIsArchived,
    WorkflowIsNotPublished,
)
from domain.events import Aggregate, Event, JsonObject

WorkflowId = NewType("WorkflowId", int)

WorkflowStatus: TypeAlias = Literal["draft", "active", "archived"]
ErrorHandling: TypeAlias = Literal["stop", "skip"]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's part.

    Attributes:
        step_id: Names the step within its workflow; later templates refer to it.
        error_handling: What a failed step does to its run: end it, or be passed over.
        max_retries: Further tries after the first one failed.
    """

    step_id: str
    agent_id: int
    prompt_template: str
    error_handling: ErrorHandling = "stop"
    max_retries: int = 4


class WorkflowProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a workflow but its steps.

    Attributes:
        inputs: Names a run must be given; None when the author declared none.
    """

    name: str
    description: str | None = None
    goal: str | None = None
    context: str | None = None
    category: str = "automation"
    priority: str = "medium"
    owner: str | None = None
    tags: tuple[str, ...] = ()
    configuration: JsonObject = {}
    inputs: tuple[str, ...] | None = None


class WorkflowChanges(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to change of a profile; what is not set stays."""

    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    goal: str | UnsetType | None = UNSET
    context: str | UnsetType | None = UNSET
    category: str | UnsetType = UNSET
    priority: str | UnsetType = UNSET
    owner: str | UnsetType | None = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    configuration: JsonObject | UnsetType = UNSET
    inputs: tuple[str, ...] | UnsetType | None = UNSET


# Events.


class WorkflowDrafted(Event, frozen=True, kw_only=True, tag="workflow_drafted"):
    """A workflow came into being, as a draft."""

    workflow_id: WorkflowId
    profile: WorkflowProfile
    steps: tuple[Step, ...]


class WorkflowChanged(Event, frozen=True, kw_only=True, tag="workflow_changed"):
    """Parts of a workflow's profile were given other values."""

    workflow_id: WorkflowId
    changes: WorkflowChanges


class WorkflowStepsChanged(Event, frozen=True, kw_only=True, tag="workflow_steps_changed"):
    """A workflow's steps were set, all of them anew."""

    workflow_id: WorkflowId
    steps: tuple[Step, ...]


class WorkflowPublished(Event, frozen=True, kw_only=True, tag="workflow_published"):
    """A workflow may be run."""

    workflow_id: WorkflowId


class WorkflowWithdrawn(Event, frozen=True, kw_only=True, tag="workflow_withdrawn"):
    """Taken back to a draft."""

    workflow_id: WorkflowId


class WorkflowArchived(Event, frozen=True, kw_only=True, tag="workflow_archived"):
    """A workflow was put away for good; its runs stay."""

    workflow_id: WorkflowId
    reason: str = ""


WorkflowEvent: TypeAlias = (
    WorkflowDrafted
    | WorkflowChanged
    | WorkflowStepsChanged
    | WorkflowPublished
    | WorkflowWithdrawn
    | WorkflowArchived
)


# State.


class Undrafted(msgspec.Struct, frozen=True, tag=True):
    pass


class Drafted(msgspec.Struct, frozen=True, tag=True):
    workflow_id: WorkflowId
    profile: WorkflowProfile
    steps: tuple[Step, ...]
    published: bool = False


class ArchivedWorkflow(msgspec.Struct, frozen=True, tag=True):
    workflow_id: WorkflowId
    name: str


WorkflowState: TypeAlias = Undrafted | Drafted | ArchivedWorkflow


def evolve(state: WorkflowState, event: WorkflowEvent) -> WorkflowState:
    match event:
        case WorkflowDrafted():
            return Drafted(event.workflow_id, event.profile, event.steps)
        case WorkflowArchived():
            name = state.profile.name if isinstance(state, Drafted) else ""
            return ArchivedWorkflow(event.workflow_id, name)
        case _:
            return _evolve_drafted(state, event) if isinstance(state, Drafted) else state


def _evolve_drafted(
    state: Drafted,
    event: WorkflowChanged | WorkflowStepsChanged | WorkflowPublished | WorkflowWithdrawn,
) -> Drafted:
    match event:
        case WorkflowChanged():
            profile = applied(state.profile, event.changes)
            return msgspec.structs.replace(state, profile=profile)
        case WorkflowStepsChanged():
            return msgspec.structs.replace(state, steps=event.steps)
        case WorkflowPublished():
            return msgspec.structs.replace(state, published=True)
        case WorkflowWithdrawn():
            return msgspec.structs.replace(state, published=False)
        case _:
            assert_never(event)


WORKFLOW: Aggregate[WorkflowState, WorkflowEvent] = Aggregate(
    category="workflow", initial=Undrafted(), evolve=evolve
)


# Decisions.


def draft(
    state: WorkflowState,
    *,
    workflow_id: WorkflowId,
    profile: WorkflowProfile,
    steps: tuple[Step, ...],
) -> tuple[WorkflowEvent, ...]:
    match state:
        case Undrafted():
            check_steps(steps, profile.inputs)
            return (WorkflowDrafted(workflow_id=workflow_id, profile=profile, steps=steps),)
        case Drafted(profile=known, steps=known_steps) if (known, known_steps) == (profile, steps):
            return ()
        case Drafted() | ArchivedWorkflow():
            raise AlreadyExists("workflow", str(workflow_id))
        case _:
            assert_never(state)


def change(
    state: WorkflowState,
    *,
    workflow_id: WorkflowId,
    changes: WorkflowChanges,
    steps: tuple[Step, ...] | None = None,
) -> tuple[WorkflowEvent, ...]:
    """Change what differs; the outcome as a whole must still make sense."""
    known = drafted(state, workflow_id)
    changes = differing(changes, known.profile)
    events: list[WorkflowEvent] = []
    if changes != WorkflowChanges():
        events.append(WorkflowChanged(workflow_id=workflow_id, changes=changes))
    if steps is not None and steps != known.steps:
        events.append(WorkflowStepsChanged(workflow_id=workflow_id, steps=steps))
    _check_outcome(WORKFLOW.fold(events, known))
    return tuple(events)


def publish(state: WorkflowState, *, workflow_id: WorkflowId) -> tuple[WorkflowEvent, ...]:
    known = drafted(state, workflow_id)
    if known.published:
        return ()
    if not known.steps:
        raise Invalid("A workflow needs a step before it is published.", pointer="/steps")
    return (WorkflowPublished(workflow_id=workflow_id),)


def withdraw(state: WorkflowState, *, workflow_id: WorkflowId) -> tuple[WorkflowEvent, ...]:
    if not drafted(state, workflow_id).published:
        return ()
    return (WorkflowWithdrawn(workflow_id=workflow_id),)


def archive(
    state: WorkflowState, *, workflow_id: WorkflowId, reason: str
) -> tuple[WorkflowEvent, ...]:
    if isinstance(state, ArchivedWorkflow):
        return ()
    drafted(state, workflow_id)
    return (WorkflowArchived(workflow_id=workflow_id, reason=reason),)


def drafted(state: WorkflowState, workflow_id: WorkflowId) -> Drafted:
    """Insist on a workflow that can change.

    Raises:
        NotFound: There never was one.
        WorkflowIsArchived: There is no longer one.
    """
    match state:
        case Drafted():
            return state
        case Undrafted():
            raise NotFound("Workflow", str(workflow_id))
        case ArchivedWorkflow():
            raise WorkflowIsArchived(workflow_id)
        case _:
            assert_never(state)


def runnable(state: WorkflowState, workflow_id: WorkflowId, given: Mapping[str, object]) -> Drafted:
    """Insist on a published workflow and on every input its steps ask for.

    Raises:
        WorkflowIsNotPublished: It is a draft.
        Invalid: An input is missing; the pointer names it.
    """
    known = drafted(state, workflow_id)
    if not known.published:
        raise WorkflowIsNotPublished(workflow_id)
    for name in _inputs(known):
        if name not in given:
            raise Invalid(
                f"The workflow needs an input called {name!r}.", pointer=f"/input_data/{name}"
            )
    return known


def check_steps(steps: tuple[Step, ...], inputs: tuple[str, ...] | None) -> None:
    """Refuse steps that could never run one after the other."""
    earlier: list[str] = []
    for index, step in enumerate(steps):
        if step.step_id in earlier:
            raise Invalid(
                f"Two steps are called {step.step_id!r}.", pointer=f"/steps/{index}/step_id"
            )
        templates.check(
            step.prompt_template,
            earlier=earlier,
            inputs=inputs,
            pointer=f"/steps/{index}/prompt_template",
        )
        earlier.append(step.step_id)


def _check_outcome(outcome: WorkflowState) -> None:
    assert isinstance(outcome, Drafted)
    if outcome.published and not outcome.steps:
        raise Invalid("A published workflow needs a step.", pointer="/steps")
    check_steps(outcome.steps, outcome.profile.inputs)


def _inputs(workflow: Drafted) -> list[str]:
    named = [
        reference.key
        for step in workflow.steps
        for reference in templates.references(step.prompt_template)
        if reference.source == "input"
    ]
    return list(dict.fromkeys([*(workflow.profile.inputs or ()), *named]))
