"""The original's pages of the system tell figures that somebody has counted."""

import pytest

from tests.read_api.conftest import Served, Tenant, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_health_tells_how_each_part_is(served: Served, tenant: Tenant) -> None:
    body = (await tenant.http.get("/api/system/health")).json()
    assert body["overall_status"] == "healthy"
    components = {each["name"]: each for each in body["components"]}
    assert {each["status"] for each in components.values()} == {"healthy"}
    assert components["event_store"]["metrics"]["events"] > 0
    assert components["read_models"]["metrics"] == {"events_behind": 0, "parked": 0}
    assert set(body["system_metrics"]) == {"cpu_usage", "memory_usage", "memory_available"}
    assert body["system_metrics"]["memory_usage"].endswith("%")
    assert body["uptime"].count(":") == 2
    assert body["version"] == (await served.client().get("/health")).json()["version"]
    assert body["timestamp"] == components["database"]["last_check"]


async def test_health_tells_it_to_people_when_a_part_is_ill(alone: Served) -> None:
    follower = alone.installation.follower
    follower.failed["agents"] = "the disk is full"
    try:
        answer = await alone.tenants[0].http.get("/api/system/health")
    finally:
        del follower.failed["agents"]
    assert answer.status_code == 200
    assert answer.json()["overall_status"] == "unhealthy"
    ill = {each["name"] for each in answer.json()["components"] if each["status"] == "unhealthy"}
    assert ill == {"read_models"}


async def test_metrics_are_those_of_the_machine_and_of_all_callers(alone: Served) -> None:
    tenant, operator = alone.tenants[0], alone.operator
    assert_problem(await tenant.http.get("/api/system/metrics"), 403, "not_permitted")
    await tenant.agent()
    body = (await operator.http.get("/api/system/metrics")).json()
    assert body["cpu"]["count"] == len(body["cpu"]["usage_percent"]) >= 1
    assert 0 <= body["cpu"]["average_usage"] <= 100
    assert 0 < body["memory"]["used"] < body["memory"]["total"]
    assert body["disk"]["free"] <= body["disk"]["total"]
    assert body["disk"]["percent"] == body["disk"]["usage_percent"]
    assert body["api_calls_count"] == 2
    assert body["error_rate"] == 50.0
    assert body["average_response_time"] > 0


async def test_before_anybody_has_asked_there_is_no_mean_time(alone: Served) -> None:
    body = (await alone.operator.http.get("/api/system/metrics")).json()
    assert (body["api_calls_count"], body["average_response_time"]) == (0, 0.0)


async def test_agents_are_counted_in_the_callers_workspace_alone(
    tenant: Tenant, other: Tenant
) -> None:
    await tenant.agent("Ada", agent_type="data_analyst")
    await other.agent("Bea")
    body = (await tenant.http.get("/api/system/agent-statistics")).json()
    assert body["total_agents"] == body["active_agents"] == 1
    assert {kind for kind, count in body["agents_by_type"].items() if count} == {"data_analyst"}
    stats = (await tenant.http.get("/api/agents/stats")).json()
    assert {**body, "timestamp": ""} == {**stats, "timestamp": ""}


async def test_the_types_are_those_that_an_agent_may_have(tenant: Tenant) -> None:
    body = (await tenant.http.get("/api/system/agent-types")).json()
    assert body["types"] == (await tenant.http.get("/api/agents/types")).json()["data"]
    assert set(body["descriptions"]) == set(body["types"])
    for agent_type in body["types"]:
        await tenant.agent(f"A {agent_type}", agent_type=agent_type)


async def test_nothing_of_the_system_is_told_without_a_key(served: Served) -> None:
    for name in ("health", "metrics", "agent-types", "agent-statistics"):
        answer = await served.client().get(f"/api/system/{name}")
        assert_problem(answer, 401, "not_authenticated")
