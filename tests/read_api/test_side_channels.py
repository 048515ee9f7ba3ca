"""What is not a thing's id tells a tenant nothing of another, either: keys of repetition, names,
positions, versions, tickets.
"""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.read_api.conftest import Served, Tenant, assert_problem, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPEATED = {"Idempotency-Key": "the-same-for-two"}
STREAM = "/api/events/stream"

NAMED = {
    "/api/agents": {"name": "Ada"},
    "/api/workflows": {"name": "Research"},
    "/api/system-settings": {"category": "brand", "key": "colour", "value": "blue"},
    "/api/api-keys": {"name": "ci"},
}
"""What has a name, and a body that makes it."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """Serve an installation of more tenants than the other modules need."""
    async with serving(tmp_path_factory.mktemp("side_channels"), tenants=32) as serves:
        yield serves


async def made(tenant: Tenant, path: str, body: object, **headers: str) -> httpx.Response:
    answer = await tenant.http.post(path, json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer


async def events(tenant: Tenant, cursor: int) -> Any:
    answer = await tenant.http.get("/api/events", params={"cursor": str(cursor)})
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def position(answer: httpx.Response) -> int:
    return int(answer.headers["X-Event-Position"])


async def frames_until(stream: httpx.Response, end: str) -> list[str]:
    """Read a live stream's events up to the one that holds a text."""
    found: list[str] = []
    async for line in stream.aiter_lines():
        if line.startswith("data:"):
            found.append(line)
            if end in line:
                return found
    raise AssertionError(f"the stream ended before {end}")


@pytest.mark.parametrize("path", NAMED)
async def test_two_tenants_may_repeat_by_the_same_key(
    tenant: Tenant, other: Tenant, path: str
) -> None:
    theirs = await made(other, path, NAMED[path], **REPEATED)
    own = await made(tenant, path, NAMED[path], **REPEATED)
    assert own.json()["id"] != theirs.json()["id"]
    assert position(own) > position(theirs), "it was carried out, not answered again"
    again = await made(tenant, path, NAMED[path], **REPEATED)
    assert again.json()["id"] == own.json()["id"]


async def test_a_key_that_another_used_for_something_else_is_free(
    tenant: Tenant, other: Tenant
) -> None:
    await made(other, "/api/agents", {"name": "Theirs"}, **REPEATED)
    own = await made(tenant, "/api/agents", {"name": "Own"}, **REPEATED)
    assert own.json()["name"] == "Own"
    refused = await tenant.http.post("/api/agents", json={"name": "Not own"}, headers=REPEATED)
    assert_problem(refused, 422, "idempotency_key_reused")


@pytest.mark.parametrize("path", NAMED)
async def test_a_name_that_another_has_taken_is_free(
    tenant: Tenant, other: Tenant, path: str
) -> None:
    theirs = await made(other, path, NAMED[path])
    own = await made(tenant, path, NAMED[path])
    assert own.headers.get("ETag") == theirs.headers.get("ETag"), "versions count one's own only"
    shown = own.text + str(own.headers)
    assert str(theirs.json()["id"]) not in shown
    assert other.workspace_id not in shown


async def test_a_page_from_anothers_position_on_holds_ones_own_events_only(
    tenant: Tenant, other: Tenant
) -> None:
    before = position(await made(tenant, "/api/agents", {"name": "Before"}))
    theirs = position(await made(other, "/api/agents", {"name": "Theirs"}))
    await made(tenant, "/api/agents", {"name": "After"})
    from_own, from_theirs = await events(tenant, before), await events(tenant, theirs)
    assert from_own == from_theirs
    assert {event["workspace_id"] for event in from_theirs} == {tenant.workspace_id}
    assert "After" in str(from_theirs)
    assert "Before" not in str(from_theirs)


@pytest.mark.parametrize("how", ["Last-Event-ID", "after"])
async def test_a_stream_from_anothers_position_on_holds_ones_own_events_only(
    tenant: Tenant, other: Tenant, how: str
) -> None:
    await made(tenant, "/api/agents", {"name": "Before"})
    theirs = str(position(await made(other, "/api/agents", {"name": "Theirs"})))
    headers = {how: theirs} if how == "Last-Event-ID" else {}
    params = {} if headers else {how: theirs}
    async with tenant.http.stream("GET", STREAM, headers=headers, params=params) as stream:
        await made(other, "/api/agents", {"name": "Theirs, too"})
        await made(tenant, "/api/agents", {"name": "The end"})
        frames = await frames_until(stream, "The end")
    assert not [frame for frame in frames if "Theirs" in frame or "Before" in frame]
    assert all(tenant.workspace_id in frame for frame in frames)


async def test_anothers_position_to_wait_for_shows_nothing_of_it(
    tenant: Tenant, other: Tenant
) -> None:
    await made(tenant, "/api/agents", {"name": "Own"})
    theirs = await made(other, "/api/agents", {"name": "Theirs"})
    wait = {"Min-Position": theirs.headers["X-Event-Position"]}
    answer = await tenant.http.get("/api/agents", headers=wait)
    assert [agent["name"] for agent in answer.json()] == ["Own"]


async def test_a_ticket_opens_the_workspace_it_was_given_for_and_no_other(
    served: Served, tenant: Tenant, other: Tenant
) -> None:
    async def ticket() -> str:
        answer = await tenant.http.post("/api/events/ticket", json={})
        return str(answer.json()["ticket"])

    anybody = served.client()
    for named in (other.workspace_id, "no-workspace"):
        by_query = {"ticket": await ticket(), "workspace_id": named}
        assert_problem(await anybody.get(STREAM, params=by_query), 403, "foreign_workspace")
        by_header = await anybody.get(
            STREAM, params={"ticket": await ticket()}, headers={"X-Workspace-ID": named}
        )
        assert_problem(by_header, 403, "foreign_workspace")
    await made(other, "/api/agents", {"name": "Theirs"})
    await made(tenant, "/api/agents", {"name": "The end"})
    own = {"ticket": await ticket(), "workspace_id": tenant.workspace_id}
    async with anybody.stream("GET", STREAM, params=own) as stream:
        frames = await frames_until(stream, "The end")
    assert all(tenant.workspace_id in frame for frame in frames)
