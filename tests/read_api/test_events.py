"""The log in pages: each workspace its own, filtered, and linked to what comes next."""

from typing import Any

import httpx
import pytest

from tests.read_api.conftest import Served, Tenant, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIELDS = {
    *("position", "event_id", "type", "stream_id", "stream_version", "workspace_id", "actor"),
    *("correlation_id", "causation_id", "command_id", "occurred_at", "schema_version", "data"),
}


async def walked(client: httpx.AsyncClient, path: str) -> list[list[Any]]:
    """Follow the links to the end."""
    pages: list[list[Any]] = []
    while path:
        answer = await client.get(path)
        page = answer.json()
        pages.append(page["items"])
        link = answer.headers.get("link", "")
        assert bool(link) == (page["next_cursor"] is not None)
        path = link.removesuffix('>; rel="next"').removeprefix("<")
    return pages


async def positions(client: httpx.AsyncClient, **params: Any) -> list[int]:
    answer = await client.get("/api/events", params=params)
    assert answer.status_code == 200, answer.text
    return [item["position"] for item in answer.json()["items"]]


async def test_an_event_tells_who_did_what_and_why(served: Served, tenant: Tenant) -> None:
    agent = await tenant.agent("Ada")
    page = (await tenant.http.get("/api/events", params={"type": "agent_registered"})).json()
    (item,) = page["items"]
    assert set(item) == FIELDS
    (recorded,) = [r for r in await served.log(tenant) if r.event.tag() == "agent_registered"]
    assert item["position"] == recorded.global_position
    assert item["event_id"] == recorded.event_id
    assert item["workspace_id"] == tenant.workspace_id
    assert item["stream_id"] == f"agent-{tenant.workspace_id}+{agent['id']}"
    assert item["actor"].startswith("key:")
    assert item["data"]["profile"]["name"] == "Ada"
    assert page["as_of_position"] >= item["position"]


async def test_pages_together_are_the_log(served: Served, tenant: Tenant, other: Tenant) -> None:
    for number in range(5):
        await tenant.agent(f"Agent {number}")
        await other.agent(f"Agent {number}")
    expected = [recorded.global_position for recorded in await served.log(tenant)]
    for limit in (1, 3, 1000):
        pages = await walked(tenant.http, f"/api/events?limit={limit}")
        assert [item["position"] for page in pages for item in page] == expected
        assert all(len(page) == limit for page in pages[:-1])


async def test_the_next_page_keeps_the_filters(tenant: Tenant) -> None:
    for number in range(4):
        await tenant.agent(f"Agent {number}")
    pages = await walked(tenant.http, "/api/events?type=agent_registered&limit=2")
    found = [item for page in pages for item in page]
    assert [item["type"] for item in found] == ["agent_registered"] * 4


async def test_events_are_filtered_by_stream_type_and_actor(tenant: Tenant) -> None:
    agent = await tenant.agent()
    await tenant.http.put(f"/api/agents/{agent['id']}", json={"description": "new"})
    everything = (await tenant.http.get("/api/events")).json()["items"]
    stream = f"agent-{tenant.workspace_id}+{agent['id']}"
    actor = everything[-1]["actor"]
    for name, field, value in (
        ("stream", "stream_id", stream),
        ("type", "type", "agent_changed"),
        ("actor", "actor", actor),
        ("actor", "actor", "cli:keys"),
    ):
        expected = [item["position"] for item in everything if item[field] == value]
        assert expected
        assert len(expected) < len(everything)
        assert await positions(tenant.http, **{name: value}) == expected
    assert await positions(tenant.http, stream=stream, type="agent_archived") == []


async def test_events_are_filtered_by_when_they_occurred(tenant: Tenant) -> None:
    for number in range(3):
        await tenant.agent(f"Agent {number}")
    items = (await tenant.http.get("/api/events")).json()["items"]
    moments = {item["position"]: item["occurred_at"] for item in items}
    middle = moments[items[len(items) // 2]["position"]]
    since = [position for position, at in moments.items() if at >= middle]
    until = [position for position, at in moments.items() if at < middle]
    assert since
    assert until
    assert await positions(tenant.http, since=middle) == since
    assert await positions(tenant.http, until=middle) == until
    assert await positions(tenant.http, since=middle, until=middle) == []


async def test_a_cursor_beyond_the_end_gives_nothing(tenant: Tenant) -> None:
    answer = (await tenant.http.get("/api/events", params={"cursor": "9" * 18})).json()
    assert (answer["items"], answer["next_cursor"]) == ([], None)


async def test_another_workspace_s_stream_is_not_found_whether_there_is_one_or_not(
    tenant: Tenant, other: Tenant
) -> None:
    agent = await other.agent()
    answers = [
        await tenant.http.get(
            "/api/events", params={"stream": f"agent-{other.workspace_id}+{agent_id}"}
        )
        for agent_id in (agent["id"], 17)
    ]
    bodies = [assert_problem(answer, 404, "not_found") for answer in answers]
    assert bodies[0] == bodies[1]


async def test_personal_fields_and_secrets_are_not_readable_in_the_log(tenant: Tenant) -> None:
    page = await tenant.http.get("/api/events", params={"type": "api_key_created"})
    (created,) = page.json()["items"]
    assert "tester" not in page.text
    assert tenant.key not in page.text
    assert created["data"]["name"] == "test"


async def test_the_prompt_of_a_run_is_referred_to_and_not_spelled_out(tenant: Tenant) -> None:
    await tenant.ended_run((await tenant.three_steps())["id"])
    page = await tenant.http.get("/api/events", params={"limit": 1000})
    started = [i for i in page.json()["items"] if i["type"] == "run_started"]
    assert set(started[0]["data"]["input"]) == {"address", "size"}
    assert "Rivers flow" not in page.text
