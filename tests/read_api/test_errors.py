"""Every refusal is problem details with its headers, whoever refuses."""

import re

import httpx
import pytest

from domain.events import PLATFORM_WORKSPACE
from read_api.problems import explained
from tests.read_api.conftest import HARDENED, Served, Tenant, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", ["/nope", "/api", "/api/agents/1/nope"])
async def test_an_unknown_route_is_a_problem(served: Served, method: str, path: str) -> None:
    assert_problem(await served.tenants[0].http.request(method, path), 404, "no_such_route")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/api/agents", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("DELETE", "/api/usage", {"GET", "HEAD", "OPTIONS"}),
        ("GET", "/api/workflows/1/execute", {"POST", "OPTIONS"}),
    ],
)
async def test_a_method_that_is_not_allowed_is_a_problem(
    served: Served, method: str, path: str, allowed: set[str]
) -> None:
    answer = await served.tenants[0].http.request(method, path)
    assert_problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == allowed


JUNK = [
    {},
    {"X-API-Key": ""},
    {"X-API-Key": "atk_live_junk"},
    {"X-API-Key": "x" * 4_000},
    {"Authorization": "Basic dXNlcjpwYXNz"},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer one two"},
]


@pytest.mark.parametrize("headers", JUNK, ids=str)
async def test_a_request_without_a_valid_key_is_a_problem(
    served: Served, headers: dict[str, str]
) -> None:
    answer = await served.client().get("/api/agents", headers=headers)
    assert_problem(answer, 401, "not_authenticated")
    assert answer.headers["www-authenticate"] == 'Bearer realm="automatos"'


async def test_a_key_is_taken_in_three_spellings(served: Served) -> None:
    key = served.tenants[0].key
    for headers in (
        {"X-API-Key": key},
        {"Authorization": f"Bearer {key}"},
        {"Authorization": f"apikey {key}"},
    ):
        answer = await served.client().get("/api/agents", headers=headers)
        assert answer.status_code == 200, headers.keys()


@pytest.mark.parametrize("foreign", ["nope", PLATFORM_WORKSPACE])
async def test_a_foreign_workspace_is_forbidden(tenant: Tenant, foreign: str) -> None:
    named = await tenant.http.get("/api/agents", headers={"X-Workspace-ID": foreign})
    assert_problem(named, 403, "foreign_workspace")
    asked = await tenant.http.get("/api/agents", params={"workspace_id": foreign})
    assert_problem(asked, 403, "foreign_workspace")


async def test_one_s_own_workspace_may_be_named(tenant: Tenant) -> None:
    named = {"X-Workspace-ID": tenant.workspace_id}
    assert (await tenant.http.get("/api/agents", headers=named)).status_code == 200


async def test_neither_header_nor_query_hides_a_foreign_workspace(
    tenant: Tenant, other: Tenant
) -> None:
    answer = await tenant.http.get(
        "/api/agents",
        headers={"X-Workspace-ID": tenant.workspace_id},
        params={"workspace_id": other.workspace_id},
    )
    assert_problem(answer, 403, "foreign_workspace")


async def test_answers_that_are_no_refusal_are_hardened_too(tenant: Tenant) -> None:
    for path in ("/api/agents", "/api/usage", "/api/events"):
        answer = await tenant.http.get(path)
        for name, value in HARDENED.items():
            assert answer.headers[name] == value, (path, name)
        assert "server" not in answer.headers


async def test_a_request_keeps_its_own_id(tenant: Tenant) -> None:
    answer = await tenant.http.get("/api/agents", headers={"X-Request-ID": "my-id.1"})
    assert answer.headers["x-request-id"] == "my-id.1"


@pytest.mark.parametrize("forged", ["two words", "x" * 65, 'a"b', "a,b"])
async def test_a_request_id_that_could_forge_a_log_line_is_replaced(
    tenant: Tenant, forged: str
) -> None:
    answer = await tenant.http.get("/nope", headers={"X-Request-ID": forged})
    assert re.fullmatch(r"[0-9a-f]{12}", answer.headers["x-request-id"])


async def test_an_unexpected_failure_tells_nothing_but_the_request_id(
    alone: Served,
) -> None:
    alone.installation.reads.close()
    answer = await alone.tenants[0].http.get("/api/agents")
    body = assert_problem(answer, 500, "internal_error")
    assert body["errors"] == []
    assert "sql" not in answer.text.lower()


@pytest.mark.parametrize("code", sorted(explained()))
async def test_every_problem_is_explained_where_its_type_leads(served: Served, code: str) -> None:
    page = (await served.client().get("/docs/problems")).text
    found = re.search(f'<dt id="{code}">.*?<dd>(.*?)</dd>', page)
    assert found is not None
    assert found[1].endswith((".", ";"))


async def test_everything_of_another_workspace_looks_as_if_it_were_not_there(
    tenant: Tenant, other: Tenant
) -> None:
    workflow = await tenant.three_steps()
    run = await tenant.ended_run(workflow["id"])
    (agent,) = (await tenant.http.get("/api/agents")).json()
    for method, path, body in OF_ONE:
        known = {"agent": agent["id"], "workflow": workflow["id"], "run": run["id"]}
        unknown = dict.fromkeys(known, 17)
        foreign = await other.http.request(method, path.format(**known), json=body)
        missing = await other.http.request(method, path.format(**unknown), json=body)
        assert_problem(foreign, 404, "not_found")
        assert _comparable(foreign) == _comparable(missing), path


OF_ONE: list[tuple[str, str, object]] = [
    ("GET", "/api/agents/{agent}", None),
    ("GET", "/api/agents/{agent}/status", None),
    ("GET", "/api/agents/{agent}/model-config", None),
    ("GET", "/api/agents/{agent}/model-usage", None),
    ("PUT", "/api/agents/{agent}", {"name": "Mine"}),
    ("PUT", "/api/agents/{agent}/model-config", {"provider": "p", "model_id": "m"}),
    ("POST", "/api/agents/{agent}/switch-model", {"model_id": "m"}),
    ("DELETE", "/api/agents/{agent}", None),
    ("GET", "/api/workflows/{workflow}", None),
    ("PUT", "/api/workflows/{workflow}", {"name": "Mine"}),
    ("DELETE", "/api/workflows/{workflow}", None),
    ("POST", "/api/workflows/{workflow}/duplicate", None),
    ("POST", "/api/workflows/{workflow}/execute", {"input_data": {}}),
    ("GET", "/api/workflows/executions/{run}", None),
    ("POST", "/api/workflows/executions/{run}/cancel", None),
]


def _comparable(answer: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    headers = dict(answer.headers)
    for name in ("date", "x-request-id"):
        del headers[name]
    return answer.status_code, headers, answer.content


async def test_a_step_for_another_workspace_s_agent_is_refused_as_for_none(
    tenant: Tenant, other: Tenant
) -> None:
    agent = await tenant.agent()

    async def drafted(agent_id: int) -> str:
        steps = [{"agent_id": agent_id, "prompt_template": "x"}]
        answer = await other.http.post("/api/workflows", json={"name": "W", "steps": steps})
        assert_problem(answer, 422, "invalid")
        return answer.text.replace(str(agent_id), "ID")

    assert await drafted(agent["id"]) == await drafted(17)


async def test_a_foreign_version_is_not_told_by_if_match(tenant: Tenant, other: Tenant) -> None:
    agent = await tenant.agent()

    async def changed(agent_id: int) -> httpx.Response:
        headers = {"If-Match": '"1"'}
        path = f"/api/agents/{agent_id}"
        return await other.http.put(path, json={"name": "Mine"}, headers=headers)

    foreign, missing = await changed(agent["id"]), await changed(17)
    assert _comparable(foreign) == _comparable(missing)


async def test_lists_show_nothing_of_another_workspace(tenant: Tenant, other: Tenant) -> None:
    workflow = await tenant.three_steps()
    await tenant.ended_run(workflow["id"])
    for path, field in LISTS:
        mine = (await tenant.http.get(path)).json()
        theirs = (await other.http.get(path)).json()
        assert mine[field] if field else mine, path
        assert (theirs[field] if field else theirs) == [], path


LISTS = (
    ("/api/agents", ""),
    ("/api/agents/available", ""),
    ("/api/agents?search=a", ""),
    ("/api/workflows", "items"),
    ("/api/workflows/active", "active_workflows"),
    ("/api/workflows/executions", "items"),
    ("/api/usage", "items"),
    ("/api/workflows/stats/dashboard", "recent_activity"),
)
