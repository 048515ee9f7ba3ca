"""Commands on workflows."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, assert_never

import msgspec

from commands.names import Names
from commands.transact import Issued, Loaded, Outcome, Transaction, Transactions
from domain import agents, workflows
from domain.agents import AGENT, AgentId, Unregistered
from domain.errors import Invalid, TooLong
from domain.events import WorkspaceId
from domain.workflows import (
    WORKFLOW,
    Drafted,
    Step,
    Undrafted,
    WorkflowChanges,
    WorkflowId,
    WorkflowProfile,
    WorkflowState,
    WorkflowStatus,
)

NAME_MAX = 255
STEPS_MAX = 100
TEMPLATE_BYTES_MAX = 256 * 1024
RETRIES_MAX = 10

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_MAX, pattern=r"\S")]

NAME_KIND = "Workflow"
COPY_NAMES_MAX = 100


class DraftWorkflow(msgspec.Struct, frozen=True, kw_only=True):
    profile: WorkflowProfile
    steps: tuple[Step, ...] = ()
    publish: bool = False


class ChangeWorkflow(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    steps: All of them anew; None leaves them.
    status: Where to bring the workflow; None leaves it.
    """

    workflow_id: WorkflowId
    changes: WorkflowChanges = WorkflowChanges()
    steps: tuple[Step, ...] | None = None
    status: WorkflowStatus | None = None


class ArchiveWorkflow(msgspec.Struct, frozen=True, kw_only=True):
    workflow_id: WorkflowId
    reason: str = ""


class DuplicateWorkflow(msgspec.Struct, frozen=True, kw_only=True):
    workflow_id: WorkflowId


class WorkflowAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow as its command left it."""

    workflow_id: WorkflowId
    profile: WorkflowProfile
    steps: tuple[Step, ...]
    status: WorkflowStatus
    version: int
    created_at: datetime
    updated_at: datetime
    created_by: str


class WorkflowCommands:
    """Runs commands on workflows. Holds no state of its own."""

    def __init__(self, transactions: Transactions, next_id: Callable[[], int]) -> None:
        self._transactions = transactions
        self._next_id = next_id

    async def draft(self, command: DraftWorkflow, issued: Issued) -> Outcome[WorkflowAnswer]:
        _check_size(command.steps)

        async def decide(transaction: Transaction) -> WorkflowAnswer:
            return await self._draft(transaction, issued, command)

        return await self._transactions.run(decide, issued, WorkflowAnswer)

    async def change(self, command: ChangeWorkflow, issued: Issued) -> Outcome[WorkflowAnswer]:
        _check_size(command.steps or ())

        async def decide(transaction: Transaction) -> WorkflowAnswer:
            workspace_id, workflow_id = issued.workspace_id, command.workflow_id
            stream_id = WORKFLOW.stream_id(workspace_id, workflow_id)
            loaded = await transaction.load_matching(WORKFLOW, stream_id)
            known = workflows.drafted(loaded.state, workflow_id)
            await _check_agents(transaction, workspace_id, command.steps or ())
            decided = _decide_change(loaded.state, command)
            await _rename(transaction, workspace_id, known, WORKFLOW.fold(decided, known))
            return _answer(transaction, loaded, decided, transaction.record(stream_id, decided))

        return await self._transactions.run(decide, issued, WorkflowAnswer)

    async def archive(self, command: ArchiveWorkflow, issued: Issued) -> Outcome[WorkflowAnswer]:
        async def decide(transaction: Transaction) -> WorkflowAnswer:
            workspace_id = issued.workspace_id
            stream_id = WORKFLOW.stream_id(workspace_id, command.workflow_id)
            loaded = await transaction.load_matching(WORKFLOW, stream_id)
            decided = workflows.archive(
                loaded.state, workflow_id=command.workflow_id, reason=command.reason
            )
            if isinstance(loaded.state, Drafted):
                archived = WORKFLOW.fold(decided, loaded.state)
                await _rename(transaction, workspace_id, loaded.state, archived)
            return _answer(transaction, loaded, decided, transaction.record(stream_id, decided))

        return await self._transactions.run(decide, issued, WorkflowAnswer)

    async def duplicate(
        self, command: DuplicateWorkflow, issued: Issued
    ) -> Outcome[WorkflowAnswer]:
        """Draft a copy under the first free name of `X (copy)`, `X (copy 2)` and so on."""

        async def decide(transaction: Transaction) -> WorkflowAnswer:
            workspace_id = issued.workspace_id
            stream_id = WORKFLOW.stream_id(workspace_id, command.workflow_id)
            loaded = await transaction.load(WORKFLOW, stream_id)
            known = workflows.drafted(loaded.state, command.workflow_id)
            name = await _free_name(transaction, workspace_id, known.profile.name)
            profile = msgspec.structs.replace(known.profile, name=name)
            copy = DraftWorkflow(profile=profile, steps=known.steps)
            return await self._draft(transaction, issued, copy)

        return await self._transactions.run(decide, issued, WorkflowAnswer)

    async def _draft(
        self, transaction: Transaction, issued: Issued, command: DraftWorkflow
    ) -> WorkflowAnswer:
        workflow_id = WorkflowId(self._next_id())
        stream_id = WORKFLOW.stream_id(issued.workspace_id, workflow_id)
        loaded = transaction.load_new(WORKFLOW, stream_id)
        await _check_agents(transaction, issued.workspace_id, command.steps)
        names = Names(transaction, issued.workspace_id, NAME_KIND)
        await names.claim(command.profile.name, str(workflow_id))
        decided = [
            *workflows.draft(
                loaded.state,
                workflow_id=workflow_id,
                profile=command.profile,
                steps=command.steps,
            )
        ]
        drafted = WORKFLOW.fold(decided, loaded.state)
        if command.publish:
            decided += workflows.publish(drafted, workflow_id=workflow_id)
        return _answer(transaction, loaded, decided, transaction.record(stream_id, decided))


def _decide_change(state: WorkflowState, command: ChangeWorkflow) -> list[workflows.WorkflowEvent]:
    workflow_id = command.workflow_id
    decided = [
        *workflows.change(
            state, workflow_id=workflow_id, changes=command.changes, steps=command.steps
        )
    ]
    changed = WORKFLOW.fold(decided, state)
    match command.status:
        case "active":
            decided += workflows.publish(changed, workflow_id=workflow_id)
        case "draft":
            decided += workflows.withdraw(changed, workflow_id=workflow_id)
        case "archived":
            decided += workflows.archive(changed, workflow_id=workflow_id, reason="")
        case None:
            pass
        case _:
            assert_never(command.status)
    return decided


async def _check_agents(
    transaction: Transaction, workspace_id: WorkspaceId, steps: tuple[Step, ...]
) -> None:
    """Refuse a step for an agent that is not there, or no longer."""
    for index, step in enumerate(steps):
        pointer = f"/steps/{index}/agent_id"
        agent_id = AgentId(step.agent_id)
        loaded = await transaction.load(AGENT, AGENT.stream_id(workspace_id, agent_id))
        if isinstance(loaded.state, Unregistered):
            raise Invalid(f"No agent has the id {agent_id}.", pointer=pointer)
        agents.registered(loaded.state, agent_id, pointer=pointer)


async def _rename(
    transaction: Transaction, workspace_id: WorkspaceId, known: Drafted, changed: WorkflowState
) -> None:
    """Give the old name back and take the new one; an archived workflow takes none."""
    names = Names(transaction, workspace_id, NAME_KIND)
    old, holder = known.profile.name, str(known.workflow_id)
    if isinstance(changed, Drafted):
        await names.rename(old, changed.profile.name, holder)
    else:
        await names.release(old, holder)


async def _free_name(transaction: Transaction, workspace_id: WorkspaceId, name: str) -> str:
    names = Names(transaction, workspace_id, NAME_KIND)
    for number in range(1, COPY_NAMES_MAX + 1):
        suffix = " (copy)" if number == 1 else f" (copy {number})"
        copy = name[: NAME_MAX - len(suffix)] + suffix
        if await names.holder(copy) is None:
            return copy
    raise Invalid(f"{COPY_NAMES_MAX} copies of {name!r} exist already.", pointer="/name")


def _answer(
    transaction: Transaction,
    loaded: Loaded[WorkflowState],
    decided: Sequence[workflows.WorkflowEvent],
    version: int,
) -> WorkflowAnswer:
    first = loaded.first or transaction.metadata
    last = transaction.metadata if version > loaded.version else loaded.last or first
    state = WORKFLOW.fold(decided, loaded.state)
    profile, steps = _last_drafted(loaded.state, decided)
    return WorkflowAnswer(
        workflow_id=_id(state),
        profile=profile,
        steps=steps,
        status=_status(state),
        version=version,
        created_at=first.occurred_at,
        updated_at=last.occurred_at,
        created_by=first.actor,
    )


def _last_drafted(
    state: WorkflowState, decided: Sequence[workflows.WorkflowEvent]
) -> tuple[WorkflowProfile, tuple[Step, ...]]:
    """Tell what a workflow is, or was when it was archived; of one long gone its name is left."""
    kept = [event for event in decided if not isinstance(event, workflows.WorkflowArchived)]
    last = WORKFLOW.fold(kept, state)
    assert not isinstance(last, Undrafted)
    if isinstance(last, Drafted):
        return last.profile, last.steps
    return WorkflowProfile(name=last.name), ()


def _id(state: WorkflowState) -> WorkflowId:
    assert not isinstance(state, Undrafted)
    return state.workflow_id


def _status(state: WorkflowState) -> WorkflowStatus:
    if isinstance(state, Drafted):
        return "active" if state.published else "draft"
    return "archived"


def _check_size(steps: tuple[Step, ...]) -> None:
    if len(steps) > STEPS_MAX:
        raise Invalid(f"A workflow has at most {STEPS_MAX} steps.", pointer="/steps")
    for index, step in enumerate(steps):
        size = len(step.prompt_template.encode())
        if size > TEMPLATE_BYTES_MAX:
            raise TooLong(
                "The prompt template",
                size=size,
                size_max=TEMPLATE_BYTES_MAX,
                pointer=f"/steps/{index}/prompt_template",
            )
