"""Agents on the wire: the original frontend's shapes."""

from typing import Any

import pytest

from tests.read_api.conftest import Tenant, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIELDS = {
    *("id", "name", "description", "agent_type", "status", "configuration", "tags", "skills"),
    *("performance_metrics", "priority_level", "max_concurrent_tasks", "auto_start", "tools"),
    *("created_at", "updated_at", "created_by", "plugins", "agent_model_config"),
    "model_usage_stats",
}


async def test_an_agent_has_the_fields_that_the_frontend_reads(tenant: Tenant) -> None:
    configuration = {"priority": "high", "maxConcurrentTasks": 7, "autoStart": True, "own": [1]}
    body = {
        "name": "  Ada ",
        "agent_type": "code_architect",
        "description": "First",
        "configuration": configuration,
        "skill_ids": [],
        "tool_ids": [],
        "tags": "Dev, dev , Ops,,ops",
    }
    answer = await tenant.http.post("/api/agents/", json=body)
    agent = answer.json()
    assert answer.status_code == 201
    assert set(agent) >= FIELDS
    assert agent["name"] == "Ada"
    assert agent["tags"] == ["Dev", "Ops"]
    assert agent["configuration"] == configuration
    assert (agent["priority_level"], agent["max_concurrent_tasks"]) == ("high", 7)
    assert agent["auto_start"] is True
    assert agent["performance_metrics"] == {}
    assert agent["agent_model_config"]["model_id"] == "extractive-bm25"
    assert agent["model_usage_stats"]["total_requests"] == 0
    assert (await tenant.http.get(f"/api/agents/{agent['id']}")).json() == agent
    assert (await tenant.http.get("/api/agents/")).json() == [agent]


@pytest.mark.parametrize("path", ["/api/agents", "/api/agents/"])
async def test_a_slash_at_the_end_makes_no_difference(tenant: Tenant, path: str) -> None:
    created = await tenant.http.post(path, json={"name": "Ada"})
    assert created.status_code == 201
    listed = await tenant.http.get(path)
    assert [agent["id"] for agent in listed.json()] == [created.json()["id"]]
    assert listed.headers["x-total-count"] == "1"


async def test_a_configuration_of_another_type_falls_back_to_the_default(tenant: Tenant) -> None:
    odd = {"priority": 3, "maxConcurrentTasks": True, "autoStart": "yes"}
    agent = await tenant.agent(configuration=odd)
    assert agent["configuration"] == odd
    assert (agent["priority_level"], agent["max_concurrent_tasks"]) == ("medium", 5)
    assert agent["auto_start"] is False


async def test_numbers_and_texts_come_back_as_they_were_given(tenant: Tenant) -> None:
    configuration = {"big": 10**30, "small": 5e-324, "text": "\1\N{GRINNING FACE}", "deep": [[[]]]}
    agent = await tenant.agent("ÅDA \N{ZERO WIDTH SPACE}", configuration=configuration)
    read = (await tenant.http.get(f"/api/agents/{agent['id']}")).json()
    assert read["configuration"] == configuration
    assert read == agent


async def test_a_list_is_filtered_and_paged_newest_first(tenant: Tenant) -> None:
    for number in range(5):
        status = "inactive" if number % 2 else "active"
        kind = "system" if number == 4 else "custom"
        tags = ["even"] if number % 2 == 0 else []
        await tenant.agent(f"Agent {number}", status=status, agent_type=kind, tags=tags)

    async def names(**params: Any) -> tuple[list[str], str]:
        answer = await tenant.http.get("/api/agents/", params=params)
        return [agent["name"][-1] for agent in answer.json()], answer.headers["x-total-count"]

    assert await names() == (["4", "3", "2", "1", "0"], "5")
    assert await names(skip=1, limit=2) == (["3", "2"], "5")
    assert await names(skip=9) == ([], "5")
    assert await names(status="inactive") == (["3", "1"], "2")
    assert await names(agent_type="system") == (["4"], "1")
    assert await names(search="AGENT 3") == (["3"], "1")
    assert await names(search="%") == ([], "0")
    assert await names(tag="EVEN", status="active", limit=1) == (["4"], "3")
    available = (await tenant.http.get("/api/agents/available")).json()
    assert {agent["status"] for agent in available} == {"active"}


async def test_an_agent_is_changed_under_the_version_that_was_seen(tenant: Tenant) -> None:
    agent = await tenant.agent(tags=["a"], description="Old")
    path = f"/api/agents/{agent['id']}"
    read = await tenant.http.get(path)
    assert read.headers["etag"] == '"1"'
    seen = {"If-Match": read.headers["etag"]}
    changed = await tenant.http.put(path, json={"status": "inactive"}, headers=seen)
    assert changed.status_code == 200
    assert changed.headers["etag"] == '"2"'
    assert changed.json()["status"] == "inactive"
    assert changed.json()["description"] == "Old"
    stale = await tenant.http.put(path, json={"status": "active"}, headers=seen)
    assert_problem(stale, 412, "version_mismatch")
    assert (await tenant.http.get(path)).json() == changed.json()


async def test_a_change_of_nothing_records_nothing(tenant: Tenant) -> None:
    agent = await tenant.agent()
    answer = await tenant.http.put(f"/api/agents/{agent['id']}", json={"name": "Ada"})
    assert answer.headers["etag"] == '"1"'
    assert "x-event-position" not in answer.headers


async def test_null_takes_away_what_may_be_missing(tenant: Tenant) -> None:
    model = {"provider": "offline", "model_id": "m"}
    agent = await tenant.agent(description="Old", model_config=model)
    assert agent["agent_model_config"]["model_id"] == "m"
    body = {"description": None, "model_config": None}
    changed = (await tenant.http.put(f"/api/agents/{agent['id']}", json=body)).json()
    assert changed["description"] is None
    assert changed["agent_model_config"]["model_id"] == "extractive-bm25"


async def test_an_archived_agent_is_gone_from_reads_and_its_name_is_free(tenant: Tenant) -> None:
    agent = await tenant.agent()
    path = f"/api/agents/{agent['id']}"
    archived = await tenant.http.delete(path)
    assert archived.json() == {"message": "Agent Ada deleted successfully"}
    for view in ("", "/status", "/model-config", "/model-usage"):
        assert_problem(await tenant.http.get(path + view), 404, "not_found")
    assert (await tenant.http.get("/api/agents")).json() == []
    assert (await tenant.http.delete(path)).status_code == 200
    assert (await tenant.agent())["id"] != agent["id"]


async def test_a_model_is_read_given_and_switched(tenant: Tenant) -> None:
    agent = await tenant.agent()
    path = f"/api/agents/{agent['id']}"
    given = {"provider": "openai", "model_id": "gpt-5-mini", "temperature": 0.1}
    put = await tenant.http.put(f"{path}/model-config", json=given)
    assert put.json()["model_config"].items() >= given.items()
    switch = {"model_id": "claude", "provider": "anthropic", "max_tokens": 9}
    switched = await tenant.http.post(f"{path}/switch-model", json=switch)
    assert switched.status_code == 200
    expected = {**switch, "temperature": 0.1}
    read = await tenant.http.get(f"{path}/model-config")
    assert read.json()["model_config"].items() >= expected.items()
    assert set(read.json()) == {"agent_id", "agent_name", "model_config", "model_usage_stats"}
    assert read.headers["etag"] == switched.headers["etag"] == '"3"'


async def test_a_model_can_be_switched_right_after_registering(tenant: Tenant) -> None:
    for number in range(20):
        agent = await tenant.agent(f"Agent {number}")
        path = f"/api/agents/{agent['id']}/switch-model"
        answer = await tenant.http.post(path, json={"model_id": "m"})
        assert answer.status_code == 200, number


async def test_kinds_counts_and_status_have_their_shapes(tenant: Tenant) -> None:
    agent = await tenant.agent(agent_type="system")
    await tenant.agent("Grace", status="training")
    kinds = (await tenant.http.get("/api/agents/types")).json()
    assert len(kinds["data"]) == 8
    assert set(kinds["descriptions"]) == set(kinds["data"])
    counts = (await tenant.http.get("/api/agents/stats")).json()
    assert counts.pop("timestamp")
    assert counts == {
        "total_agents": 2,
        "active_agents": 1,
        "inactive_agents": 1,
        "agents_by_type": {"custom": 1, "system": 1},
    }
    status = (await tenant.http.get(f"/api/agents/{agent['id']}/status")).json()
    assert status == {
        "agent_id": agent["id"],
        "name": "Ada",
        "status": "active",
        "updated_at": agent["updated_at"],
    }


# Several at once.


async def test_agents_are_made_all_at_once_in_the_order_they_were_told(tenant: Tenant) -> None:
    wanted = [{"name": f"Agent {n}", "tags": ["x"]} for n in range(3)]
    answer = await tenant.http.post("/api/agents/bulk", json=wanted)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert [each["name"] for each in made] == ["Agent 0", "Agent 1", "Agent 2"]
    assert "etag" not in answer.headers
    listed = await tenant.http.get(
        "/api/agents/", headers={"Min-Position": answer.headers["x-event-position"]}
    )
    assert sorted(each["id"] for each in listed.json()) == sorted(each["id"] for each in made)


async def test_of_agents_made_at_once_one_at_fault_is_pointed_to_and_none_is_made(
    tenant: Tenant,
) -> None:
    await tenant.agent("Ada")
    refused = await tenant.http.post("/api/agents/bulk", json=[{"name": "Bob"}, {"name": "ADA"}])
    problem = assert_problem(refused, 409, "name_is_taken")
    assert problem["errors"][0]["pointer"] == "/1/name"
    unknown = await tenant.http.post("/api/agents/bulk", json=[{"name": "B", "skill_ids": [7]}])
    assert unknown.json()["errors"][0]["pointer"] == "/0/skill_ids"
    assert [each["name"] for each in (await tenant.http.get("/api/agents/")).json()] == ["Ada"]


@pytest.mark.parametrize("count", [0, 101])
async def test_agents_made_at_once_have_a_bound(tenant: Tenant, count: int) -> None:
    wanted = [{"name": f"Agent {n}"} for n in range(count)]
    refused = await tenant.http.post("/api/agents/bulk", json=wanted)
    assert_problem(refused, 422, "invalid")


async def test_making_agents_at_once_is_answered_again_under_its_key(tenant: Tenant) -> None:
    wanted, headers = [{"name": "Ada"}, {"name": "Bob"}], {"Idempotency-Key": "bulk-agents-1"}
    first, again = [
        await tenant.http.post("/api/agents/bulk", json=wanted, headers=headers) for _ in range(2)
    ]
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotent-replayed"] == "true"


# Performance.


async def test_the_performance_of_an_agent_is_what_was_recorded_of_it(tenant: Tenant) -> None:
    workflow = await tenant.three_steps()
    run = await tenant.ended_run(workflow["id"])
    assert run["status"] == "completed"
    (agent,) = (await tenant.http.get("/api/agents/")).json()
    told = (await tenant.http.get(f"/api/agents/{agent['id']}/performance")).json()
    assert (told["total_tasks"], told["completed_tasks"], told["failed_tasks"]) == (3, 3, 0)
    assert (told["success_rate"], told["total_requests"]) == (1.0, 3)
    assert told["average_response_time"] > 0
    assert told["raw_model_stats"] == agent["model_usage_stats"]
    assert told["raw_performance_metrics"] == agent["performance_metrics"]
    assert told["average_tokens_per_task"] == told["total_tokens_used"] // 3
    assert told["llm_info"] == {"provider": "offline", "model_id": "extractive-bm25"}


async def test_of_an_agent_that_has_done_nothing_nothing_is_made_up(tenant: Tenant) -> None:
    agent = await tenant.agent()
    told = (await tenant.http.get(f"/api/agents/{agent['id']}/performance")).json()
    unknown = ("success_rate", "average_response_time", "overall_score", "uptime_percentage")
    assert [told[name] for name in unknown] == [None] * 4
    assert (told["total_tasks"], told["total_cost"], told["raw_performance_metrics"]) == (0, 0, {})
