"""Workflows as they are now: lists, filters and counts."""

from datetime import timedelta
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.workflows import (
    WORKFLOW,
    Drafted,
    Step,
    WorkflowArchived,
    WorkflowChanged,
    WorkflowChanges,
    WorkflowDrafted,
    WorkflowEvent,
    WorkflowId,
    WorkflowProfile,
    WorkflowPublished,
    WorkflowStatus,
    WorkflowWithdrawn,
)
from projections.workflows import (
    WorkflowFilter,
    WorkflowRow,
    workflow,
    workflow_counts,
    workflow_page,
)
from tests.projections.tables import projected
from tests.strategies import START, WORKSPACES, events_of, made, recorded

ACME, GLOBEX = WORKSPACES
REPORT, AUDIT, PLAN = WorkflowId(1), WorkflowId(2), WorkflowId(3)
STEP = Step(step_id="a", agent_id=1, prompt_template="go")
PROFILES = {
    REPORT: WorkflowProfile(name="Report", description="Zählt Straßen", tags=("Dev", "Ops")),
    AUDIT: WorkflowProfile(name="50%_Audit", owner="ada", tags=("a,b",)),
    PLAN: WorkflowProfile(name="Plan", owner="bob", tags=('x"y',)),
}
DRAFTED = [
    WorkflowDrafted(workflow_id=w, profile=profile, steps=(STEP,))
    for w, profile in PROFILES.items()
]


def ids(wanted: WorkflowFilter, *events: WorkflowEvent) -> list[int]:
    with projected(recorded(*DRAFTED, *events)) as connection:
        rows, total = workflow_page(connection, ACME, wanted, skip=0, limit=9)
    assert total == len(rows)
    return [row.workflow_id for row in rows]


def test_a_workflow_is_shown_as_it_was_drafted() -> None:
    profile = WorkflowProfile(name="Report", goal="Clarity", configuration={"b": 1}, inputs=("t",))
    drafted = WorkflowDrafted(workflow_id=REPORT, profile=profile, steps=(STEP,))
    with projected(recorded(drafted, actor="key:k9")) as connection:
        assert workflow(connection, ACME, REPORT) == WorkflowRow(
            workflow_id=REPORT,
            profile=profile,
            steps=(STEP,),
            status="draft",
            created_at=START,
            updated_at=START,
            created_by="key:k9",
            version=1,
        )


@given(st.lists(events_of(WorkflowEvent), max_size=10), made(WorkflowDrafted))
def test_a_workflow_is_shown_as_its_events_make_it(
    events: list[Any], drafted: WorkflowDrafted
) -> None:
    history = [event for event in [drafted, *events] if event.workflow_id == drafted.workflow_id]
    history = list(takewhile(lambda event: not isinstance(event, WorkflowArchived), history))
    state = WORKFLOW.fold(history)
    with projected(recorded(*history)) as connection:
        row = workflow(connection, ACME, drafted.workflow_id)
    assert isinstance(state, Drafted)
    assert row is not None
    assert (row.profile, row.steps, row.version) == (state.profile, state.steps, len(history))
    assert row.status == ("active" if state.published else "draft")


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([], "draft"),
        ([WorkflowPublished(workflow_id=REPORT)], "active"),
        ([WorkflowPublished(workflow_id=REPORT), WorkflowWithdrawn(workflow_id=REPORT)], "draft"),
        ([WorkflowArchived(workflow_id=REPORT)], "archived"),
    ],
)
def test_a_status_follows_what_was_decided(
    events: list[WorkflowEvent], status: WorkflowStatus
) -> None:
    with projected(recorded(DRAFTED[0], *events)) as connection:
        row = workflow(connection, ACME, REPORT)
        assert workflow_counts(connection, ACME) == {status: 1}
    assert row is not None
    assert row.status == status
    assert row.updated_at == START + timedelta(seconds=len(events))


# Lists.


def test_the_last_updated_workflow_comes_first() -> None:
    assert ids(WorkflowFilter()) == [PLAN, AUDIT, REPORT]
    changed = WorkflowChanged(workflow_id=REPORT, changes=WorkflowChanges(goal="New"))
    assert ids(WorkflowFilter(), changed) == [REPORT, PLAN, AUDIT]


def test_workflows_updated_at_once_come_newest_first() -> None:
    log = [each for drafted in DRAFTED for each in recorded(drafted, after=drafted.workflow_id)]
    with projected(log) as connection:
        rows, _ = workflow_page(connection, ACME, WorkflowFilter(), skip=0, limit=9)
    assert [row.workflow_id for row in rows] == [PLAN, AUDIT, REPORT]


def test_a_page_is_a_part_of_the_list_and_knows_its_whole() -> None:
    with projected(recorded(*DRAFTED)) as connection:
        rows, total = workflow_page(connection, ACME, WorkflowFilter(), skip=1, limit=1)
    assert ([row.workflow_id for row in rows], total) == ([AUDIT], 3)


def test_archived_workflows_are_listed_only_when_asked_for() -> None:
    archived = WorkflowArchived(workflow_id=AUDIT)
    assert ids(WorkflowFilter(), archived) == [PLAN, REPORT]
    assert ids(WorkflowFilter(status="archived"), archived) == [AUDIT]
    published = WorkflowPublished(workflow_id=PLAN)
    assert ids(WorkflowFilter(status="active"), archived, published) == [PLAN]
    assert ids(WorkflowFilter(status="draft"), archived, published) == [REPORT]


@pytest.mark.parametrize(
    ("q", "workflows_found"),
    [
        ("REPORT", [REPORT]),
        ("STRASSE", [REPORT]),
        ("ZÄHLT", [REPORT]),
        ("%_a", [AUDIT]),
        ("p_an", []),
        ("", [PLAN, AUDIT, REPORT]),
    ],
)
def test_a_search_finds_its_very_text_in_name_or_description_in_any_case(
    q: str, workflows_found: list[WorkflowId]
) -> None:
    assert ids(WorkflowFilter(q=q)) == workflows_found


@pytest.mark.parametrize(
    ("tag", "workflows_found"),
    [("dev", [REPORT]), ("DE", []), (",", []), ("A,B", [AUDIT]), ("y", []), ('X"Y', [PLAN])],
)
def test_a_tag_is_found_whole_and_in_any_case(tag: str, workflows_found: list[WorkflowId]) -> None:
    assert ids(WorkflowFilter(tag=tag)) == workflows_found


def test_an_owner_is_found_as_spelled_and_with_the_other_filters() -> None:
    assert ids(WorkflowFilter(owner="ada")) == [AUDIT]
    assert ids(WorkflowFilter(owner="Ada")) == []
    assert ids(WorkflowFilter(owner="ada", q="plan")) == []


def test_workspaces_never_see_each_others_workflows() -> None:
    theirs = WorkflowDrafted(workflow_id=REPORT, profile=WorkflowProfile(name="T"), steps=())
    published = WorkflowPublished(workflow_id=AUDIT)
    log = [*recorded(*DRAFTED), *recorded(theirs, published, workspace_id=GLOBEX, after=3)]
    with projected(log) as connection:
        rows, total = workflow_page(connection, GLOBEX, WorkflowFilter(), skip=0, limit=9)
        assert workflow(connection, GLOBEX, AUDIT) is None
        assert workflow_counts(connection, ACME) == {"draft": 3}
        assert workflow_counts(connection, GLOBEX) == {"draft": 1}
    assert ([row.profile.name for row in rows], total) == (["T"], 1)
