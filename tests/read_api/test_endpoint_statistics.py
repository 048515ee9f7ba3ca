"""Each route's calls are counted by template, over restarts and processes, and within bounds."""

from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from read_api.endpoint_statistics import (
    BUCKETS_MS,
    ENDPOINTS_MAX,
    OTHERS,
    RECENT_MAX,
    SHOWN_MAX,
    UNMATCHED,
    Calls,
    EndpointStatistics,
    body_of,
)
from tests.read_api.conftest import Served, Tenant, assert_problem, serving, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW = datetime(2026, 11, 22, tzinfo=UTC)
PATH = "/api/health/endpoints"


class Memory:
    """Implements `Totals`; fails as often as it is told to."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], Calls] = {}
        self.failures = 0

    async def add(self, counted: Sequence[Calls]) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError
        for calls in counted:
            found = self.rows.setdefault((calls.endpoint, calls.status), calls)
            if found is not calls:
                found.add(calls)

    async def all(self) -> list[Calls]:
        return list(self.rows.values())


def counting() -> tuple[EndpointStatistics, Memory]:
    memory = Memory()
    return EndpointStatistics(memory, lambda: NOW), memory


def calls(endpoint: str, status: int = 200, count: int = 1, mean_ms: float = 1.0) -> Calls:
    us = int(mean_ms * 1_000)
    return Calls(endpoint, status, count, count * us, us, us, NOW, [count] + [0] * len(BUCKETS_MS))


async def test_calls_are_told_apart_by_method_template_and_status() -> None:
    statistics, _ = counting()
    for method, template, status, us in (
        ("GET", "/a/{id}", 200, 4_000),
        ("GET", "/a/{id}", 200, 6_000),
        ("GET", "/a/{id}", 404, 1_000),
        ("PUT", "/a/{id}", 200, 60_000_000),
    ):
        statistics.record(method, template, status, us)
    found = {(c.endpoint, c.status): c for c in await statistics.all()}
    assert set(found) == {("GET /a/{id}", 200), ("GET /a/{id}", 404), ("PUT /a/{id}", 200)}
    twice = found["GET /a/{id}", 200]
    assert (twice.calls, twice.total_us, twice.min_us, twice.max_us) == (2, 10_000, 4_000, 6_000)
    assert twice.buckets[:2] == [1, 1]
    assert found["PUT /a/{id}", 200].buckets[-1] == 1


async def test_requests_that_no_route_takes_never_take_a_place() -> None:
    statistics, _ = counting()
    for number in range(ENDPOINTS_MAX + 10):
        statistics.record(f"M{number}", None, 404, 1)
    for number in range(ENDPOINTS_MAX + 10):
        statistics.record("GET", f"/{number}", 200, 1)
    found = {c.endpoint: c.calls for c in await statistics.all()}
    assert len(found) == ENDPOINTS_MAX + 2
    assert (found[UNMATCHED], found[OTHERS]) == (ENDPOINTS_MAX + 10, 10)
    statistics.record("GET", "/0", 200, 1)
    assert {c.endpoint: c.calls for c in await statistics.all()}["GET /0"] == 2


async def test_what_cannot_be_written_is_written_later_and_once() -> None:
    statistics, memory = counting()
    memory.failures = 2
    for expected in (1, 2):
        statistics.record("GET", "/a", 200, expected)
        with pytest.raises(ConnectionError):
            await statistics.flush()
    statistics.record("GET", "/a", 200, 3)
    (found,) = await statistics.all()
    assert (found.calls, found.total_us, found.min_us, found.max_us) == (3, 6, 1, 3)
    assert sum(found.buckets) == 3
    await statistics.flush()
    assert memory.rows["GET /a", 200].calls == 3


async def test_only_so_many_recent_times_are_kept() -> None:
    statistics, _ = counting()
    for us in range(RECENT_MAX + 50):
        statistics.record("GET", "/a", 200, us)
    assert list(statistics.recent_us["GET /a"]) == list(range(50, RECENT_MAX + 50))


@pytest.mark.parametrize(
    ("errors", "mean_ms", "health"),
    [
        (5, 500, "healthy"),
        (6, 1, "degraded"),
        (0, 501, "degraded"),
        (10, 1_000, "degraded"),
        (11, 1, "unhealthy"),
        (0, 1_001, "unhealthy"),
    ],
)
async def test_an_endpoint_s_health_is_that_of_its_errors_and_its_time(
    errors: int, mean_ms: float, health: str
) -> None:
    rows = [calls("GET /a", 200, 100 - errors, mean_ms)]
    rows += [calls("GET /a", 500, errors, mean_ms)] if errors else []
    (found,) = body_of(rows, {}, NOW).endpoints
    assert (found.health, found.error_rate, found.call_count) == (health, errors, 100)


async def test_a_stream_is_not_ill_because_it_lasts() -> None:
    (found,) = body_of([calls("GET /api/events/stream", mean_ms=60_000)], {}, NOW).endpoints
    assert (found.health, found.avg_response_time) == ("healthy", 60_000)


async def test_the_summary_has_all_and_the_list_those_called_most() -> None:
    rows = [calls(f"GET /{number}", count=number + 1) for number in range(SHOWN_MAX + 5)]
    rows += [calls("GET /ill", 500, 100), calls(UNMATCHED, 404, 10_000)]
    body = body_of(rows, {"GET /ill": deque([1_000, 3_000])}, NOW)
    assert body.endpoints[0].endpoint == "GET /ill"
    assert body.endpoints[0].recent_response_time == 2.0
    assert len(body.endpoints) == SHOWN_MAX
    summary = body.summary
    assert (summary.total_endpoints, summary.unhealthy_endpoints) == (SHOWN_MAX + 6, 1)
    assert (summary.total_calls, summary.total_errors) == (325 + 100, 100)
    assert (body.status, summary.overall_error_rate) == ("unhealthy", 23.53)
    assert summary.unmatched_calls == 10_000


async def told(served: Served) -> dict[str, Any]:
    answer = await served.operator.http.get(PATH)
    assert answer.status_code == 200
    return {each["endpoint"]: each for each in answer.json()["endpoints"]}


async def test_the_route_tells_what_was_asked_before_and_after_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        tenant = served.tenants[0]
        agent = await tenant.agent()
        for agent_id in (agent["id"], agent["id"], 17):
            await tenant.http.get(f"/api/agents/{agent_id}")
        await tenant.http.get("/nope")
        await tenant.http.options("/api/agents")
        await tenant.http.get("/docs/problems")
        found = await told(served)
        assert found["POST /api/agents"]["status_codes"] == {"201": 1}
        one = next(each for name, each in found.items() if name.startswith("GET /api/agents/{"))
        assert one["status_codes"] == {"200": 2, "404": 1}
        assert (one["call_count"], one["error_count"], one["error_rate"]) == (3, 1, 33.33)
        assert one["min_response_time"] <= one["avg_response_time"] <= one["max_response_time"]
        assert not {name for name in found if "docs" in name or "OPTIONS" in name}
    async with serving(tmp_path) as served:
        found = await told(served)
        assert found["POST /api/agents"]["status_codes"] == {"201": 1}
        # The one that told it had not ended yet; it has been counted at the stop.
        assert found[f"GET {PATH}"]["call_count"] == 1
        summary = (await served.operator.http.get(PATH)).json()["summary"]
        assert summary["unmatched_calls"] == 1


async def test_a_stream_is_counted_when_it_ends_with_the_time_it_took(alone: Served) -> None:
    tenant = alone.tenants[0]
    await tenant.agent()
    async with tenant.http.stream("GET", "/api/events/stream") as answer:
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                break
        assert "GET /api/events/stream" not in await told(alone)

    async def is_counted() -> bool:
        return "GET /api/events/stream" in await told(alone)

    await until(is_counted)
    assert (await told(alone))["GET /api/events/stream"]["status_codes"] == {"200": 1}


async def test_nobody_reads_it_but_who_operates_the_installation(
    served: Served, tenant: Tenant
) -> None:
    assert_problem(await served.client().get(PATH), 401, "not_authenticated")
    assert_problem(await tenant.http.get(PATH), 403, "not_permitted")
    assert (await served.operator.http.get(PATH)).status_code == 200
