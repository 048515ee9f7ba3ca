"""A workspace has so many runs going on at once, and each counts until it has ended."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
import pytest_asyncio

from infra.edges import DEFAULT_RUNS_PER_WORKSPACE, runs_per_workspace
from infra.settings import Settings
from tests.llm_server import Behaviour, LlmServer
from tests.read_api.conftest import Served, Tenant, assert_problem, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT, AT_ONCE = 3, 12


@pytest.fixture
def models() -> Iterator[LlmServer]:
    with LlmServer() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def bounded(models: LlmServer, tmp_path: Path) -> AsyncIterator[Served]:
    """Serve an installation whose models answer nobody, so that no run ends by itself."""
    models.next(*[Behaviour(stall="before")] * (2 * LIMIT + 2))
    settings = Settings(
        data_dir=tmp_path,
        llm_provider="openai",
        openai_api_key="sk-test",
        openai_base_url=f"{models.url}/v1",
        runs_per_workspace=str(LIMIT),
    )
    async with serving(tmp_path, settings, tenants=2) as served:
        yield served


async def start(tenant: Tenant, workflow_id: int, key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"input_data": {"topic": "x"}}
    path = f"/api/workflows/{workflow_id}/execute"
    return await tenant.http.post(path, json=body, headers=headers)


async def test_of_many_started_at_once_as_many_go_on_as_there_are_places(bounded: Served) -> None:
    tenant, other = bounded.tenants
    workflow = (await tenant.three_steps())["id"]
    first = await start(tenant, workflow, "first-run")
    assert first.status_code == 202
    answers = await asyncio.gather(*(start(tenant, workflow) for _ in range(AT_ONCE)))
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses == {202: LIMIT - 1, 429: AT_ONCE - LIMIT + 1}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert_problem(refused, 429, "too_many_runs")
    assert int(refused.headers["retry-after"]) > 0
    # What has been started is told again, and another workspace's places are its own.
    again = await start(tenant, workflow, "first-run")
    assert (again.status_code, again.json()) == (202, first.json())
    assert (await start(other, (await other.three_steps())["id"])).status_code == 202
    run_id = first.json()["id"]
    cancelled = await tenant.http.post(f"/api/workflows/executions/{run_id}/cancel")
    assert cancelled.status_code == 200
    assert (await start(tenant, workflow)).status_code == 202
    assert_problem(await start(tenant, workflow), 429, "too_many_runs")
    await cancel_all(tenant)
    await cancel_all(other)


async def cancel_all(tenant: Tenant) -> None:
    """Break off the calls that nobody answers, for which the server would wait when it stops."""
    page = await tenant.http.get("/api/workflows/executions", params={"status": "running"})
    for run in page.json()["items"]:
        await tenant.http.post(f"/api/workflows/executions/{run['id']}/cancel")


async def test_the_bound_is_for_those_who_serve_others() -> None:
    assert runs_per_workspace(Settings()) is None
    assert runs_per_workspace(Settings(runs_per_workspace="7")) == 7
    postgres = "postgresql://u@h/d"
    for others in (Settings(host="0.0.0.0"), Settings(database_url=postgres)):
        assert runs_per_workspace(others) == DEFAULT_RUNS_PER_WORKSPACE
        unbounded = msgspec.structs.replace(others, runs_per_workspace="0")
        assert runs_per_workspace(unbounded) is None
