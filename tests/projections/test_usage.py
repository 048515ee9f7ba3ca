"""Usage per UTC day: what was counted is what the events say, no more and no less."""

from collections import Counter
from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

from hypothesis import given

from domain.events import Blob, Recorded, WorkspaceId
from domain.tokens import Cost, TokenCounts
from domain.usage import (
    CallSubject,
    ModelCallCompleted,
    ModelCallFailed,
    ModelCallInDoubt,
    UsageEvent,
)
from projections.usage import AgentUsage, DailyUsage, usage_of_agents, usage_since
from tests.projections.tables import projected
from tests.strategies import START, WORKSPACES, events_of, logs, recorded

ACME, GLOBEX = WORKSPACES
FIRST_DAY = START.date()
EVER = date(1970, 1, 1)
TOKENS = TokenCounts(input=10, cache_read=20, cache_write=30, output=40, reasoning=50)
COST = Cost(input_nano_usd=1, cache_read_nano_usd=2, cache_write_nano_usd=3, output_nano_usd=4)
BY_AGENT = CallSubject(agent_id=1, agent_version=1)
BY_RUN = CallSubject(agent_id=1, agent_version=1, workflow_id=3, run_id=7, step=0)


def completed(
    subject: CallSubject = BY_AGENT,
    *,
    tokens: TokenCounts | None = TOKENS,
    cost: Cost | None = COST,
    model: str = "small",
) -> ModelCallCompleted:
    return ModelCallCompleted(
        call_id="c1",
        subject=subject,
        provider="openai",
        model=model,
        response_id="r",
        finish_reason="stop",
        output=Blob("aa", 2),
        usage=None,
        tokens=tokens,
        cost=cost,
        latency_ms=100,
    )


def failed(*, in_doubt: bool = False, tokens: TokenCounts | None = None) -> ModelCallFailed:
    return ModelCallFailed(
        call_id="c1",
        subject=BY_AGENT,
        provider="openai",
        model="small",
        kind="timeout",
        error="too slow",
        in_doubt=in_doubt,
        tokens=tokens,
        latency_ms=100,
    )


def days(log: list[Recorded[Any]], since: date = EVER, limit: int = 99) -> list[DailyUsage]:
    with projected(log) as connection:
        return usage_since(connection, ACME, since, limit=limit)


def one_day(*events: UsageEvent) -> DailyUsage:
    (row,) = days(recorded(*events))
    return row


def test_calls_of_one_agent_to_one_model_add_up() -> None:
    assert one_day(completed(BY_RUN), completed(BY_RUN)) == DailyUsage(
        day=FIRST_DAY,
        agent_id=1,
        provider="openai",
        model="small",
        workflow_id=3,
        calls=2,
        failed_calls=0,
        calls_in_doubt=0,
        unmetered_calls=0,
        unpriced_calls=0,
        tokens=TokenCounts(input=20, cache_read=40, cache_write=60, output=80, reasoning=100),
        cost_nano_usd=20,
        latency_ms=200,
    )


def test_each_workflow_model_and_agent_has_a_row_of_its_own() -> None:
    rows = days(recorded(completed(), completed(BY_RUN), completed(model="large")))
    assert [(row.workflow_id, row.model) for row in rows] == [
        (None, "large"),
        (None, "small"),
        (3, "small"),
    ]


def test_a_failed_call_is_counted_as_one_and_its_tokens_are_paid_for() -> None:
    row = one_day(failed(), failed(tokens=TOKENS))
    assert (row.calls, row.failed_calls, row.unmetered_calls) == (2, 2, 0)
    assert (row.tokens, row.unpriced_calls, row.calls_in_doubt) == (TOKENS, 1, 0)


def test_a_call_in_doubt_is_counted_apart() -> None:
    doubted = ModelCallInDoubt(call_id="c1", subject=BY_AGENT, provider="openai", model="small")
    assert (one_day(doubted).calls, one_day(doubted).calls_in_doubt) == (0, 1)
    assert (one_day(failed(in_doubt=True)).calls_in_doubt) == 1


def test_what_is_not_known_is_counted_as_not_known() -> None:
    row = one_day(completed(tokens=None, cost=None), completed(cost=None), completed())
    assert (row.calls, row.unmetered_calls, row.unpriced_calls) == (3, 1, 1)


def test_a_day_ends_at_midnight_utc() -> None:
    log = [
        *recorded(completed(), start=START),
        *recorded(completed(), start=START + timedelta(minutes=1), after=1),
    ]
    next_day = FIRST_DAY + timedelta(days=1)
    assert [row.day for row in days(log)] == [FIRST_DAY, next_day]
    assert [row.day for row in days(log, since=next_day)] == [next_day]
    assert [row.day for row in days(log, limit=1)] == [FIRST_DAY]


def test_an_agents_usage_is_summed_up_over_all_days_and_models() -> None:
    later = START + timedelta(days=9)
    log = [
        *recorded(completed(), completed(model="large")),
        *recorded(completed(BY_RUN), start=later, after=2),
    ]
    with projected(log) as connection:
        assert usage_of_agents(connection, ACME, [1, 2]) == {
            1: AgentUsage(calls=3, tokens=450, cost_nano_usd=30, last_used_at=later)
        }
        assert usage_of_agents(connection, GLOBEX, [1]) == {}


# Sums over rows are sums over events.


def in_workspace(log: list[Recorded[Any]], workspace_id: WorkspaceId) -> list[UsageEvent]:
    return [each.event for each in log if each.metadata.workspace_id == workspace_id]


def sums_of_events(events: Iterable[UsageEvent]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for event in events:
        if isinstance(event, ModelCallInDoubt):
            sums["in_doubt"] += 1
        elif isinstance(event, ModelCallCompleted | ModelCallFailed):
            sums["calls"] += 1
            sums["tokens"] += event.tokens.total if event.tokens else 0
            sums["cost"] += event.cost.total_nano_usd if event.cost else 0
            sums["latency"] += event.latency_ms
            sums["failed"] += isinstance(event, ModelCallFailed)
            sums["in_doubt"] += isinstance(event, ModelCallFailed) and event.in_doubt
    return sums


def sums_of_rows(rows: Iterable[DailyUsage]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for row in rows:
        sums["calls"] += row.calls
        sums["failed"] += row.failed_calls
        sums["in_doubt"] += row.calls_in_doubt
        sums["tokens"] += row.tokens.total
        sums["cost"] += row.cost_nano_usd
        sums["latency"] += row.latency_ms
    return sums


@given(logs(events_of(UsageEvent)))
def test_usage_adds_up_to_what_was_recorded(log: list[Recorded[Any]]) -> None:
    with projected(log) as connection:
        for workspace_id in WORKSPACES:
            rows = usage_since(connection, workspace_id, EVER, limit=99)
            per_agent = usage_of_agents(connection, workspace_id, [1, 2, 3])
            recorded_here = sums_of_events(in_workspace(log, workspace_id))
            assert sums_of_rows(rows) == recorded_here
            assert sum(each.tokens for each in per_agent.values()) == recorded_here["tokens"]
            assert sum(each.cost_nano_usd for each in per_agent.values()) == recorded_here["cost"]
            assert sum(each.calls for each in per_agent.values()) == recorded_here["calls"]
