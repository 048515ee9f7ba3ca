"""How often each route is asked, how it answers, and how long that takes.

Counted in memory and added, every few seconds, to what all processes have counted. Nothing here
is of a workspace, and nothing is an event: it says how the service is, not what happened in it.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final, Literal, Protocol

import msgspec
from litestar import get
from litestar.di import NamedDependency

ENDPOINTS_MAX = 500
"""Told apart in one process; what comes after them is counted together."""

UNMATCHED: Final = "unmatched"
"""All requests that no route takes: they can be any number of paths."""

OTHERS: Final = "others"
RECENT_MAX = 100
SHOWN_MAX = 20
STREAMS: Final = "/stream"
"""How the paths of live streams end: they last as long as a client listens, which is no fault."""

BUCKETS_MS: Final = (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)
"""Upper bounds of the histogram; one more holds what took longer."""

UNHEALTHY_RATE, DEGRADED_RATE = 10.0, 5.0
UNHEALTHY_MS, DEGRADED_MS = 1_000.0, 500.0
CLIENT_ERROR = 400

Health = Literal["healthy", "degraded", "unhealthy"]


class Calls(msgspec.Struct):
    """Calls of one endpoint that were answered with one status.

    Attributes:
        endpoint: `<METHOD> <route template>`.
        last_called: UTC.
        buckets: How many took how long, by `BUCKETS_MS`; each call is in one.
    """

    endpoint: str
    status: int
    calls: int
    total_us: int
    min_us: int
    max_us: int
    last_called: datetime
    buckets: list[int]

    def add(self, other: "Calls") -> None:
        self.calls += other.calls
        self.total_us += other.total_us
        self.min_us = min(self.min_us, other.min_us)
        self.max_us = max(self.max_us, other.max_us)
        self.last_called = max(self.last_called, other.last_called)
        self.buckets = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]


class Totals(Protocol):
    """What all processes have counted, since the installation began."""

    async def add(self, counted: Sequence[Calls]) -> None:
        """Add to them, all or nothing."""
        ...

    async def all(self) -> list[Calls]: ...


class EndpointStatistics:
    """Counts the requests of one process.

    Attributes:
        recent_us: The last calls of each endpoint, in this process.
    """

    def __init__(self, totals: Totals, now: Callable[[], datetime]) -> None:
        self._totals = totals
        self.now = now
        self._counted: dict[tuple[str, str, int], Calls] = {}
        self._names: dict[tuple[str, str], str] = {}
        self.recent_us: dict[str, deque[int]] = {}

    def record(self, method: str, template: str | None, status: int, us: int) -> None:
        """Count a request that has been answered to its end.

        Args:
            template: None if no route took it.
        """
        key = (method, template or "", status)
        found = self._counted.get(key)
        if found is None:
            found = self._begin(key)
        found.calls += 1
        found.total_us += us
        # Not `min` and `max`, which cost more than all the rest.
        if us < found.min_us:  # noqa: PLR1730
            found.min_us = us
        if us > found.max_us:  # noqa: PLR1730
            found.max_us = us
        found.buckets[bisect_left(BUCKETS_US, us)] += 1
        self.recent_us[found.endpoint].append(us)

    def _begin(self, key: tuple[str, str, int]) -> Calls:
        method, template, status = key
        name = self._name(method, template)
        # Only names are remembered for ever; statuses begin anew with every flush.
        found = self._counted.setdefault(
            key if name not in {UNMATCHED, OTHERS} else (name, "", status),
            Calls(name, status, 0, 0, NEVER_US, 0, self.now(), [0] * (len(BUCKETS_MS) + 1)),
        )
        self.recent_us.setdefault(name, deque(maxlen=RECENT_MAX))
        return found

    def _name(self, method: str, template: str) -> str:
        if not template:
            return UNMATCHED
        name = self._names.get((method, template))
        if name is None:
            if len(self._names) >= ENDPOINTS_MAX:
                return OTHERS
            name = self._names[method, template] = f"{method} {template}"
        return name

    async def flush(self) -> None:
        """Add what was counted since the last time; what cannot be added is added later."""
        now = self.now()
        counted, self._counted = self._counted, {}
        for calls in counted.values():
            calls.last_called = now
        try:
            if counted:
                await self._totals.add(list(counted.values()))
        except BaseException:
            for key, calls in counted.items():
                if key in self._counted:
                    self._counted[key].add(calls)
                else:
                    self._counted[key] = calls
            raise

    async def all(self) -> list[Calls]:
        """Tell what all have counted; of other processes, up to their last flush."""
        await self.flush()
        return await self._totals.all()


BUCKETS_US = tuple(bound * 1_000 for bound in BUCKETS_MS)
NEVER_US = 2**62


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    avg_response_time, min_response_time, max_response_time: Milliseconds.
    recent_response_time: Milliseconds; mean of the last 100 calls of the process that answers.
    error_count: Statuses of 400 and above.
    error_rate: Percent.
    status_codes: Calls by status.
    """

    endpoint: str
    health: Health
    call_count: int
    avg_response_time: float
    min_response_time: float
    max_response_time: float
    recent_response_time: float | None
    error_count: int
    error_rate: float
    last_called: datetime
    status_codes: dict[str, int]


class EndpointSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    overall_error_rate: Percent.
    unmatched_calls: Requests that no route took; in none of the other figures.
    """

    total_endpoints: int
    total_calls: int
    total_errors: int
    overall_error_rate: float
    healthy_endpoints: int
    degraded_endpoints: int
    unhealthy_endpoints: int
    unmatched_calls: int


class EndpointsBody(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    endpoints: The 20 that are called most.
    """

    status: Health
    timestamp: datetime
    summary: EndpointSummary
    endpoints: list[Endpoint]


@get(
    "/api/health/endpoints",
    opt={"permission": "system:read"},
    summary="How each route answers",
    tags=["health"],
)
async def endpoint_health(statistics: NamedDependency[EndpointStatistics]) -> EndpointsBody:
    """Tell it of the whole installation, since it began."""
    return body_of(await statistics.all(), statistics.recent_us, statistics.now())


def body_of(
    rows: Iterable[Calls], recent_us: dict[str, deque[int]], now: datetime
) -> EndpointsBody:
    by_endpoint: dict[str, list[Calls]] = {}
    for calls in rows:
        by_endpoint.setdefault(calls.endpoint, []).append(calls)
    unmatched = sum(calls.calls for calls in by_endpoint.pop(UNMATCHED, []))
    found = [_endpoint(name, rows, recent_us.get(name)) for name, rows in by_endpoint.items()]
    found.sort(key=lambda endpoint: (-endpoint.call_count, endpoint.endpoint))
    total, errors = sum(e.call_count for e in found), sum(e.error_count for e in found)
    healths = [endpoint.health for endpoint in found]
    summary = EndpointSummary(
        total_endpoints=len(found),
        total_calls=total,
        total_errors=errors,
        overall_error_rate=_percent(errors, total),
        healthy_endpoints=healths.count("healthy"),
        degraded_endpoints=healths.count("degraded"),
        unhealthy_endpoints=healths.count("unhealthy"),
        unmatched_calls=unmatched,
    )
    status = _health(summary.overall_error_rate, 0.0)
    return EndpointsBody(status=status, timestamp=now, summary=summary, endpoints=found[:SHOWN_MAX])


def mean_ms(rows: Iterable[Calls]) -> float:
    """Tell the mean time of what routes answered; of a live stream the time is its listener's."""
    judged = [row for row in rows if row.endpoint != UNMATCHED]
    judged = [row for row in judged if not row.endpoint.endswith(STREAMS)]
    calls = sum(row.calls for row in judged)
    return _ms(sum(row.total_us for row in judged) / calls) if calls else 0.0


def _endpoint(name: str, rows: Sequence[Calls], recent: Sequence[int] | None) -> Endpoint:
    calls = sum(row.calls for row in rows)
    errors = sum(row.calls for row in rows if row.status >= CLIENT_ERROR)
    mean = _ms(sum(row.total_us for row in rows) / calls)
    rate = _percent(errors, calls)
    return Endpoint(
        endpoint=name,
        health=_health(rate, 0.0 if name.endswith(STREAMS) else mean),
        call_count=calls,
        avg_response_time=mean,
        min_response_time=_ms(min(row.min_us for row in rows)),
        max_response_time=_ms(max(row.max_us for row in rows)),
        recent_response_time=_ms(sum(recent) / len(recent)) if recent else None,
        error_count=errors,
        error_rate=rate,
        last_called=max(row.last_called for row in rows),
        status_codes={str(row.status): row.calls for row in rows},
    )


def _health(error_rate: float, mean_ms: float) -> Health:
    if error_rate > UNHEALTHY_RATE or mean_ms > UNHEALTHY_MS:
        return "unhealthy"
    return "degraded" if error_rate > DEGRADED_RATE or mean_ms > DEGRADED_MS else "healthy"


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0


def _ms(us: float) -> float:
    return round(us / 1_000, 3)
