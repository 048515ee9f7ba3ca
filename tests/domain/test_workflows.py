"""The rules of workflows."""

import pytest

from domain import workflows
from domain.errors import (
    AlreadyExists,
    Invalid,
    NotFound,
    WorkflowIsArchived,
    WorkflowIsNotPublished,
)
from domain.workflows import (
    WORKFLOW,
    ArchivedWorkflow,
    Drafted,
    Step,
    Undrafted,
    WorkflowArchived,
    WorkflowChanged,
    WorkflowChanges,
    WorkflowDrafted,
    WorkflowId,
    WorkflowProfile,
    WorkflowPublished,
    WorkflowStepsChanged,
    WorkflowWithdrawn,
)
from tests.given import given

REPORT = WorkflowId(1)
PROFILE = WorkflowProfile(name="Report", inputs=("topic",))
RESEARCH = Step(step_id="research", agent_id=1, prompt_template="Read about {input.topic}")
WRITE = Step(step_id="write", agent_id=2, prompt_template="Sum up {steps.research.output}")
STEPS = (RESEARCH, WRITE)
DRAFTED = WorkflowDrafted(workflow_id=REPORT, profile=PROFILE, steps=STEPS)
PUBLISHED = WorkflowPublished(workflow_id=REPORT)
WITHDRAWN = WorkflowWithdrawn(workflow_id=REPORT)
ARCHIVED = WorkflowArchived(workflow_id=REPORT)
EMPTY = WorkflowDrafted(workflow_id=REPORT, profile=PROFILE, steps=())


# Drafting.


def test_a_workflow_is_drafted_with_its_steps() -> None:
    given(WORKFLOW).when(workflows.draft, workflow_id=REPORT, profile=PROFILE, steps=STEPS).then(
        DRAFTED
    )


def test_drafting_the_same_workflow_again_records_nothing() -> None:
    given(WORKFLOW, DRAFTED).when(
        workflows.draft, workflow_id=REPORT, profile=PROFILE, steps=STEPS
    ).then_nothing()


@pytest.mark.parametrize(
    "later", [WorkflowStepsChanged(workflow_id=REPORT, steps=(RESEARCH,)), ARCHIVED]
)
def test_an_id_is_never_used_for_another_workflow(later: workflows.WorkflowEvent) -> None:
    given(WORKFLOW, DRAFTED, later).when(
        workflows.draft, workflow_id=REPORT, profile=PROFILE, steps=STEPS
    ).then_refused(AlreadyExists)


def test_two_steps_of_one_name_are_refused() -> None:
    given(WORKFLOW).when(
        workflows.draft, workflow_id=REPORT, profile=PROFILE, steps=(RESEARCH, RESEARCH)
    ).then_refused(Invalid, pointer="/steps/1/step_id")


def test_a_step_cannot_ask_for_the_output_of_a_later_one() -> None:
    given(WORKFLOW).when(
        workflows.draft, workflow_id=REPORT, profile=PROFILE, steps=(WRITE, RESEARCH)
    ).then_refused(Invalid, pointer="/steps/0/prompt_template")


# Changing.


def test_only_what_differs_is_recorded_as_changed() -> None:
    given(WORKFLOW, DRAFTED).when(
        workflows.change,
        workflow_id=REPORT,
        changes=WorkflowChanges(name="Report", goal="Clarity"),
        steps=(RESEARCH,),
    ).then(
        WorkflowChanged(workflow_id=REPORT, changes=WorkflowChanges(goal="Clarity")),
        WorkflowStepsChanged(workflow_id=REPORT, steps=(RESEARCH,)),
    )


def test_changing_nothing_records_nothing() -> None:
    given(WORKFLOW, DRAFTED).when(
        workflows.change, workflow_id=REPORT, changes=WorkflowChanges(name="Report"), steps=STEPS
    ).then_nothing()
    given(WORKFLOW, DRAFTED).when(
        workflows.change, workflow_id=REPORT, changes=WorkflowChanges()
    ).then_nothing()


def test_an_input_that_a_step_asks_for_cannot_be_taken_away() -> None:
    given(WORKFLOW, DRAFTED).when(
        workflows.change, workflow_id=REPORT, changes=WorkflowChanges(inputs=())
    ).then_refused(Invalid, pointer="/steps/0/prompt_template")


def test_a_draft_may_lose_its_steps_but_a_published_workflow_may_not() -> None:
    given(WORKFLOW, DRAFTED).when(
        workflows.change, workflow_id=REPORT, changes=WorkflowChanges(), steps=()
    ).then(WorkflowStepsChanged(workflow_id=REPORT, steps=()))
    given(WORKFLOW, DRAFTED, PUBLISHED).when(
        workflows.change, workflow_id=REPORT, changes=WorkflowChanges(), steps=()
    ).then_refused(Invalid, pointer="/steps")


# Publishing.


def test_a_workflow_is_published_once() -> None:
    given(WORKFLOW, DRAFTED).when(workflows.publish, workflow_id=REPORT).then(PUBLISHED)
    given(WORKFLOW, DRAFTED, PUBLISHED).when(workflows.publish, workflow_id=REPORT).then_nothing()


def test_a_workflow_without_steps_is_not_published() -> None:
    given(WORKFLOW, EMPTY).when(workflows.publish, workflow_id=REPORT).then_refused(
        Invalid, pointer="/steps"
    )


def test_a_workflow_is_withdrawn_once() -> None:
    given(WORKFLOW, DRAFTED, PUBLISHED).when(workflows.withdraw, workflow_id=REPORT).then(WITHDRAWN)
    given(WORKFLOW, DRAFTED, PUBLISHED, WITHDRAWN).when(
        workflows.withdraw, workflow_id=REPORT
    ).then_nothing()


# Archiving.


def test_a_workflow_is_archived_once() -> None:
    given(WORKFLOW, DRAFTED).when(workflows.archive, workflow_id=REPORT, reason="old").then(
        WorkflowArchived(workflow_id=REPORT, reason="old")
    )
    given(WORKFLOW, DRAFTED, ARCHIVED).when(
        workflows.archive, workflow_id=REPORT, reason="again"
    ).then_nothing()


def test_a_workflow_that_never_was_cannot_be_archived() -> None:
    given(WORKFLOW).when(workflows.archive, workflow_id=REPORT, reason="").then_refused(NotFound)


def test_an_archived_workflow_can_no_longer_change() -> None:
    given(WORKFLOW, DRAFTED, ARCHIVED).when(
        workflows.change, workflow_id=REPORT, changes=WorkflowChanges(name="New")
    ).then_refused(WorkflowIsArchived)


# Running.


def test_a_published_workflow_runs_when_its_inputs_are_given() -> None:
    state = WORKFLOW.fold([DRAFTED, PUBLISHED])
    assert workflows.runnable(state, REPORT, {"topic": None, "more": 1}) is state


def test_a_draft_does_not_run() -> None:
    with pytest.raises(WorkflowIsNotPublished):
        workflows.runnable(WORKFLOW.fold([DRAFTED]), REPORT, {"topic": "bees"})


@pytest.mark.parametrize("inputs", [("topic",), None])
def test_a_run_is_refused_for_want_of_an_input(inputs: tuple[str, ...] | None) -> None:
    """Whether its author declared the input, or only a step asks for it."""
    changed = WorkflowChanged(workflow_id=REPORT, changes=WorkflowChanges(inputs=inputs))
    state = WORKFLOW.fold([DRAFTED, changed, PUBLISHED])
    with pytest.raises(Invalid) as refusal:
        workflows.runnable(state, REPORT, {})
    assert refusal.value.pointer == "/input_data/topic"


# What the events say.


def test_every_change_shows_in_the_workflow() -> None:
    changed = WorkflowChanged(workflow_id=REPORT, changes=WorkflowChanges(name="New"))
    fewer = WorkflowStepsChanged(workflow_id=REPORT, steps=(RESEARCH,))
    assert WORKFLOW.fold([DRAFTED, changed, fewer, PUBLISHED]) == Drafted(
        REPORT, WorkflowProfile(name="New", inputs=("topic",)), (RESEARCH,), published=True
    )
    assert WORKFLOW.fold([DRAFTED, PUBLISHED, WITHDRAWN]) == WORKFLOW.fold([DRAFTED])


def test_an_archived_workflow_keeps_its_name_and_changes_no_more() -> None:
    assert WORKFLOW.fold([DRAFTED, ARCHIVED, PUBLISHED]) == ArchivedWorkflow(REPORT, "Report")
    assert WORKFLOW.fold([ARCHIVED]) == ArchivedWorkflow(REPORT, "")
    assert WORKFLOW.fold([PUBLISHED]) == Undrafted()
