"""Routes on usage: what model calls came to."""

from datetime import date, timedelta
from typing import Annotated

import msgspec
from litestar import Controller, Response, get
from litestar.params import QueryParameter

from projections.agents import agent_names
from projections.usage import DailyUsage, usage_since
from read_api.asked import ApiRequest
from read_api.auth import may
from read_api.money import decimal_usd

DAYS_DEFAULT = timedelta(days=30)
ROWS_MAX = 10_000


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One day's calls of one workflow's agent to one model.

    Attributes:
        calls: Those whose outcome is known.
        unmetered_calls: Answered without usage: their tokens are unknown, not zero.
        unpriced_calls: Metered, but of a model without a known price.
        cost_usd: Decimal, of the priced calls.
    """

    day: date
    agent_id: int
    agent_name: str | None
    provider: str
    model: str
    workflow_id: int | None
    calls: int
    failed_calls: int
    calls_in_doubt: int
    unmetered_calls: int
    unpriced_calls: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int
    cost_usd: str
    latency_ms: int


class UsageBody(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    since: First UTC day of the rows.
    complete: Whether these are all rows there are; the totals are of these.
    """

    since: date
    items: list[UsageRow]
    total_calls: int
    total_tokens: int
    total_cost_usd: str
    complete: bool


class UsageController(Controller):
    path = "/api/usage"
    tags = ("usage",)

    @get("/", summary="Usage by day, agent, model and workflow", opt=may("usage:read"))
    async def by_day(
        self,
        request: ApiRequest,
        since: Annotated[
            date | None, QueryParameter(description="UTC; 30 days ago if not set")
        ] = None,
    ) -> Response[UsageBody]:
        view = request.view
        await view.fresh("usage", "agents")
        first = since or (view.now() - DAYS_DEFAULT).date()
        found = await view.ask(usage_since, first, limit=ROWS_MAX + 1)
        rows = found[:ROWS_MAX]
        names = await view.ask(agent_names, sorted({row.agent_id for row in rows}))
        body = UsageBody(
            since=first,
            items=[_row(row, names) for row in rows],
            total_calls=sum(row.calls for row in rows),
            total_tokens=sum(row.tokens.total for row in rows),
            total_cost_usd=decimal_usd(sum(row.cost_nano_usd for row in rows)),
            complete=len(found) == len(rows),
        )
        return view.response(body)


def _row(row: DailyUsage, names: dict[int, str]) -> UsageRow:
    tokens = row.tokens
    return UsageRow(
        **{name: getattr(row, name) for name in _PLAIN},
        agent_name=names.get(row.agent_id),
        input_tokens=tokens.input,
        cache_read_tokens=tokens.cache_read,
        cache_write_tokens=tokens.cache_write,
        output_tokens=tokens.output,
        reasoning_tokens=tokens.reasoning,
        total_tokens=tokens.total,
        cost_usd=decimal_usd(row.cost_nano_usd),
    )


_PLAIN = tuple(sorted(set(UsageRow.__struct_fields__) & set(DailyUsage.__struct_fields__)))
