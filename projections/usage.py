"""Usage per UTC day, agent, model and workflow."""

from datetime import date, datetime
from typing import ClassVar

import msgspec
from sqlalchemy import BigInteger, Column, Connection, Index, Table, Text, func, select

from domain.catalog import AnyEvent
from domain.events import Event, Recorded, WorkspaceId
from domain.tokens import Cost, TokenCounts
from domain.usage import ModelCallCompleted, ModelCallFailed, ModelCallInDoubt, ModelCallOutcome
from projections.projector import Batch
from projections.rows import READ_MODELS, Row, micros, moment

NO_WORKFLOW = 0
"""Stands in the key for calls that no workflow made."""

_TOKENS = ("input", "cache_read", "cache_write", "output", "reasoning")
_COUNTS = (
    "calls",
    "failed_calls",
    "calls_in_doubt",
    "unmetered_calls",
    "unpriced_calls",
    *(f"{kind}_tokens" for kind in _TOKENS),
    *(f"{kind}_nano_usd" for kind in _TOKENS),
    "latency_ms",
)

usage_by_day = Table(
    "usage_by_day",
    READ_MODELS,
    Column("workspace_id", Text, primary_key=True),
    Column("day", Text, primary_key=True, comment="UTC, as YYYY-MM-DD"),
    Column("agent_id", BigInteger, primary_key=True, autoincrement=False),
    Column("provider", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("workflow_id", BigInteger, primary_key=True, autoincrement=False),
    *(Column(name, BigInteger, nullable=False) for name in _COUNTS),
    Column("last_used_at", BigInteger, nullable=False),
)
Index("usage_by_agent", usage_by_day.c.workspace_id, usage_by_day.c.agent_id)


class UsageProjector:
    """Counts a call when its outcome is known; one in doubt is counted as such, apart."""

    name: ClassVar[str] = "usage"
    tables: ClassVar[tuple[Table, ...]] = (usage_by_day,)
    folds: ClassVar[frozenset[type[Event]]] = frozenset(
        {ModelCallCompleted, ModelCallFailed, ModelCallInDoubt}
    )

    def project(self, recorded: Recorded[AnyEvent], batch: Batch) -> None:
        match recorded.event:
            case ModelCallCompleted() | ModelCallFailed() as event:
                _add(recorded, event, batch, _counts(event))
            case ModelCallInDoubt() as event:
                _add(recorded, event, batch, {"calls_in_doubt": 1})
            case _:
                pass


def _counts(event: ModelCallOutcome) -> dict[str, int]:
    tokens, cost = event.tokens or TokenCounts(), event.cost or Cost()
    failed = isinstance(event, ModelCallFailed)
    return {
        "calls": 1,
        "failed_calls": int(failed),
        "calls_in_doubt": int(isinstance(event, ModelCallFailed) and event.in_doubt),
        "unmetered_calls": int(event.tokens is None and not failed),
        "unpriced_calls": int(event.cost is None and event.tokens is not None),
        "latency_ms": event.latency_ms,
        **{f"{kind}_tokens": getattr(tokens, kind) for kind in _TOKENS},
        **{f"{kind}_nano_usd": getattr(cost, f"{kind}_nano_usd") for kind in _TOKENS},
    }


def _add(
    recorded: Recorded[AnyEvent],
    event: ModelCallOutcome | ModelCallInDoubt,
    batch: Batch,
    counts: dict[str, int],
) -> None:
    at = recorded.metadata.occurred_at
    key = (
        recorded.metadata.workspace_id,
        at.date().isoformat(),
        event.subject.agent_id,
        event.provider,
        event.model,
        event.subject.workflow_id or NO_WORKFLOW,
    )
    rows = batch.rows(usage_by_day)
    row = rows.get(*key) or _empty(key)
    for name, count in counts.items():
        row[name] += count
    row["last_used_at"] = max(row["last_used_at"], micros(at))
    rows.put(row)


def _empty(key: tuple[object, ...]) -> Row:
    names = [column.name for column in usage_by_day.primary_key]
    return {**dict(zip(names, key, strict=True)), **dict.fromkeys(_COUNTS, 0), "last_used_at": 0}


# Queries.


class DailyUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of one workflow's agent to one model on one UTC day.

    Attributes:
        calls: Those whose outcome is known.
        calls_in_doubt: Those that may have been paid without an answer to show for it.
        unmetered_calls: Answered without usage, so their tokens are unknown.
        unpriced_calls: Metered, but the price book does not know the model.
        cost_nano_usd: Billionths of a US dollar, of the priced calls.
        latency_ms: Of all calls together.
    """

    day: date
    agent_id: int
    provider: str
    model: str
    workflow_id: int | None
    calls: int
    failed_calls: int
    calls_in_doubt: int
    unmetered_calls: int
    unpriced_calls: int
    tokens: TokenCounts
    cost_nano_usd: int
    latency_ms: int


class AgentUsage(msgspec.Struct, frozen=True, kw_only=True):
    calls: int
    tokens: int
    cost_nano_usd: int
    last_used_at: datetime


def usage_since(
    connection: Connection, workspace_id: WorkspaceId, day: date, *, limit: int
) -> list[DailyUsage]:
    """Select rows from `day` on, oldest first."""
    found = connection.execute(
        select(usage_by_day)
        .where(usage_by_day.c.workspace_id == workspace_id, usage_by_day.c.day >= day.isoformat())
        .order_by(*usage_by_day.primary_key)
        .limit(limit)
    )
    return [_daily(dict(row)) for row in found.mappings()]


def usage_of_agents(
    connection: Connection, workspace_id: WorkspaceId, agent_ids: list[int]
) -> dict[int, AgentUsage]:
    """Sum up per agent over all time; agents without calls are left out."""
    tokens = sum(
        (usage_by_day.c[f"{kind}_tokens"] for kind in _TOKENS[1:]), usage_by_day.c.input_tokens
    )
    cost = sum(
        (usage_by_day.c[f"{kind}_nano_usd"] for kind in _TOKENS[1:]), usage_by_day.c.input_nano_usd
    )
    found = connection.execute(
        select(
            usage_by_day.c.agent_id,
            func.sum(usage_by_day.c.calls),
            func.sum(tokens),
            func.sum(cost),
            func.max(usage_by_day.c.last_used_at),
        )
        .where(usage_by_day.c.workspace_id == workspace_id, usage_by_day.c.agent_id.in_(agent_ids))
        .group_by(usage_by_day.c.agent_id)
    )
    return {
        agent_id: AgentUsage(
            calls=int(calls), tokens=int(total), cost_nano_usd=int(nano), last_used_at=moment(last)
        )
        for agent_id, calls, total, nano, last in found
    }


def _daily(row: Row) -> DailyUsage:
    return DailyUsage(
        day=date.fromisoformat(row["day"]),
        workflow_id=row["workflow_id"] or None,
        tokens=TokenCounts(**{kind: row[f"{kind}_tokens"] for kind in _TOKENS}),
        cost_nano_usd=sum(row[f"{kind}_nano_usd"] for kind in _TOKENS),
        **{name: row[name] for name in _DAILY_PLAIN},
    )


_DAILY_PLAIN = tuple(
    name
    for name in DailyUsage.__struct_fields__
    if name not in {"day", "workflow_id", "tokens", "cost_nano_usd"}
)
