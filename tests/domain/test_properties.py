"""What holds for every history, and for every decision on it."""

from collections.abc import Callable
from functools import partial
from inspect import getmembers, isfunction, signature
from types import ModuleType
from typing import Any, TypeAlias, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import agents, claims, identity, runs, workflows
from domain.agents import (
    AGENT,
    AgentChanges,
    AgentEvent,
    AgentProfile,
    AgentRegistered,
    ModelConfig,
    Registered,
    Unregistered,
)
from domain.changes import applied
from domain.claims import CLAIM, ClaimEvent
from domain.errors import DomainError
from domain.events import Aggregate, Event
from domain.identity import (
    INSTALLATION,
    KEY_RING,
    USER,
    WORKSPACE,
    ApiKeyCreated,
    InstallationOpened,
    InvitationSent,
    KeyEvent,
    UserEvent,
    WorkspaceEvent,
)
from domain.runs import RUN, RunEvent, Running, RunStarted, StepStarted, TakeStep
from domain.usage import ModelCallCompleted, ModelCallFailed, ModelCallRequested
from domain.workflows import (
    WORKFLOW,
    Step,
    WorkflowChanges,
    WorkflowDrafted,
    WorkflowEvent,
    WorkflowProfile,
)
from tests.strategies import START, events_of, json_values, made, moments, names, texts

Decision: TypeAlias = Callable[[Any], tuple[Event, ...]]
Decisions: TypeAlias = st.SearchStrategy[Decision]

agent_ids, workflow_ids, run_ids = st.integers(1, 3), st.integers(1, 2), st.integers(1, 2)
step_indexes, attempts = st.integers(0, 2), st.integers(1, 4)
call_ids, workers = st.sampled_from(["c1", "c2"]), st.sampled_from(["w1", "w2"])
kinds, holders = st.sampled_from(["Agent", "Workflow"]), st.sampled_from(["1", "2"])
user_ids, invitation_ids = st.sampled_from(["u1", "u2"]), st.sampled_from(["i1", "i2"])
roles = st.sampled_from(["owner", "admin", "editor", "viewer", "auditor"])
key_ids, workspace_ids = st.sampled_from(["k1", "k2"]), st.sampled_from(["acme", "globex"])
steps = st.lists(made(Step), max_size=3, unique_by=lambda step: step.step_id).map(tuple)


def taken(decide: Callable[..., Any], **arguments: st.SearchStrategy[Any]) -> Decisions:
    return st.builds(partial, st.just(decide), **arguments)


def _take_what_is_due(state: Any, *, worker: str, call: ModelCallRequested) -> tuple[Event, ...]:
    """Act as a worker does, so that runs get somewhere."""
    due = runs.due(state, now=START, sole_worker=None)
    if not isinstance(due, TakeStep) or not isinstance(state, Running):
        return ()
    return runs.begin_step(
        state, step=due.step, attempt=due.attempt, worker=worker, now=START, call=call
    )


ARGUMENTS: dict[Callable[..., Any], dict[str, st.SearchStrategy[Any]]] = {
    agents.register: {"agent_id": agent_ids, "profile": made(AgentProfile)},
    agents.change: {"agent_id": agent_ids, "changes": made(AgentChanges)},
    agents.tag: {"agent_id": agent_ids, "tags": json_values | texts},
    agents.configure_model: {
        "agent_id": agent_ids,
        "model": st.none() | made(ModelConfig),
    },
    agents.set_status: {
        "agent_id": agent_ids,
        "status": st.sampled_from(["active", "inactive", "training"]),
    },
    agents.roll_back: {
        "agent_id": agent_ids,
        "version": st.integers(1, 4),
        "then": made(Registered) | st.just(Unregistered()),
    },
    agents.archive: {"agent_id": agent_ids, "reason": texts},
    claims.claim: {"kind": kinds, "name": names, "holder": holders},
    claims.release: {"kind": kinds, "name": names, "holder": holders},
    identity.open_installation: {"local_workspace_id": workspace_ids},
    identity.register_user: {
        "issuer": texts,
        "subject": texts,
        "email": texts,
        "name": texts,
    },
    identity.create_workspace: {
        "workspace_id": workspace_ids,
        "name": names,
        "owner": st.none() | user_ids,
    },
    identity.rename_workspace: {"name": names},
    identity.change_role: {"user_id": user_ids, "role": roles, "by": roles},
    identity.remove_member: {"user_id": user_ids, "by": st.none() | roles},
    identity.invite: {"sent": made(InvitationSent, invitation_id=invitation_ids), "by": roles},
    identity.accept_invitation: {
        "invitation_id": invitation_ids,
        "secret_hash": st.sampled_from(["aa", "bb"]),
        "user_id": user_ids,
        "now": moments,
    },
    identity.revoke_invitation: {"invitation_id": invitation_ids},
    identity.create_key: {"created": made(ApiKeyCreated, key_id=key_ids), "now": moments},
    identity.rotate_key: {
        "created": made(ApiKeyCreated, key_id=key_ids, replaces=key_ids),
        "old_until": moments,
        "now": moments,
    },
    identity.revoke_key: {"key_id": key_ids},
    identity.note_use: {"key_id": key_ids, "now": moments},
    workflows.draft: {
        "workflow_id": workflow_ids,
        "profile": made(WorkflowProfile),
        "steps": steps,
    },
    workflows.change: {
        "workflow_id": workflow_ids,
        "changes": made(WorkflowChanges),
        "steps": st.none() | steps,
    },
    workflows.publish: {"workflow_id": workflow_ids},
    workflows.withdraw: {"workflow_id": workflow_ids},
    workflows.archive: {"workflow_id": workflow_ids, "reason": texts},
    runs.start: {"started": made(RunStarted, steps=steps)},
    runs.begin_step: {
        "step": step_indexes,
        "attempt": attempts,
        "worker": workers,
        "now": moments,
        "call": made(ModelCallRequested),
    },
    runs.mark_in_doubt: {"call_id": call_ids},
    runs.record_answer: {"outcome": made(ModelCallCompleted)},
    runs.record_failure: {
        "outcome": made(ModelCallFailed),
        "retry_at": st.none() | moments,
    },
    runs.fail_step: {"step": step_indexes, "attempt": attempts, "error": texts},
    runs.cancel: {"run_id": run_ids, "reason": texts},
}
DECISIONS = {decide: taken(decide, **arguments) for decide, arguments in ARGUMENTS.items()}
asked = made(ModelCallRequested, call_id=call_ids)
answered = made(ModelCallCompleted, call_id=call_ids)
failed = made(ModelCallFailed, call_id=call_ids)
WORK = [
    *[taken(_take_what_is_due, worker=workers, call=asked) for _ in range(5)],
    *[taken(runs.record_answer, outcome=answered) for _ in range(3)],
    *[taken(runs.record_failure, outcome=failed, retry_at=st.none() | moments) for _ in range(3)],
]
"""The better part of a run's decisions, so that most runs get past their start."""

run_started = made(RunStarted, steps=steps.filter(bool))
first_try = made(StepStarted, step=st.just(0), attempt=st.just(1))
OPENINGS: dict[str, st.SearchStrategy[tuple[Event, ...]]] = {
    AGENT.category: st.tuples(made(AgentRegistered)),
    WORKFLOW.category: st.tuples(made(WorkflowDrafted, steps=steps)),
    RUN.category: st.tuples(run_started) | st.tuples(run_started, first_try, asked),
}

AGGREGATES: list[tuple[Aggregate[Any, Any], Any, ModuleType]] = [
    (AGENT, AgentEvent, agents),
    (CLAIM, ClaimEvent, claims),
    (WORKFLOW, WorkflowEvent, workflows),
    (RUN, RunEvent, runs),
    (INSTALLATION, InstallationOpened, identity),
    (USER, UserEvent, identity),
    (WORKSPACE, WorkspaceEvent, identity),
    (KEY_RING, KeyEvent, identity),
]
OF_IDENTITY: dict[str, set[Callable[..., Any]]] = {
    INSTALLATION.category: {identity.open_installation},
    USER.category: {identity.register_user},
    WORKSPACE.category: {
        identity.create_workspace,
        identity.rename_workspace,
        identity.change_role,
        identity.remove_member,
        identity.invite,
        identity.accept_invitation,
        identity.revoke_invitation,
    },
    KEY_RING.category: {
        identity.create_key,
        identity.rotate_key,
        identity.revoke_key,
        identity.note_use,
    },
}
every_aggregate = pytest.mark.parametrize(
    ("aggregate", "union", "module"), AGGREGATES, ids=[row[0].category for row in AGGREGATES]
)


def decisions_of(aggregate: Aggregate[Any, Any], module: ModuleType) -> list[Decisions]:
    within = OF_IDENTITY.get(aggregate.category)
    return [
        decisions
        for decide, decisions in DECISIONS.items()
        if is_of(decide, module) and (within is None or decide in within)
    ] + (WORK if aggregate is RUN else [])


def histories(aggregate: Aggregate[Any, Any], union: Any) -> st.SearchStrategy[list[Any]]:
    anything = st.lists(events_of(union), max_size=4)
    opening = OPENINGS.get(aggregate.category)
    return anything if opening is None else opening.map(list) | anything


def is_of(decide: Callable[..., Any], module: ModuleType) -> bool:
    """Tell whether a decision is a slice's, whose module may be a package."""
    return f"{decide.__module__}.".startswith(f"{module.__name__}.")


def is_decision(function: Callable[..., Any]) -> bool:
    answer = signature(function).return_annotation
    told = get_args(answer)[0] if get_origin(answer) is tuple else None
    return not function.__name__.startswith("_") and told in {union for _, union, _ in AGGREGATES}


@pytest.mark.parametrize("module", [agents, claims, identity, runs, workflows])
def test_every_decision_there_is_is_among_those_tried_here(module: ModuleType) -> None:
    there = {function for _, function in getmembers(module, isfunction) if is_decision(function)}
    assert there
    assert there == {decide for decide in DECISIONS if is_of(decide, module)}


@every_aggregate
@given(data=st.data())
def test_evolve_accepts_any_history(
    aggregate: Aggregate[Any, Any], union: Any, module: ModuleType, data: st.DataObject
) -> None:
    history = data.draw(st.lists(events_of(union), max_size=8))
    aggregate.fold(history)


@every_aggregate
@given(data=st.data())
def test_a_decision_taken_twice_records_once(
    aggregate: Aggregate[Any, Any], union: Any, module: ModuleType, data: st.DataObject
) -> None:
    """From any history, and from there on along whatever the decisions lead to."""
    state = aggregate.fold(data.draw(histories(aggregate, union)))
    for decide in data.draw(
        st.lists(st.one_of(decisions_of(aggregate, module)), min_size=1, max_size=8)
    ):
        try:
            recorded = decide(state)
        except DomainError:
            continue
        state = aggregate.fold(recorded, state)
        assert decide(state) == ()


@given(made(AgentProfile), made(AgentChanges))
def test_agents_have_a_short_way_to_apply_changes_that_leaves_out_no_field(
    profile: AgentProfile, changes: AgentChanges
) -> None:
    assert agents.changed(profile, changes) == applied(profile, changes)
