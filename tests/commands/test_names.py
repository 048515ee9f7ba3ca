"""Unique names: one spelling, one holder, whoever asks at once."""

import asyncio

import pytest

from commands.names import Names
from commands.transact import Transaction
from commands.workflows import ArchiveWorkflow, ChangeWorkflow
from domain.errors import NameIsTaken
from domain.workflows import WorkflowChanges
from tests.commands.writing import ACME, GLOBEX, Writing


async def holder(writing: Writing, name: str, *, kind: str = "Agent") -> str | None:
    transaction = Transaction(writing.store, writing.issued(), fresh=True)
    return await Names(transaction, ACME, kind).holder(name)


@pytest.mark.parametrize(
    "spelling",
    ["Ada", "ada", "ADA", " Ada ", "\tAda\n", "\N{FULLWIDTH LATIN CAPITAL LETTER A}da"],
    ids=["the same", "lower", "upper", "spaces", "tabs", "full width"],
)
async def test_two_spellings_of_one_name_are_one(writing: Writing, spelling: str) -> None:
    await writing.agent("Ada")
    with pytest.raises(NameIsTaken) as refused:
        await writing.agent(spelling)
    assert refused.value.pointer == "/name"
    assert str(refused.value) == "Agent with this name already exists"


async def test_white_space_within_a_name_is_one_space(writing: Writing) -> None:
    await writing.agent("Ada Lovelace")
    with pytest.raises(NameIsTaken):
        await writing.agent("Ada \N{NO-BREAK SPACE} Lovelace")


async def test_a_refused_name_leaves_nothing_behind(writing: Writing) -> None:
    await writing.agent("Ada")
    before = await writing.recorded()
    with pytest.raises(NameIsTaken):
        await writing.agent("Ada")
    assert await writing.recorded() == before


async def test_agents_and_workflows_do_not_share_names(writing: Writing) -> None:
    await writing.agent("Report")
    assert (await writing.workflow(name="Report")).profile.name == "Report"


async def test_workspaces_do_not_share_names(writing: Writing) -> None:
    await writing.agent("Ada")
    assert (await writing.agent("Ada", workspace_id=GLOBEX)).profile.name == "Ada"


async def test_a_renamed_agent_gives_its_old_name_back(writing: Writing) -> None:
    ada = await writing.agent("Ada")
    await writing.rename(ada, "Grace")
    assert await holder(writing, "Ada") is None
    assert await holder(writing, "Grace") == str(ada.agent_id)


async def test_a_name_that_is_taken_cannot_be_changed_to(writing: Writing) -> None:
    ada, grace = await writing.agent("Ada"), await writing.agent("Grace")
    with pytest.raises(NameIsTaken):
        await writing.rename(grace, "ADA")
    assert await holder(writing, "Ada") == str(ada.agent_id)
    assert await holder(writing, "Grace") == str(grace.agent_id)


async def test_a_new_spelling_of_the_own_name_changes_no_claim(writing: Writing) -> None:
    ada = await writing.agent("ada")
    assert (await writing.rename(ada, "Ada")).profile.name == "Ada"
    assert (await writing.tags())[2:] == ["agent_changed"]


async def test_an_archived_agent_gives_its_name_back(writing: Writing) -> None:
    ada = await writing.agent("Ada")
    await writing.archive_agent(ada)
    again = await writing.agent("Ada")
    assert await holder(writing, "Ada") == str(again.agent_id)
    await writing.archive_agent(ada)
    assert await holder(writing, "Ada") == str(again.agent_id)


async def test_a_renamed_workflow_gives_its_old_name_back(writing: Writing) -> None:
    report = await writing.workflow(name="Report")
    change = ChangeWorkflow(workflow_id=report.workflow_id, changes=WorkflowChanges(name="Digest"))
    await writing.workflows.change(change, writing.issued())
    assert await holder(writing, "Report", kind="Workflow") is None
    assert await holder(writing, "Digest", kind="Workflow") == str(report.workflow_id)


async def test_an_archived_workflow_gives_its_name_back(writing: Writing) -> None:
    report = await writing.workflow(name="Report")
    archive = ArchiveWorkflow(workflow_id=report.workflow_id)
    await writing.workflows.archive(archive, writing.issued())
    again = await writing.workflow(name="Report")
    assert await holder(writing, "Report", kind="Workflow") == str(again.workflow_id)


@pytest.mark.parametrize("processes", [1, 2])
async def test_of_many_who_take_a_name_at_once_one_gets_it(
    writing: Writing, processes: int
) -> None:
    sides = [writing] + [Writing(beside=writing) for _ in range(1, processes)]
    spellings = ["Ada", "ADA", "ada ", " aDA"] * 3
    outcomes = await asyncio.gather(
        *(sides[n % processes].agent(name) for n, name in enumerate(spellings)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert [type(refusal) for refusal in refused] == [NameIsTaken] * (len(spellings) - 1)
    assert await writing.tags() == ["name_claimed", "agent_registered"]
