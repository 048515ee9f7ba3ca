"""What an agent has been told to be: listed, read, compared, and made so again."""

from typing import Any

import pytest

from tests.read_api.conftest import Served, Tenant, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def changed_thrice(tenant: Tenant) -> Any:
    """Give an agent of four versions."""
    agent = await tenant.agent("Ada", configuration={"a": 1}, tags=["x"], system_prompt="Reads.")
    for change in (
        {"configuration": {"a": 2, "b/c": [1]}},
        {"tags": ["x", "y"]},
        {"status": "inactive", "name": "Eve"},
    ):
        answer = await tenant.http.put(f"/api/agents/{agent['id']}", json=change)
        assert answer.status_code == 200, answer.text
    return agent


async def test_each_version_is_listed_with_what_made_it(tenant: Tenant) -> None:
    agent = await changed_thrice(tenant)
    versions = (await tenant.http.get(f"/api/agents/{agent['id']}/versions")).json()
    assert versions["next"] is None
    assert [(each["version"], each["type"]) for each in versions["items"]] == [
        (1, "agent_registered"),
        (2, "agent_changed"),
        (3, "agent_tagged"),
        (4, "agent_changed"),
        (5, "agent_deactivated"),
    ]
    assert {each["actor"] for each in versions["items"]} == {agent["created_by"]}
    assert versions["items"][0]["occurred_at"] == agent["created_at"]
    assert {each["restored"] for each in versions["items"]} == {None}


async def test_versions_come_in_pages(tenant: Tenant) -> None:
    agent = await changed_thrice(tenant)
    path, seen, after = f"/api/agents/{agent['id']}/versions", [], 0
    while after is not None:
        page = (await tenant.http.get(path, params={"after": after, "limit": 2})).json()
        seen += [[each["version"] for each in page["items"]]]
        after = page["next"]
    assert seen == [[1, 2], [3, 4], [5]]
    beyond = await tenant.http.get(path, params={"after": 5})
    assert beyond.json() == {"items": [], "next": None}


async def test_an_agent_is_read_as_it_once_was(tenant: Tenant) -> None:
    agent = await changed_thrice(tenant)
    once = (await tenant.http.get(f"/api/agents/{agent['id']}/versions/1")).json()
    assert (once["version"], once["name"], once["tags"]) == (1, "Ada", ["x"])
    assert (once["configuration"], once["status"]) == ({"a": 1}, "active")
    assert once["model_config"] is None
    now = (await tenant.http.get(f"/api/agents/{agent['id']}/versions/5")).json()
    assert (now["name"], now["status"], now["tags"]) == ("Eve", "inactive", ["x", "y"])


async def test_two_versions_are_compared_in_json_patch(tenant: Tenant) -> None:
    agent = await changed_thrice(tenant)
    path = f"/api/agents/{agent['id']}/versions"
    forth = (await tenant.http.get(f"{path}/5/diff", params={"since": 1})).json()
    assert (forth["from_version"], forth["to_version"]) == (1, 5)
    assert forth["changes"] == [
        {"op": "replace", "path": "/configuration/a", "value": 2, "was": 1},
        {"op": "add", "path": "/configuration/b~1c", "value": [1]},
        {"op": "replace", "path": "/name", "value": "Eve", "was": "Ada"},
        {"op": "replace", "path": "/status", "value": "inactive", "was": "active"},
        {"op": "replace", "path": "/tags", "value": ["x", "y"], "was": ["x"]},
    ]
    back = (await tenant.http.get(f"{path}/1/diff", params={"since": 5})).json()
    assert {"op": "remove", "path": "/configuration/b~1c", "was": [1]} in back["changes"]
    same = (await tenant.http.get(f"{path}/2/diff", params={"since": 2})).json()
    assert same["changes"] == []
    last = (await tenant.http.get(f"{path}/3/diff")).json()
    assert last["from_version"] == 2
    assert [each["path"] for each in last["changes"]] == ["/tags"]
    first = (await tenant.http.get(f"{path}/1/diff")).json()
    assert first["from_version"] == 0
    assert {each["op"] for each in first["changes"]} == {"add"}
    assert {"op": "add", "path": "/name", "value": "Ada"} in first["changes"]


async def test_a_rollback_is_a_new_version_and_leaves_the_status(tenant: Tenant) -> None:
    agent = await changed_thrice(tenant)
    path = f"/api/agents/{agent['id']}"
    back = await tenant.http.post(f"{path}/rollback", json={"version": 1})
    assert back.status_code == 200, back.text
    body = back.json()
    assert (body["name"], body["tags"], body["configuration"]) == ("Ada", ["x"], {"a": 1})
    assert (body["status"], body["version"]) == ("inactive", 6)
    assert back.headers["etag"] == '"6"'
    read = await tenant.http.get(path)
    assert read.json() == body
    last = (await tenant.http.get(f"{path}/versions", params={"after": 5})).json()["items"]
    assert [(each["type"], each["restored"]) for each in last] == [("agent_rolled_back", 1)]
    again = await tenant.http.post(f"{path}/rollback", json={"version": 1})
    assert again.json()["version"] == 6


async def test_the_name_of_an_earlier_version_may_be_another_agent_s_by_now(
    tenant: Tenant,
) -> None:
    agent = await changed_thrice(tenant)
    await tenant.agent("Ada")
    refused = await tenant.http.post(f"/api/agents/{agent['id']}/rollback", json={"version": 1})
    problem = assert_problem(refused, 409, "name_is_taken")
    assert problem["errors"][0]["pointer"] == "/version"
    assert (await tenant.http.get(f"/api/agents/{agent['id']}")).json()["version"] == 5


async def test_a_rollback_heeds_the_version_that_its_caller_saw(tenant: Tenant) -> None:
    agent = await changed_thrice(tenant)
    path, body = f"/api/agents/{agent['id']}/rollback", {"version": 1}
    stale = await tenant.http.post(path, json=body, headers={"If-Match": '"4"'})
    assert stale.status_code == 412
    assert (await tenant.http.post(path, json=body, headers={"If-Match": '"5"'})).is_success


@pytest.mark.parametrize("version", [6, 2**53 - 1])
async def test_a_version_that_never_was_is_missing(tenant: Tenant, version: int) -> None:
    agent = await changed_thrice(tenant)
    path = f"/api/agents/{agent['id']}"
    for answer in (
        await tenant.http.get(f"{path}/versions/{version}"),
        await tenant.http.get(f"{path}/versions/1/diff", params={"since": version}),
        await tenant.http.post(f"{path}/rollback", json={"version": version}),
    ):
        assert_problem(answer, 404, "not_found")


async def test_an_archived_agent_keeps_its_history_and_is_not_brought_back(tenant: Tenant) -> None:
    agent = await changed_thrice(tenant)
    path = f"/api/agents/{agent['id']}"
    assert (await tenant.http.delete(path)).is_success
    assert len((await tenant.http.get(f"{path}/versions")).json()["items"]) == 6
    assert (await tenant.http.get(f"{path}/versions/5")).json()["name"] == "Eve"
    assert_problem(await tenant.http.get(f"{path}/versions/6"), 404, "not_found")
    refused = await tenant.http.post(f"{path}/rollback", json={"version": 1})
    assert refused.status_code == 409


async def test_another_workspace_s_history_is_like_that_of_nobody(served: Served) -> None:
    ours, theirs = [await served.tenant() for _ in range(2)]
    agent = await changed_thrice(theirs)
    for known, unknown in (
        (f"/api/agents/{agent['id']}{rest}", f"/api/agents/987654321{rest}")
        for rest in ("/versions", "/versions/1", "/versions/1/diff?since=2")
    ):
        answers = [await ours.http.get(path) for path in (known, unknown)]
        assert [answer.status_code for answer in answers] == [404, 404]
