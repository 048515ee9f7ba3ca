"""The one key of the environment opens the local workspace, and nothing else."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from infra.local_key import ACTOR
from infra.settings import Settings
from tests.read_api.conftest import Served, Tenant, assert_problem, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "of-my-own-machine"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("local")
    settings = Settings(data_dir=folder, llm_provider="offline", api_key=KEY)
    async with serving(folder, settings, tenants=4) as made:
        yield made


@pytest.mark.parametrize("scheme", ["Bearer", "ApiKey"])
async def test_it_is_an_admin_of_the_local_workspace_and_operates_the_installation(
    served: Served, scheme: str
) -> None:
    local = await served.installation.writing.local_workspace()
    client = served.client()
    client.headers["Authorization"] = f"{scheme} {KEY}"
    me = (await client.get("/api/users/me")).json()
    assert (me["id"], me["auth_type"], me["role"]) == (ACTOR, "env_key", "admin")
    assert me["workspace_id"] == local
    assert {"agents:create", "keys:manage", "system:read"} <= set(me["permissions"])
    assert (await client.get("/api/health/endpoints")).status_code == 200
    made = (await client.post("/api/agents", json={"name": f"Ada {scheme}"})).json()
    events = (await client.get("/api/events", params={"type": "agent_registered"})).json()["items"]
    assert {event["actor"] for event in events} == {ACTOR}
    assert {event["workspace_id"] for event in events} == {local}
    assert any(f"+{made['id']}" in event["stream_id"] for event in events)


async def test_a_header_chooses_no_other_workspace_for_it(served: Served, tenant: Tenant) -> None:
    client = served.client(KEY)
    agent = await tenant.agent()
    named = {"X-Workspace-ID": tenant.workspace_id}
    assert_problem(await client.get("/api/agents", headers=named), 403, "foreign_workspace")
    query = {"workspace_id": tenant.workspace_id}
    assert_problem(await client.get("/api/agents", params=query), 403, "foreign_workspace")
    assert_problem(await client.get(f"/api/agents/{agent['id']}"), 404, "not_found")


@pytest.mark.parametrize("near", [KEY[:-1], KEY + "x", KEY.upper(), "x" * len(KEY), "ü" * 20])
async def test_what_is_nearly_it_opens_nothing(served: Served, near: str) -> None:
    headers = {b"X-API-Key": near.encode("latin-1")}
    answer = await served.client().get("/api/agents", headers=headers)
    assert_problem(answer, 401, "not_authenticated")


async def test_its_stream_goes_on_and_made_keys_open_as_ever(
    served: Served, tenant: Tenant
) -> None:
    assert (await tenant.http.get("/api/agents")).status_code == 200
    client = served.client(KEY)
    ticket = (await client.post("/api/events/ticket", json={})).json()["ticket"]
    browser = served.client()
    async with browser.stream("GET", "/api/events/stream", params={"ticket": ticket}) as answer:
        assert answer.status_code == 200


async def test_keys_of_the_local_workspace_operate_an_installation_where_nobody_logs_in(
    served: Served,
) -> None:
    writing = served.installation.writing
    key = await writing.create_key(await writing.local_workspace(), "local", "tester")
    assert (await served.client(key).get("/metrics")).status_code == 200
