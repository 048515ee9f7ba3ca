"""Many at once over real HTTP: a key is answered once, and a version is won once."""

import asyncio
from random import Random
from typing import Any

import httpx
import pytest

from tests.read_api.conftest import Served, Tenant, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "one-and-the-same-key"
TOLD = ("etag", "x-event-position", "content-type")


def told(answer: httpx.Response) -> tuple[Any, ...]:
    return (answer.status_code, answer.content, *(answer.headers[name] for name in TOLD))


async def registered_at_last(tenant: Tenant, name: str, headers: dict[str, str]) -> httpx.Response:
    """Register, and come again when told that the key's first request has not ended."""
    while True:
        answer = await tenant.http.post("/api/agents", json={"name": name}, headers=headers)
        if answer.status_code != 409:
            return answer
        assert_problem(answer, 409, "idempotency_key_in_flight")
        assert answer.headers["retry-after"]


async def test_of_300_requests_at_once_20_with_one_key_register_281_agents(
    served: Served, tenant: Tenant
) -> None:
    keyed: list[tuple[str, dict[str, str]]] = [("Keyed", {"Idempotency-Key": KEY})] * 20
    plain: list[tuple[str, dict[str, str]]] = [(f"Agent {n}", {}) for n in range(280)]
    requests = keyed + plain
    Random(281).shuffle(requests)
    answers = await asyncio.gather(
        *(registered_at_last(tenant, name, headers) for name, headers in requests)
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 281
    of_key = [a for a, (name, _) in zip(answers, requests, strict=True) if name == "Keyed"]
    assert len({told(answer) for answer in of_key}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in of_key) == 19
    listed = await tenant.http.get("/api/agents", params={"limit": 1000})
    assert len(listed.json()) == 281
    registered = [r for r in await served.log(tenant) if r.event.tag() == "agent_registered"]
    assert len(registered) == 281
    positions = {answer.headers["x-event-position"] for answer in answers}
    assert len(positions) == 281


async def test_a_key_answers_the_same_after_the_thing_has_changed(tenant: Tenant) -> None:
    async def register() -> httpx.Response:
        headers = {"Idempotency-Key": KEY}
        return await tenant.http.post("/api/agents", json={"name": "Ada"}, headers=headers)

    first = await register()
    path = f"/api/agents/{first.json()['id']}"
    await tenant.http.put(path, json={"name": "Grace"})
    await tenant.http.delete(path)
    assert told(await register()) == told(first)


async def test_a_key_is_refused_for_another_request(served: Served, tenant: Tenant) -> None:
    headers = {"Idempotency-Key": KEY}
    await tenant.http.post("/api/agents", json={"name": "Ada"}, headers=headers)
    recorded = await served.log(tenant)
    other_body = await tenant.http.post("/api/agents", json={"name": "Grace"}, headers=headers)
    assert_problem(other_body, 422, "idempotency_key_reused")
    conditional = {**headers, "If-Match": '"1"'}
    other_match = await tenant.http.post("/api/agents", json={"name": "Ada"}, headers=conditional)
    assert_problem(other_match, 422, "idempotency_key_reused")
    assert await served.log(tenant) == recorded


async def test_a_key_means_something_of_its_own_on_each_route_and_for_each_workspace(
    tenant: Tenant, other: Tenant
) -> None:
    headers = {"Idempotency-Key": KEY}
    first = await tenant.http.post("/api/agents", json={"name": "Ada"}, headers=headers)
    elsewhere = await tenant.http.post("/api/workflows", json={"name": "Ada"}, headers=headers)
    foreign = await other.http.post("/api/agents", json={"name": "Ada"}, headers=headers)
    assert [a.status_code for a in (first, elsewhere, foreign)] == [201, 201, 201]
    assert "idempotent-replayed" not in foreign.headers
    assert foreign.json()["id"] != first.json()["id"]


async def test_a_quoted_key_is_the_key(tenant: Tenant) -> None:
    answers = [
        await tenant.http.post(
            "/api/agents", json={"name": "Ada"}, headers={"Idempotency-Key": key}
        )
        for key in (KEY, f'"{KEY}"')
    ]
    assert told(answers[0]) == told(answers[1])


async def test_a_refusal_is_not_kept_under_the_key(tenant: Tenant) -> None:
    agent = await tenant.agent("Ada")

    async def register() -> httpx.Response:
        headers = {"Idempotency-Key": KEY}
        return await tenant.http.post("/api/agents", json={"name": "Ada"}, headers=headers)

    assert_problem(await register(), 409, "name_is_taken")
    await tenant.http.delete(f"/api/agents/{agent['id']}")
    assert (await register()).status_code == 201


async def test_of_50_racing_changes_of_one_version_one_wins(served: Served, tenant: Tenant) -> None:
    agent = await tenant.agent()
    path = f"/api/agents/{agent['id']}"
    answers = await asyncio.gather(
        *(
            tenant.http.put(path, json={"description": f"{n}"}, headers={"If-Match": '"1"'})
            for n in range(50)
        )
    )
    won = [answer for answer in answers if answer.status_code == 200]
    assert len(won) == 1
    for answer in answers:
        if answer is not won[0]:
            assert_problem(answer, 412, "version_mismatch")
    assert (await tenant.http.get(path)).json() == won[0].json()
    changed = [r for r in await served.log(tenant) if r.event.tag() == "agent_changed"]
    assert len(changed) == 1


async def test_a_run_started_twice_under_one_key_is_one_run(tenant: Tenant) -> None:
    workflow = await tenant.three_steps()
    path = f"/api/workflows/{workflow['id']}/execute"
    body = {"input_data": {"topic": "x"}}
    headers = {"Idempotency-Key": KEY}
    answers = await asyncio.gather(
        *(tenant.http.post(path, json=body, headers=headers) for _ in range(10))
    )
    assert len({told(answer) for answer in answers}) == 1
    assert (await tenant.http.get("/api/workflows/executions")).json()["total"] == 1
