"""System settings over HTTP: the original's shapes, what is masked, and what takes effect."""

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from domain.agents import ModelConfig
from domain.events import WorkspaceId
from domain.settings import MASK
from infra.settings import Settings
from read_api.defaults import KEPT_S, Defaults
from tests.llm_server import LlmServer
from tests.read_api.conftest import Served, Tenant, assert_problem, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

URL = "/api/system-settings"
SECRET = "hunter2-correct-horse"
TOKEN = {"category": "mail", "key": "token", "value": SECRET, "is_sensitive": True}
COLOUR = {"category": "brand", "key": "colour", "value": "blue", "default_value": "red"}


async def rows(tenant: Tenant, **params: str) -> dict[str, Any]:
    answer = await tenant.http.get(URL, params=params)
    assert answer.status_code == 200, answer.text
    return {row["key"]: row for row in answer.json()}


async def made(tenant: Tenant, body: object) -> Any:
    answer = await tenant.http.post(URL, json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def put(tenant: Tenant, key: str, body: object) -> httpx.Response:
    return await tenant.http.put(f"{URL}/{(await rows(tenant))[key]['id']}", json=body)


async def test_the_platforms_settings_are_there_before_anybody_touches_them(
    tenant: Tenant,
) -> None:
    known = await rows(tenant)
    assert list(known) == ["llm_provider", "llm_model", "temperature", "max_tokens"]
    assert known["temperature"] == {
        "id": known["temperature"]["id"],
        "category": "orchestrator_llm",
        "key": "temperature",
        "value": "0.7",
        "value_type": "number",
        "description": "Of calls of agents that name no model.",
        "is_sensitive": False,
        "is_required": True,
        "default_value": "0.7",
        "validation_rules": {"minimum": 0, "maximum": 2},
        "created_at": None,
        "created_by": None,
        "updated_at": None,
        "updated_by": None,
        "effective_value": "0.7",
        "source": "default",
        "is_system": True,
    }
    # The server's own choice, made in its environment.
    assert (known["llm_provider"]["value"], known["llm_provider"]["source"]) == (
        "offline",
        "environment",
    )


async def test_a_setting_is_changed_read_and_left_to_its_default(tenant: Tenant) -> None:
    answer = await put(tenant, "temperature", {"value": 0.25})
    assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
    changed = answer.json()
    assert (changed["value"], changed["effective_value"], changed["source"]) == (
        "0.25",
        "0.25",
        "system settings",
    )
    read = await tenant.http.get(f"{URL}/{changed['id']}")
    assert read.json() == changed
    assert read.headers["etag"] == '"1"'
    assert changed["updated_by"].startswith("key:")
    (event,) = (await tenant.http.get("/api/events", params={"type": "setting_changed"})).json()[
        "items"
    ]
    assert (event["data"]["setting"], event["data"]["value"]) == (
        "orchestrator_llm.temperature",
        "0.25",
    )
    assert event["actor"] == changed["updated_by"]
    again = await put(tenant, "temperature", {"value": None})
    assert (again.json()["value"], again.json()["source"]) == ("0.7", "default")


async def test_a_workspace_makes_and_removes_settings_of_its_own(tenant: Tenant) -> None:
    colour = await made(tenant, COLOUR | {"description": "Of buttons."})
    assert (colour["value"], colour["default_value"], colour["is_system"]) == ("blue", "red", False)
    assert_problem(await tenant.http.post(URL, json=COLOUR), 409, "name_is_taken")
    described = await put(tenant, "colour", {"description": "Of all.", "is_required": True})
    assert (described.json()["description"], described.json()["is_required"]) == ("Of all.", True)
    kept = await tenant.http.delete(f"{URL}/{colour['id']}")
    problem = assert_problem(kept, 409, "setting_is_required")
    assert problem["detail"] == "Cannot delete required setting"
    await put(tenant, "colour", {"is_required": False})
    gone = await tenant.http.delete(f"{URL}/{colour['id']}")
    assert (gone.status_code, gone.json()) == (200, {"message": "Setting deleted successfully"})
    assert_problem(await tenant.http.get(f"{URL}/{colour['id']}"), 404, "not_found")


async def test_settings_are_grouped_and_counted(tenant: Tenant) -> None:
    await made(tenant, COLOUR)
    await made(tenant, TOKEN)
    assert list(await rows(tenant, category="mail")) == ["token"]
    assert await rows(tenant, category="nowhere") == {}
    categories = await tenant.http.get(f"{URL}/categories")
    assert categories.json() == ["orchestrator_llm", "brand", "mail"]
    groups = (await tenant.http.get(f"{URL}/by-category")).json()
    assert [(g["category"], g["total_count"], len(g["settings"])) for g in groups] == [
        ("orchestrator_llm", 4, 4),
        ("brand", 1, 1),
        ("mail", 1, 1),
    ]
    stats = await tenant.http.get(f"{URL}/stats")
    assert stats.json() == {
        "total_settings": 6,
        "categories": {"orchestrator_llm": 4, "brand": 1, "mail": 1},
        "sensitive_settings": 1,
        "required_settings": 4,
    }


async def test_several_are_changed_at_once_or_none_of_them(tenant: Tenant) -> None:
    known = await rows(tenant)
    cool = {"id": known["temperature"]["id"], "value": "0.1"}
    few = {"id": known["max_tokens"]["id"], "value": 50}
    refused = await tenant.http.post(f"{URL}/bulk-update", json=[cool, few | {"value": "no"}])
    problem = assert_problem(refused, 422, "invalid")
    assert problem["errors"][0]["pointer"] == "/1/value"
    unknown = await tenant.http.post(f"{URL}/bulk-update", json=[cool, few | {"id": 17}])
    assert_problem(unknown, 404, "not_found")
    assert (await rows(tenant)) == known
    done = await tenant.http.post(f"{URL}/bulk-update", json=[cool, few])
    assert (done.status_code, done.json()) == (200, {"message": "Updated 2 settings successfully"})
    after = await rows(tenant)
    assert (after["temperature"]["value"], after["max_tokens"]["value"]) == ("0.1", "50")
    elsewhere = await tenant.http.post(f"{URL}/reset-to-defaults", params={"category": "mail"})
    assert elsewhere.json() == {"message": "Reset 0 settings to default values"}
    reset = await tenant.http.post(f"{URL}/reset-to-defaults")
    assert (reset.status_code, reset.json()) == (
        200,
        {"message": "Reset 2 settings to default values"},
    )
    assert (await rows(tenant))["temperature"]["value"] == "0.7"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"category": "a.b", "key": "c"}, "/category"),
        ({"category": "a", "key": ""}, "/key"),
        ({"category": "a", "key": "b", "value": [1]}, "/value"),
        ({"category": "a", "key": "b", "colour": 1}, "/colour"),
        ({"category": "a", "key": "b", "value_type": "date"}, "/value_type"),
    ],
)
async def test_a_setting_of_the_wrong_form_is_refused(
    tenant: Tenant, body: object, pointer: str
) -> None:
    problem = assert_problem(await tenant.http.post(URL, json=body), 400, "bad_body")
    assert problem["errors"][0]["pointer"] == pointer


async def test_a_value_that_is_too_long_is_refused(tenant: Tenant) -> None:
    await made(tenant, COLOUR)
    assert_problem(await put(tenant, "colour", {"value": "x" * 8_193}), 413, "too_long")


async def test_who_saw_older_settings_changes_nothing(tenant: Tenant) -> None:
    await put(tenant, "temperature", {"value": "0.1"})
    stale = await tenant.http.post(f"{URL}/reset-to-defaults", headers={"If-Match": '"7"'})
    assert_problem(stale, 412, "version_mismatch")


async def test_a_repeated_request_is_answered_once(tenant: Tenant) -> None:
    headers = {"Idempotency-Key": "make-colour"}
    first = await tenant.http.post(URL, json=COLOUR, headers=headers)
    again = await tenant.http.post(URL, json=COLOUR, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotent-replayed"] == "true"


async def test_another_workspaces_setting_is_like_one_that_is_not_there(
    tenant: Tenant, other: Tenant
) -> None:
    theirs = await made(other, TOKEN)
    system = (await rows(other))["temperature"]["id"]
    for number in (theirs["id"], system, 17):
        path = f"{URL}/{number}"
        bulk = [{"id": number, "value": "1"}]
        for answer in (
            await tenant.http.get(path),
            await tenant.http.put(path, json={"value": "1"}),
            await tenant.http.delete(path),
            await tenant.http.post(f"{URL}/bulk-update", json=bulk),
        ):
            assert assert_problem(answer, 404, "not_found")["detail"] == "Setting not found"
    assert "token" not in await rows(tenant)
    assert_problem(await tenant.http.get("/api/system/config/mail.token"), 404, "not_found")
    await put(other, "temperature", {"value": "1.5"})
    assert (await rows(tenant))["temperature"]["value"] == "0.7"


async def test_a_secret_is_told_to_nobody(
    served: Served, tenant: Tenant, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    """Neither in answers and events nor in the bytes of any file, nor in what is logged."""
    with caplog.at_level(logging.DEBUG):
        token = await made(tenant, TOKEN)
        same = await put(tenant, "token", {"value": MASK})
        other = await put(tenant, "token", {"value": SECRET + "-2"})
        refused = await put(tenant, "token", {"value": SECRET * 1_000})
        assert_problem(refused, 413, "too_long")
        told = [
            await tenant.http.get(path)
            for path in (
                URL,
                f"{URL}/{token['id']}",
                f"{URL}/by-category",
                "/api/system/config",
                "/api/system/config/mail.token",
                "/api/events?limit=1000",
            )
        ]
    assert {answer.json()["value"] for answer in (same, other)} == {token["value"]} == {MASK}
    assert told[4].json()["config_value"] == MASK
    assert [SECRET in answer.text for answer in (*told, refused)] == [False] * 7
    kinds = [recorded.event.tag() for recorded in await served.log(tenant)]
    assert kinds.count("secret_setting_changed") == 2
    files = list(served.installation.writing.settings.data_dir.iterdir())
    assert {"events.db", "read_models.db"} <= {file.name for file in files}
    assert [file.name for file in files if SECRET.encode() in file.read_bytes()] == []
    assert SECRET not in caplog.text
    captured = capfd.readouterr()
    assert SECRET not in captured.out + captured.err


# Who may.


async def test_settings_need_administration(served: Served, tenant: Tenant) -> None:
    body = {"name": "all but admin", "scopes": ["read", "write", "run"]}
    made = await tenant.http.post("/api/api-keys", json=body)
    client = served.client(made.json()["key"])
    number = (await rows(tenant))["temperature"]["id"]
    for answer in (
        await client.get(URL),
        await client.get(f"{URL}/{number}"),
        await client.put(f"{URL}/{number}", json={"value": "1"}),
        await client.post(f"{URL}/reset-to-defaults"),
        await client.get("/api/system/config"),
    ):
        assert_problem(answer, 403, "not_permitted")


# The configuration.


async def test_the_configuration_tells_what_holds_and_why(tenant: Tenant) -> None:
    await put(tenant, "temperature", {"value": "0.1"})
    answer = await tenant.http.get("/api/system/config")
    known = {row["config_key"]: (row["config_value"], row["source"]) for row in answer.json()}
    assert known == {
        "orchestrator_llm.llm_provider": ("offline", "environment"),
        "orchestrator_llm.llm_model": ("extractive-bm25", "default"),
        "orchestrator_llm.temperature": ("0.1", "system settings"),
        "orchestrator_llm.max_tokens": ("2000", "default"),
        "environment": ("development", "default"),
        "llm_stream": ("true", "default"),
        "offline_when_no_key": ("true", "default"),
        "body_max": ("10485760", "default"),
        "streams_per_workspace": ("50", "default"),
        "streams_per_key": ("10", "default"),
    }
    assert answer.headers["x-total-count"] == "10"
    page = await tenant.http.get("/api/system/config", params={"search": "LLM", "limit": 2})
    assert (len(page.json()), page.headers["x-total-count"]) == (2, "5")
    one = await tenant.http.get("/api/system/config/body_max")
    assert one.json() == next(r for r in answer.json() if r["config_key"] == "body_max")
    assert_problem(await tenant.http.get("/api/system/config/data_dir"), 404, "not_found")


# What it does.


@pytest.fixture
def models() -> Iterator[LlmServer]:
    with LlmServer() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def online(models: LlmServer, tmp_path: Path) -> AsyncIterator[Served]:
    """Serve an installation with keys of two providers, which are both `models`."""
    settings = Settings(
        data_dir=tmp_path,
        openai_api_key="sk-test",
        anthropic_api_key="sk-test",
        openai_base_url=f"{models.url}/v1",
        anthropic_base_url=models.url,
        llm_max_tokens="77",
    )
    async with serving(tmp_path, settings, tenants=2) as made:
        yield made


async def test_what_a_workspace_chooses_is_what_its_runs_ask_for(
    online: Served, models: LlmServer
) -> None:
    tenant, other = online.tenants
    for each, key, value in (
        (tenant, "llm_model", "gpt-4o"),
        (tenant, "temperature", "0.25"),
        (tenant, "max_tokens", "5"),
        (other, "llm_provider", "anthropic"),
    ):
        assert (await put(each, key, {"value": value})).status_code == 200
    limit = (await rows(tenant))["max_tokens"]
    assert (limit["value"], limit["effective_value"], limit["source"]) == ("5", "77", "environment")
    for each in (tenant, other):
        agent = await each.agent()
        step = {"agent_id": agent["id"], "prompt_template": "About {input.topic}."}
        workflow = await each.workflow(steps=[step], is_active=True)
        assert (await each.ended_run(workflow["id"]))["status"] == "completed"
    first, second = models.calls
    assert (first.path, first.model, first.body["temperature"], first.body["max_tokens"]) == (
        "/v1/chat/completions",
        "gpt-4o",
        0.25,
        77,
    )
    assert (second.path, second.model, second.body["max_tokens"]) == (
        "/v1/messages",
        "claude-haiku-5-5",
        77,
    )


async def test_agents_that_name_no_model_tell_what_the_workspace_chose(tenant: Tenant) -> None:
    agent = await tenant.agent()
    assert agent["agent_model_config"]["temperature"] == 0.7
    await put(tenant, "temperature", {"value": "0.25"})
    path = f"/api/agents/{agent['id']}"
    told = (await tenant.http.get(f"{path}/model-config")).json()["model_config"]
    new = await tenant.agent("Bea")
    listed = (await tenant.http.get("/api/agents")).json()
    temperatures = [row["agent_model_config"]["temperature"] for row in [new, *listed]]
    assert [told["temperature"], *temperatures] == [0.25] * 4
    known = {row["key"]: row["id"] for row in (await rows(tenant)).values()}
    bulk = [{"id": known["temperature"], "value": "0.5"}]
    assert (await tenant.http.post(f"{URL}/bulk-update", json=bulk)).status_code == 200
    assert (await tenant.http.get(path)).json()["agent_model_config"]["temperature"] == 0.5
    await tenant.http.post(f"{URL}/reset-to-defaults")
    assert (await tenant.http.get(path)).json()["agent_model_config"]["temperature"] == 0.7


async def test_a_default_is_looked_up_once_in_a_while_and_after_each_change() -> None:
    clock, looks = [0.0], [0]
    changing: list[Defaults] = []

    async def look(workspace_id: WorkspaceId) -> ModelConfig:
        looks[0] += 1
        for each in changing:
            each.forget(workspace_id)
        return ModelConfig(provider="p", model_id=f"m{looks[0]}")

    acme = WorkspaceId("acme")
    defaults = Defaults(look, now=lambda: clock[0])
    assert [(await defaults.model(acme)).model_id for _ in range(2)] == ["m1", "m1"]
    defaults.forget(acme)
    assert (await defaults.model(acme)).model_id == "m2"
    clock[0] += KEPT_S
    changing.append(defaults)
    assert (await defaults.model(acme)).model_id == "m3"
    changing.clear()
    assert (await defaults.model(acme)).model_id == "m4"
