"""Commands on workflows, through the real store."""

from datetime import timedelta

import pytest

from commands.workflows import (
    COPY_NAMES_MAX,
    NAME_MAX,
    STEPS_MAX,
    TEMPLATE_BYTES_MAX,
    ArchiveWorkflow,
    ChangeWorkflow,
    DraftWorkflow,
    DuplicateWorkflow,
    WorkflowAnswer,
)
from domain.agents import AgentId
from domain.errors import (
    AgentIsArchived,
    DomainError,
    Invalid,
    NameIsTaken,
    NotFound,
    TooLong,
    VersionMismatch,
    WorkflowIsArchived,
)
from domain.workflows import Step, WorkflowChanges, WorkflowId, WorkflowProfile
from tests.commands.writing import GLOBEX, Writing
from tests.fakes import NOON


def step(agent_id: int, step_id: str = "research", template: str = "Go.") -> Step:
    return Step(step_id=step_id, agent_id=agent_id, prompt_template=template)


async def ada(writing: Writing) -> AgentId:
    return (await writing.agent("Ada")).agent_id


async def change(
    writing: Writing, command: ChangeWorkflow, *, if_version: int | None = None
) -> WorkflowAnswer:
    issued = writing.issued(if_version=if_version)
    return (await writing.workflows.change(command, issued)).answer


async def archive(writing: Writing, workflow: WorkflowAnswer) -> WorkflowAnswer:
    command = ArchiveWorkflow(workflow_id=workflow.workflow_id, reason="Done")
    return (await writing.workflows.archive(command, writing.issued())).answer


async def duplicate(writing: Writing, workflow: WorkflowAnswer) -> WorkflowAnswer:
    command = DuplicateWorkflow(workflow_id=workflow.workflow_id)
    return (await writing.workflows.duplicate(command, writing.issued())).answer


async def refusal_of(writing: Writing, *steps: Step) -> DomainError:
    """Draft a workflow that is refused, and change one to it: refused all the same."""
    drafted = await writing.workflow(name=f"Refused {writing.next_id()}")
    recorded = await writing.recorded()
    with pytest.raises(DomainError) as of_draft:
        await writing.workflow(*steps)
    with pytest.raises(DomainError) as of_change:
        await change(writing, ChangeWorkflow(workflow_id=drafted.workflow_id, steps=steps))
    assert (type(of_draft.value), of_draft.value.pointer, str(of_draft.value)) == (
        type(of_change.value),
        of_change.value.pointer,
        str(of_change.value),
    )
    assert await writing.recorded() == recorded
    return of_draft.value


# Drafting.


async def test_a_drafted_workflow_is_told_as_it_is(writing: Writing) -> None:
    agent_id = await ada(writing)
    draft = DraftWorkflow(
        profile=WorkflowProfile(name="Report", goal="Know"), steps=(step(agent_id),)
    )
    outcome = await writing.workflows.draft(draft, writing.issued())
    assert outcome.answer == WorkflowAnswer(
        workflow_id=WorkflowId(2),
        profile=draft.profile,
        steps=draft.steps,
        status="draft",
        version=1,
        created_at=NOON,
        updated_at=NOON,
        created_by="key:of-a-test",
    )


async def test_a_workflow_can_be_published_as_it_is_drafted(writing: Writing) -> None:
    workflow = await writing.workflow(step(await ada(writing)))
    assert (workflow.status, workflow.version) == ("active", 2)
    assert (await writing.tags())[2:] == ["name_claimed", "workflow_drafted", "workflow_published"]


async def test_a_workflow_without_steps_is_not_published(writing: Writing) -> None:
    draft = DraftWorkflow(profile=WorkflowProfile(name="Report"), publish=True)
    with pytest.raises(Invalid) as refused:
        await writing.workflows.draft(draft, writing.issued())
    assert refused.value.pointer == "/steps"
    assert await writing.recorded() == []


async def test_two_workflows_do_not_share_a_name(writing: Writing) -> None:
    await writing.workflow(name="Report")
    with pytest.raises(NameIsTaken):
        await writing.workflow(name="REPORT")


# Steps.


async def test_a_step_needs_an_agent_of_the_workspace(writing: Writing) -> None:
    agent_id = await ada(writing)
    elsewhere = (await writing.agent("Grace", workspace_id=GLOBEX)).agent_id
    for unknown in (404, elsewhere):
        refused = await refusal_of(writing, step(agent_id), step(unknown, "write"))
        assert isinstance(refused, Invalid)
        assert refused.pointer == "/steps/1/agent_id"


async def test_a_step_needs_an_agent_that_is_not_archived(writing: Writing) -> None:
    agent_id, gone = await ada(writing), await writing.agent("Grace")
    await writing.archive_agent(gone)
    refused = await refusal_of(writing, step(agent_id), step(gone.agent_id, "write"))
    assert isinstance(refused, AgentIsArchived)
    assert refused.pointer == "/steps/1/agent_id"


async def test_an_agent_that_another_process_just_registered_is_known(writing: Writing) -> None:
    other = Writing(beside=writing)
    agent_id = await ada(other)
    assert (await writing.workflow(step(agent_id))).steps == (step(agent_id),)


async def test_a_workflow_has_a_bound_of_steps(writing: Writing) -> None:
    agent_id = await ada(writing)
    most = [step(agent_id, f"step-{n}") for n in range(STEPS_MAX)]
    refused = await refusal_of(writing, *most, step(agent_id, "one more"))
    assert isinstance(refused, Invalid)
    assert refused.pointer == "/steps"
    assert len((await writing.workflow(*most)).steps) == STEPS_MAX


async def test_a_template_has_a_bound_in_bytes(writing: Writing) -> None:
    agent_id, longest = await ada(writing), "é" * (TEMPLATE_BYTES_MAX // 2)
    refused = await refusal_of(
        writing, step(agent_id), step(agent_id, "write", template=longest + "x")
    )
    assert isinstance(refused, TooLong)
    assert refused.pointer == "/steps/1/prompt_template"
    assert (await writing.workflow(step(agent_id, template=longest))).status == "active"


# Changing.


async def test_one_change_may_ask_for_everything_at_once(writing: Writing) -> None:
    agent_id, drafted = await ada(writing), await writing.workflow()
    writing.clock.forward(timedelta(minutes=1))
    command = ChangeWorkflow(
        workflow_id=drafted.workflow_id,
        changes=WorkflowChanges(name="Digest", goal="Know"),
        steps=(step(agent_id),),
        status="active",
    )
    assert await change(writing, command, if_version=1) == WorkflowAnswer(
        workflow_id=drafted.workflow_id,
        profile=WorkflowProfile(name="Digest", goal="Know"),
        steps=(step(agent_id),),
        status="active",
        version=4,
        created_at=NOON,
        updated_at=NOON + timedelta(minutes=1),
        created_by="key:of-a-test",
    )


async def test_a_published_workflow_can_be_taken_back_to_a_draft(writing: Writing) -> None:
    workflow = await writing.workflow(step(await ada(writing)))
    withdraw = ChangeWorkflow(workflow_id=workflow.workflow_id, status="draft")
    assert (await change(writing, withdraw)).status == "draft"
    assert (await change(writing, withdraw)).version == 3


async def test_a_change_that_changes_nothing_records_nothing(writing: Writing) -> None:
    workflow = await writing.workflow(step(await ada(writing)))
    before = await writing.recorded()
    writing.clock.forward(timedelta(minutes=1))
    same = ChangeWorkflow(workflow_id=workflow.workflow_id, steps=workflow.steps, status="active")
    assert await change(writing, same) == workflow
    assert await writing.recorded() == before


async def test_a_change_insists_on_the_version_its_author_saw(writing: Writing) -> None:
    workflow = await writing.workflow()
    rename = ChangeWorkflow(
        workflow_id=workflow.workflow_id, changes=WorkflowChanges(name="Digest")
    )
    with pytest.raises(VersionMismatch):
        await change(writing, rename, if_version=7)
    assert (await change(writing, rename, if_version=1)).version == 2


async def test_a_workflow_keeps_an_agent_that_was_archived_since(writing: Writing) -> None:
    agent = await writing.agent("Ada")
    workflow = await writing.workflow(step(agent.agent_id))
    await writing.archive_agent(agent)
    rename = ChangeWorkflow(
        workflow_id=workflow.workflow_id, changes=WorkflowChanges(name="Digest")
    )
    assert (await change(writing, rename)).profile.name == "Digest"


async def test_what_never_was_cannot_be_changed(writing: Writing) -> None:
    with pytest.raises(NotFound):
        await change(writing, ChangeWorkflow(workflow_id=WorkflowId(404)))


# Archiving.


async def test_an_archived_workflow_is_told_as_it_was(writing: Writing) -> None:
    workflow = await writing.workflow(step(await ada(writing)))
    archived = await archive(writing, workflow)
    assert archived == WorkflowAnswer(
        workflow_id=workflow.workflow_id,
        profile=workflow.profile,
        steps=workflow.steps,
        status="archived",
        version=3,
        created_at=NOON,
        updated_at=NOON,
        created_by="key:of-a-test",
    )
    again = await archive(writing, workflow)
    assert (again.profile, again.version) == (WorkflowProfile(name="Report"), 3)
    with pytest.raises(WorkflowIsArchived):
        await change(writing, ChangeWorkflow(workflow_id=workflow.workflow_id, status="draft"))


async def test_a_change_may_archive(writing: Writing) -> None:
    workflow = await writing.workflow()
    command = ChangeWorkflow(
        workflow_id=workflow.workflow_id,
        changes=WorkflowChanges(name="Digest", goal="Know"),
        status="archived",
    )
    changed = await change(writing, command)
    assert (changed.status, changed.version) == ("archived", 3)
    assert changed.profile == WorkflowProfile(name="Digest", goal="Know")
    for name in ("Report", "Digest"):
        assert (await writing.workflow(name=name)).profile.name == name


async def test_what_never_was_cannot_be_archived(writing: Writing) -> None:
    command = ArchiveWorkflow(workflow_id=WorkflowId(404))
    with pytest.raises(NotFound):
        await writing.workflows.archive(command, writing.issued())


# Duplicating.


async def test_copies_are_drafts_under_the_first_free_names(writing: Writing) -> None:
    workflow = await writing.workflow(step(await ada(writing)))
    await writing.workflow(name="report (COPY 2)")
    copies = [await duplicate(writing, workflow) for _ in range(2)]
    assert [copy.profile.name for copy in copies] == ["Report (copy)", "Report (copy 3)"]
    assert [(copy.steps, copy.status) for copy in copies] == [(workflow.steps, "draft")] * 2
    assert len({copy.workflow_id for copy in (workflow, *copies)}) == 3


async def test_the_name_of_a_copy_keeps_within_its_bound(writing: Writing) -> None:
    workflow = await writing.workflow(name="x" * NAME_MAX)
    names = [(await duplicate(writing, workflow)).profile.name for _ in range(2)]
    assert names == ["x" * (NAME_MAX - 7) + " (copy)", "x" * (NAME_MAX - 9) + " (copy 2)"]


async def test_the_copies_of_one_workflow_are_bounded(writing: Writing) -> None:
    workflow = await writing.workflow(name="Report")
    for _ in range(COPY_NAMES_MAX):
        last = await duplicate(writing, workflow)
    assert last.profile.name == f"Report (copy {COPY_NAMES_MAX})"
    with pytest.raises(Invalid) as refused:
        await duplicate(writing, workflow)
    assert refused.value.pointer == "/name"


async def test_what_is_archived_or_never_was_cannot_be_duplicated(writing: Writing) -> None:
    workflow = await writing.workflow()
    await archive(writing, workflow)
    with pytest.raises(WorkflowIsArchived):
        await duplicate(writing, workflow)
    with pytest.raises(NotFound):
        await writing.workflows.duplicate(
            DuplicateWorkflow(workflow_id=WorkflowId(404)), writing.issued()
        )
