"""Starting runs and stopping them, through the real store."""

import pytest

from commands.runs import (
    INPUT_BYTES_MAX,
    CancelAnswer,
    CancelRun,
    RunAnswer,
    StartRun,
    execution_id,
)
from commands.workflows import ArchiveWorkflow, ChangeWorkflow, WorkflowAnswer
from domain.agents import AgentId
from domain.errors import (
    Invalid,
    NotFound,
    RunIsFinished,
    TooLong,
    VersionMismatch,
    WorkflowIsArchived,
    WorkflowIsNotPublished,
)
from domain.events import JsonObject
from domain.runs import RUN, RunId, Running, RunStarted
from domain.workflows import Step, WorkflowChanges, WorkflowId
from tests.commands.writing import GLOBEX, Writing, run_stream
from tests.fakes import FakeModels


async def published(writing: Writing, template: str = "Go.") -> WorkflowAnswer:
    agent_id: AgentId = (await writing.agent("Ada")).agent_id
    step = Step(step_id="research", agent_id=agent_id, prompt_template=template)
    return await writing.workflow(step)


async def start(writing: Writing, workflow_id: WorkflowId, given: JsonObject) -> RunAnswer:
    command = StartRun(workflow_id=workflow_id, input=given)
    return (await writing.runs.start(command, writing.issued())).answer


async def cancel(writing: Writing, run_id: RunId, *, if_version: int | None = None) -> CancelAnswer:
    command = CancelRun(run_id=run_id, reason="Enough")
    return (await writing.runs.cancel(command, writing.issued(if_version=if_version))).answer


# Starting.


async def test_a_run_is_pinned_to_the_steps_of_its_start(writing: Writing) -> None:
    workflow = await published(writing, "About {input.topic}.")
    answer = await start(writing, workflow.workflow_id, {"topic": "bees", "more": [1]})
    assert answer == RunAnswer(
        run_id=RunId(3),
        execution_id="exec-000000000003",
        workflow_id=workflow.workflow_id,
        steps=1,
        version=1,
    )
    await writing.workflows.change(
        ChangeWorkflow(
            workflow_id=workflow.workflow_id,
            changes=WorkflowChanges(name="Digest"),
            steps=(*workflow.steps, Step(step_id="b", agent_id=1, prompt_template="More.")),
        ),
        writing.issued(),
    )
    (started,) = [recorded.event for recorded in await writing.recorded(run_stream(RunId(3)))]
    assert isinstance(started, RunStarted)
    assert (started.workflow_name, started.workflow_version) == ("Report", 2)
    assert started.steps == workflow.steps
    text = await writing.store.text(writing.issued().workspace_id, started.input)
    assert text == '{"topic":"bees","more":[1]}'


async def test_a_draft_does_not_run(writing: Writing) -> None:
    workflow = await writing.workflow(name="Report")
    with pytest.raises(WorkflowIsNotPublished):
        await start(writing, workflow.workflow_id, {})


async def test_an_archived_workflow_does_not_run(writing: Writing) -> None:
    workflow = await published(writing)
    await writing.workflows.archive(
        ArchiveWorkflow(workflow_id=workflow.workflow_id), writing.issued()
    )
    with pytest.raises(WorkflowIsArchived):
        await start(writing, workflow.workflow_id, {})


async def test_a_workflow_of_another_workspace_does_not_run(writing: Writing) -> None:
    workflow = await published(writing)
    with pytest.raises(NotFound):
        await writing.runs.start(
            StartRun(workflow_id=workflow.workflow_id), writing.issued(workspace_id=GLOBEX)
        )


async def test_a_run_needs_every_input_its_steps_ask_for(writing: Writing) -> None:
    workflow = await published(writing, "About {input.topic}.")
    before = await writing.recorded()
    with pytest.raises(Invalid) as refused:
        await start(writing, workflow.workflow_id, {"Topic": "bees"})
    assert refused.value.pointer == "/input_data/topic"
    assert await writing.recorded() == before


async def test_an_input_has_a_bound_in_bytes(writing: Writing) -> None:
    workflow = await published(writing)
    longest = "é" * ((INPUT_BYTES_MAX - len('{"a":""}')) // 2)
    assert (await start(writing, workflow.workflow_id, {"a": longest})).version == 1
    with pytest.raises(TooLong) as refused:
        await start(writing, workflow.workflow_id, {"a": longest + "x"})
    assert refused.value.pointer == "/input_data"
    assert refused.value.size_max == INPUT_BYTES_MAX


@pytest.mark.parametrize(
    ("run_id", "spelled"),
    [(0, "exec-000000000000"), (1, "exec-000000000001"), ((1 << 53) - 1, "exec-ffffffffffff")],
)
def test_an_execution_id_has_twelve_digits(run_id: int, spelled: str) -> None:
    assert execution_id(RunId(run_id)) == spelled


# Cancelling.


async def running(writing: Writing) -> RunId:
    workflow = await published(writing)
    return (await start(writing, workflow.workflow_id, {})).run_id


async def test_a_cancelled_run_is_cancelled_at_once_and_its_call_broken_off(
    writing: Writing,
) -> None:
    run_id = await running(writing)
    for _ in range(2):
        assert await cancel(writing, run_id) == CancelAnswer(run_id=run_id, version=2)
    assert await writing.tags(run_stream(run_id)) == ["run_started", "run_cancelled"]
    assert writing.interrupted == [run_stream(run_id)] * 2


async def test_a_run_that_has_ended_cannot_be_cancelled(writing: Writing) -> None:
    run_id = await running(writing)
    await writing.process(FakeModels()).advance(writing.issued().workspace_id, run_stream(run_id))
    with pytest.raises(RunIsFinished) as refused:
        await cancel(writing, run_id)
    assert refused.value.status == "completed"
    assert writing.interrupted == []


async def test_a_run_that_never_was_cannot_be_cancelled(writing: Writing) -> None:
    with pytest.raises(NotFound):
        await cancel(writing, RunId(404))


async def test_a_cancellation_insists_on_the_version_its_author_saw(writing: Writing) -> None:
    run_id = await running(writing)
    with pytest.raises(VersionMismatch):
        await cancel(writing, run_id, if_version=2)
    assert isinstance((await writing.store.load(RUN, run_stream(run_id))).state, Running)
    assert (await cancel(writing, run_id, if_version=1)).version == 2
