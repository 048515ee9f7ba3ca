"""Runs on the wire, where they are called executions."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from infra.settings import Settings
from tests.llm_server import Behaviour, LlmServer
from tests.read_api.conftest import Served, Tenant, assert_problem, serving, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_run_of_three_steps_tells_its_whole_timeline(tenant: Tenant) -> None:
    workflow = await tenant.three_steps()
    run = await tenant.ended_run(workflow["id"])
    assert run["status"] == "completed", run
    assert (run["current_step"], run["total_steps"], run["progress"]) == (3, 3, 100)
    assert (run["workflow_id"], run["workflow_name"]) == (workflow["id"], "Research")
    assert run["input_data"] == {"topic": "rivers. Rivers flow."}
    steps = run["step_results"]
    assert [(step["order"], step["step_id"]) for step in steps] == [
        (1, "step-1"),
        (2, "step-2"),
        (3, "step-3"),
    ]
    for step in steps:
        assert (step["status"], step["attempts"], step["calls"]) == ("completed", 1, 1)
        assert (step["provider"], step["agent_name"]) == ("offline", "Ada")
        assert step["model"] == "extractive-bm25"
        assert step["output"]
        assert step["cost_usd"] == "0.000000000"
        assert run["started_at"] <= step["started_at"] <= step["completed_at"]
        assert step["completed_at"] <= run["completed_at"]
        assert step["duration_ms"] >= 0
        assert step["calls_in_doubt"] == 0
    assert run["total_tokens"] == sum(step["tokens_used"] for step in steps) > 0


async def test_the_output_has_the_keys_that_the_frontend_reads(tenant: Tenant) -> None:
    run = await tenant.ended_run((await tenant.three_steps())["id"])
    output = run["output_data"]
    assert output["result"] == run["step_results"][-1]["output"]
    assert output["steps_completed"] == output["total_requests"] == 3
    assert output["total_tokens_used"] == run["total_tokens"]
    assert output["total_cost"] == 0
    assert output["execution_time"] > 0
    (first, *_) = output["subtasks"]
    assert first["completed"] is True
    assert first["selected_agent"]["agent_name"] == "Ada"
    assert first["execution_result"]["llm_response"] == run["step_results"][0]["output"]
    assert first["execution_result"]["retries"] == 0


async def test_a_run_is_found_by_its_number_and_by_its_name(tenant: Tenant) -> None:
    run = await tenant.ended_run((await tenant.three_steps())["id"])
    by_name = await tenant.http.get(f"/api/workflows/executions/{run['execution_id']}")
    assert by_name.json() == run
    assert by_name.headers["etag"]
    missing = await tenant.http.get("/api/workflows/executions/exec-000000000000")
    assert_problem(missing, 404, "not_found")


@pytest.mark.parametrize("route", ["execute", "execute-advanced"])
async def test_starting_a_run_tells_what_to_ask_for(tenant: Tenant, route: str) -> None:
    agent = await tenant.agent()
    steps = [{"agent_id": agent["id"], "prompt_template": "Say it."}]
    workflow = await tenant.workflow(steps=steps, is_active=True)
    answer = await tenant.http.post(f"/api/workflows/{workflow['id']}/{route}")
    assert answer.status_code == 202
    started = answer.json()
    assert (started["status"], started["total_steps"]) == ("started", 1)
    assert started["workflow_id"] == workflow["id"]
    found = await tenant.http.get(f"/api/workflows/executions/{started['execution_id']}")
    assert found.json()["id"] == started["id"]


async def test_a_run_without_a_needed_input_is_refused(tenant: Tenant) -> None:
    workflow = await tenant.three_steps()
    answer = await tenant.http.post(f"/api/workflows/{workflow['id']}/execute", json={})
    body = assert_problem(answer, 422, "invalid")
    assert body["errors"][0]["pointer"] == "/input_data/topic"


async def test_runs_are_listed_by_workflow_and_status_newest_first(tenant: Tenant) -> None:
    workflow = await tenant.three_steps()
    first = await tenant.ended_run(workflow["id"])
    second = await tenant.ended_run(workflow["id"])
    page = (await tenant.http.get("/api/workflows/executions/")).json()
    assert [item["id"] for item in page["items"]] == [second["id"], first["id"]]
    assert (page["total"], page["skip"], page["limit"]) == (2, 0, 50)
    for params, count in (
        ({"workflow_id": workflow["id"]}, 2),
        ({"workflow_id": 17}, 0),
        ({"status": "completed"}, 2),
        ({"status": "failed"}, 0),
    ):
        found = await tenant.http.get("/api/workflows/executions", params=params)
        assert found.json()["total"] == count, params


@pytest.fixture
def models() -> Iterator[LlmServer]:
    with LlmServer() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def patient(models: LlmServer, tmp_path: Path) -> AsyncIterator[Served]:
    """Serve an installation whose models are `models`."""
    settings = Settings(
        data_dir=tmp_path,
        llm_provider="openai",
        openai_api_key="sk-test",
        openai_base_url=f"{models.url}/v1",
    )
    async with serving(tmp_path, settings) as served:
        yield served


async def test_a_cancelled_run_stays_cancelled_and_its_model_call_is_broken_off(
    patient: Served, models: LlmServer
) -> None:
    tenant = patient.tenants.pop()
    models.next(Behaviour(stall="before"))
    workflow = await tenant.three_steps()
    body = {"input_data": {"topic": "x"}}
    started = await tenant.http.post(f"/api/workflows/{workflow['id']}/execute", json=body)
    path = f"/api/workflows/executions/{started.json()['id']}"

    async def asked() -> bool:
        return len(models.calls) == 1

    await until(asked)
    active = (await tenant.http.get("/api/workflows/active")).json()
    assert active["system_load"] == 15
    current = active["active_workflows"][0]["current_execution"]
    assert (current["status"], current["current_step"]) == ("running", "step-1")
    answer = await tenant.http.post(f"{path}/cancel")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "cancelled",
        "execution_id": started.json()["id"],
        "message": "Execution cancelled",
    }
    run = (await tenant.http.get(path)).json()
    assert (run["status"], run["progress"]) == ("cancelled", 0)
    assert run["output_data"]["steps_completed"] == 0

    async def broken_off() -> bool:
        return len(models.log.aborted) == 1

    await until(broken_off)
    again = await tenant.http.post(f"{path}/cancel")
    assert (again.status_code, again.json()) == (200, answer.json())
    recorded = [recorded.event.tag() for recorded in await patient.log(tenant)]
    assert recorded.count("run_cancelled") == 1
    assert (await tenant.http.get(path)).json()["status"] == "cancelled"
    assert len(models.calls) == 1
