"""Workflows on the wire: the original frontend's shapes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from commands.transact import Write
from domain.events import Blob
from domain.runs import LEASE, RUN, RunId, RunStarted, StepFailed, StepStarted
from domain.workflows import Step
from tests.contracts.stores import append
from tests.read_api.conftest import Served, Tenant, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")

RECENT_MAX = 5
"""Runs of a workflow that the overview tells."""

ITEM_FIELDS = (
    *("id", "name", "description", "status", "owner", "tags", "default_policy_id"),
    *("created_at", "updated_at"),
)


async def test_a_workflow_is_drafted_read_and_listed(tenant: Tenant) -> None:
    agent = await tenant.agent()
    body = {
        "name": "Research",
        "description": "Finds out",
        "goal": "Know",
        "config": {"depth": 3},
        "tags": ["a", "b"],
        "created_by": "someone",
        "steps": [{"agent_id": agent["id"], "prompt_template": "Say {input.topic}"}],
    }
    answer = await tenant.http.post("/api/workflows", json=body)
    drafted = answer.json()
    assert answer.status_code == 201
    assert answer.headers["etag"] == '"1"'
    assert set(drafted) >= {"id", "name", "description", "created_at", "updated_at", "message"}
    read = await tenant.http.get(f"/api/workflows/{drafted['id']}")
    workflow = read.json()
    assert read.headers["etag"] == '"1"'
    assert workflow["agents"] == [{"id": agent["id"], "name": "Ada"}]
    assert workflow["owner"] == "someone"
    assert workflow["config"] == {"depth": 3}
    (step,) = workflow["steps"]
    assert (step["step_id"], step["error_handling"], step["max_retries"]) == ("step-1", "stop", 4)
    page = (await tenant.http.get("/api/workflows")).json()
    assert page["total"] == 1
    (item,) = page["items"]
    assert item == {name: workflow.get(name) for name in ITEM_FIELDS}


@pytest.mark.parametrize("path", ["/api/workflows", "/api/workflows/"])
async def test_a_slash_at_the_end_makes_no_difference(tenant: Tenant, path: str) -> None:
    assert (await tenant.http.post(path, json={"name": "W"})).status_code == 201
    assert (await tenant.http.get(path)).json()["total"] == 1
    assert (await tenant.http.get(path.replace("flows", "flows/executions"))).json()["total"] == 0


async def test_a_list_is_filtered_and_paged_by_the_newest_update(tenant: Tenant) -> None:
    ids = [
        (await tenant.workflow(f"W{n}", owner="me" if n else "you", tags=[f"t{n}"]))["id"]
        for n in range(3)
    ]
    await tenant.http.put(f"/api/workflows/{ids[0]}", json={"description": "needle"})

    async def names(**params: Any) -> list[str]:
        answer = await tenant.http.get("/api/workflows", params=params)
        return [item["name"] for item in answer.json()["items"]]

    assert await names() == ["W0", "W2", "W1"]
    assert await names(skip=1, limit=1) == ["W2"]
    assert await names(q="NEEDLE") == ["W0"]
    assert await names(owner="me") == ["W2", "W1"]
    assert await names(tag="T1") == ["W1"]
    assert await names(status="active") == []


async def test_a_workflow_is_changed_published_and_withdrawn(tenant: Tenant) -> None:
    agent = await tenant.agent()
    workflow = await tenant.workflow()
    path = f"/api/workflows/{workflow['id']}"
    steps = [
        {"agent_id": agent["id"], "prompt_template": "two", "order": 2, "step_id": "b"},
        {"agent_id": agent["id"], "prompt_template": "one", "order": 1, "step_id": "a"},
    ]
    body = {"steps": steps, "status": "active"}
    changed = await tenant.http.put(path, json=body, headers={"If-Match": '"1"'})
    assert changed.status_code == 200, changed.text
    assert changed.json()["status"] == "active"
    assert [step["step_id"] for step in changed.json()["steps"]] == ["a", "b"]
    assert changed.json()["agents"] == [{"id": agent["id"], "name": "Ada"}]
    assert (await tenant.http.get(path)).json() == changed.json()
    stale = await tenant.http.put(path, json={"goal": "x"}, headers={"If-Match": '"1"'})
    assert_problem(stale, 412, "version_mismatch")
    withdrawn = await tenant.http.put(path, json={"status": "draft"})
    assert withdrawn.json()["status"] == "draft"
    started = await tenant.http.post(f"{path}/execute")
    assert_problem(started, 409, "workflow_is_not_published")


async def test_a_copy_is_a_draft_under_a_name_of_its_own(tenant: Tenant) -> None:
    workflow = await tenant.three_steps()
    path = f"/api/workflows/{workflow['id']}/duplicate"
    names = [(await tenant.http.post(path)).json()["name"] for _ in range(3)]
    assert names == ["Research (copy)", "Research (copy 2)", "Research (copy 3)"]
    copies = (await tenant.http.get("/api/workflows", params={"status": "draft"})).json()
    assert copies["total"] == 3


async def test_an_archived_workflow_is_gone_and_its_runs_stay(tenant: Tenant) -> None:
    workflow = await tenant.three_steps()
    run = await tenant.ended_run(workflow["id"])
    path = f"/api/workflows/{workflow['id']}"
    archived = await tenant.http.delete(path)
    assert archived.json()["message"] == "Workflow deleted successfully"
    assert archived.json()["status"] == "archived"
    assert_problem(await tenant.http.get(path), 404, "not_found")
    assert (await tenant.http.get("/api/workflows")).json() == {"items": [], "total": 0}
    assert_problem(await tenant.http.put(path, json={}), 409, "workflow_is_archived")
    assert_problem(await tenant.http.post(f"{path}/execute"), 409, "workflow_is_archived")
    assert (await tenant.http.get(f"/api/workflows/executions/{run['id']}")).json() == run
    assert (await tenant.workflow())["id"] != workflow["id"]


async def test_what_is_going_on_has_the_frontend_s_shape(tenant: Tenant) -> None:
    workflow = await tenant.three_steps()
    idle = (await tenant.http.get("/api/workflows/active")).json()["active_workflows"][0]
    assert idle["current_execution"]["status"] == "idle"
    assert idle["metrics"]["success_rate"] is None
    run = await tenant.ended_run(workflow["id"])
    active = (await tenant.http.get("/api/workflows/active")).json()
    assert active.pop("last_updated")
    (item,) = active.pop("active_workflows")
    assert active == {
        "recipe_runs": [],
        "total_active": 1,
        "total_recipe_runs": 0,
        "system_load": 0,
    }
    assert item["id"] == workflow["id"]
    assert item["metrics"]["total_executions"] == item["metrics"]["successful_executions"] == 1
    assert item["metrics"]["success_rate"] == 100
    assert item["metrics"]["avg_duration"] > 0
    (recent,) = item["recent_executions"]
    assert recent["id"] == run["id"]
    assert set(recent) == {"id", "status", "started_at", "completed_at", "duration"}


async def test_the_run_that_goes_on_is_told_however_many_newer_ones_have_ended(
    served: Served, tenant: Tenant
) -> None:
    workflow = await tenant.three_steps()
    run_id = await waiting_run(served, tenant, workflow["id"])
    for _ in range(RECENT_MAX):
        await tenant.ended_run(workflow["id"])
    active = (await tenant.http.get("/api/workflows/active")).json()["active_workflows"][0]
    assert run_id not in [run["id"] for run in active["recent_executions"]]
    current = active["current_execution"]
    assert (current["id"], current["status"]) == (run_id, "running")
    assert (current["current_step"], current["progress"]) == ("as-it-was-then", 0)


async def waiting_run(served: Served, tenant: Tenant, workflow_id: int) -> RunId:
    """Record a run that waits an hour for the next try of a step that its workflow has no more."""
    run_id, now = RunId(1), datetime.now(UTC)
    step = Step(step_id="as-it-was-then", agent_id=1, prompt_template="Go.")
    events = (
        RunStarted(
            run_id=run_id,
            execution_id="exec-1",
            workflow_id=workflow_id,
            workflow_version=1,
            workflow_name="Research",
            steps=(step, step),
            input=Blob("none", 0),
        ),
        StepStarted(
            run_id=run_id, step=0, attempt=1, worker="w", leased_at=now, lease_until=now + LEASE
        ),
        StepFailed(
            run_id=run_id, step=0, attempt=1, error="Busy.", retry_at=now + timedelta(hours=1)
        ),
    )
    stream_id = RUN.stream_id(tenant.workspace_id, run_id)
    store = served.installation.writing.store
    await append(store, Write(stream_id, 0, events), workspace_id=tenant.workspace_id)
    return run_id


async def test_the_dashboard_counts_what_there_is_and_invents_nothing(tenant: Tenant) -> None:
    empty = (await tenant.http.get("/api/workflows/stats/dashboard")).json()
    assert empty["today"] == {"success_rate_today": None}
    assert empty["performance"] == {"overall_success_rate": None, "avg_execution_time": None}
    workflow = await tenant.three_steps()
    await tenant.workflow("Draft")
    await tenant.ended_run(workflow["id"])
    board = (await tenant.http.get("/api/workflows/stats/dashboard")).json()
    assert board["overview"] == {
        "total_workflows": 2,
        "active_workflows": 1,
        "draft_workflows": 1,
        "archived_workflows": 0,
        "total_executions": 1,
        "running_executions": 0,
    }
    assert board["performance"]["overall_success_rate"] == 100
    assert sum(day["executions"] for day in board["execution_trends"]) == 1
    assert len(board["execution_trends"]) == 7
    assert len(board["recent_activity"]) == 1
