"""Reading one's own writes, and telling when that cannot be promised."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.read_api.conftest import Served, Tenant, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")

READS = (
    "/api/agents",
    "/api/agents/stats",
    "/api/workflows",
    "/api/workflows/active",
    "/api/workflows/stats/dashboard",
    "/api/workflows/executions",
    "/api/usage",
)


@contextmanager
def held(served: Served) -> Iterator[None]:
    """Hold the read models' write lock, as another process may: no projector moves."""
    path = served.installation.writing.settings.data_dir / "read_models.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


async def test_a_write_is_read_at_once_without_help(tenant: Tenant) -> None:
    for number in range(30):
        agent = await tenant.agent(f"Agent {number}")
        read = await tenant.http.get(f"/api/agents/{agent['id']}")
        assert read.json() == agent
        assert "x-stale" not in read.headers
        await tenant.http.put(f"/api/agents/{agent['id']}", json={"description": "new"})
        listed = (await tenant.http.get("/api/agents", params={"limit": 1})).json()
        assert listed[0]["description"] == "new"


async def test_many_at_once_each_read_their_own_write(tenant: Tenant) -> None:
    async def written_and_read(number: int) -> bool:
        workflow = await tenant.workflow(f"W{number}")
        read = await tenant.http.get(f"/api/workflows/{workflow['id']}")
        return read.status_code == 200

    assert all(await asyncio.gather(*(written_and_read(number) for number in range(50))))


@pytest.mark.parametrize("path", READS)
async def test_a_read_tells_how_far_its_read_models_are(
    tenant: Tenant, other: Tenant, path: str
) -> None:
    written = await tenant.http.post("/api/agents", json={"name": "Ada"})
    read = await tenant.http.get(path)
    assert int(read.headers["x-event-position"]) >= int(written.headers["x-event-position"])
    assert "x-stale" not in read.headers


async def test_a_minimum_of_another_workspace_is_waited_for(tenant: Tenant, other: Tenant) -> None:
    written = await other.http.post("/api/agents", json={"name": "Ada"})
    position = written.headers["x-event-position"]
    read = await tenant.http.get("/api/agents", headers={"Min-Position": position})
    assert int(read.headers["x-event-position"]) >= int(position)
    assert "x-stale" not in read.headers


async def test_a_minimum_that_is_not_reached_in_time_makes_the_answer_stale(
    tenant: Tenant,
) -> None:
    await tenant.agent()
    read = await tenant.http.get("/api/agents", headers={"Min-Position": "9" * 18})
    assert read.status_code == 200
    assert read.headers["x-stale"] == "true"
    assert len(read.json()) == 1


async def test_a_read_that_waits_is_answered_as_soon_as_the_projector_is_there(
    alone: Served,
) -> None:
    tenant = alone.tenants.pop()
    with held(alone):
        written = await tenant.http.post("/api/agents", json={"name": "Ada"})
        reading = asyncio.create_task(tenant.http.get("/api/agents"))
        done, _ = await asyncio.wait([reading], timeout=0.2)
        assert not done
    read = await reading
    assert int(read.headers["x-event-position"]) >= int(written.headers["x-event-position"])
    assert "x-stale" not in read.headers
    assert len(read.json()) == 1


async def test_late_read_models_are_told_to_be_stale_and_commands_go_on(alone: Served) -> None:
    tenant = alone.tenants.pop()
    with held(alone):
        written = await tenant.http.post("/api/agents", json={"name": "Ada"})
        assert written.status_code == 201
        for path in READS:
            read = await tenant.http.get(path)
            assert read.headers["x-stale"] == "true", path
            assert int(read.headers["x-event-position"]) < int(written.headers["x-event-position"])
        taken = await tenant.http.post("/api/agents", json={"name": "ada"})
        assert taken.status_code == 409
        health = await tenant.http.get("/health")
        assert health.status_code == 200
        assert max(health.json()["read_models"].values()) > 0


@pytest.mark.parametrize(
    "path", ["/api/agents", "/api/agents/types", "/api/users/me", "/api/events"]
)
async def test_min_position_is_a_position_even_where_nothing_waits(
    tenant: Tenant, path: str
) -> None:
    for wrong in ("ten", "-1", "1" * 19):
        answer = await tenant.http.get(path, headers={"Min-Position": wrong})
        body = assert_problem(answer, 400, "bad_header")
        assert body["errors"][0]["pointer"] == "/header/Min-Position"
