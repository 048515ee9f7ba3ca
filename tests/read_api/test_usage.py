"""What model calls came to, by day, agent, model and workflow."""

from datetime import UTC, datetime, timedelta

import pytest

from read_api import usage as routes
from tests.read_api.conftest import Tenant

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_usage_is_the_sum_of_the_steps(tenant: Tenant) -> None:
    workflow = await tenant.three_steps()
    runs = [await tenant.ended_run(workflow["id"]) for _ in range(2)]
    usage = (await tenant.http.get("/api/usage")).json()
    tokens = sum(run["total_tokens"] for run in runs)
    assert (usage["total_calls"], usage["total_tokens"]) == (6, tokens)
    assert usage["total_cost_usd"] == "0.000000000"
    assert sum(row["calls"] for row in usage["items"]) == 6
    for row in usage["items"]:
        assert (row["provider"], row["model"]) == ("offline", "extractive-bm25")
        assert (row["agent_name"], row["workflow_id"]) == ("Ada", workflow["id"])
        assert row["total_tokens"] == row["input_tokens"] + row["output_tokens"]
        assert row["failed_calls"] == row["calls_in_doubt"] == row["unpriced_calls"] == 0
    (agent,) = (await tenant.http.get("/api/agents")).json()
    stats = agent["model_usage_stats"]
    assert (stats["total_requests"], stats["total_tokens"]) == (6, tokens)
    assert stats["last_used_at"]
    metrics = agent["performance_metrics"]
    assert (metrics["success_rate"], metrics["total_tasks"]) == (1, 6)
    assert metrics["avg_execution_time"] > 0
    used = (await tenant.http.get(f"/api/agents/{agent['id']}/model-usage")).json()
    assert used["usage_stats"] == stats
    assert used["current_model"] == "extractive-bm25"


async def test_usage_begins_at_the_day_that_is_asked_for(tenant: Tenant) -> None:
    await tenant.ended_run((await tenant.three_steps())["id"])
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    after = (await tenant.http.get("/api/usage", params={"since": tomorrow})).json()
    assert (after["since"], after["items"], after["total_calls"]) == (tomorrow, [], 0)
    before = (await tenant.http.get("/api/usage", params={"since": "2026-01-01"})).json()
    assert before["total_calls"] == 3


async def test_usage_that_is_cut_off_says_so(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    grace = await tenant.agent("Grace")
    step = {"agent_id": grace["id"], "prompt_template": "Go."}
    short = await tenant.workflow("Short", steps=[step], is_active=True)
    for workflow in (await tenant.three_steps(), short):
        await tenant.ended_run(workflow["id"])
    whole = (await tenant.http.get("/api/usage")).json()
    assert (whole["complete"], len(whole["items"])) == (True, 2)
    monkeypatch.setattr(routes, "ROWS_MAX", 1)
    cut = (await tenant.http.get("/api/usage")).json()
    assert (cut["complete"], cut["items"]) == (False, whole["items"][:1])
    assert cut["total_calls"] == whole["items"][0]["calls"]


async def test_a_slash_at_the_end_makes_no_difference(tenant: Tenant) -> None:
    answer = await tenant.http.get("/api/usage/")
    assert answer.status_code == 200
    assert answer.json()["items"] == []
