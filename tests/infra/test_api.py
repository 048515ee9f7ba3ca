"""An API process without its database: it says so, answers no 500, and goes on when it is back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.api_processes import Installation, agent, asking, projected, until
from tests.read_api.conftest import assert_problem
from tests.servers.fixtures import Private
from tests.servers.server import Server


@pytest.fixture
def database(private_postgres: Private) -> Server:
    return private_postgres()


@pytest.fixture
async def installation(database: Server, tmp_path: Path) -> AsyncIterator[Installation]:
    async with projected(database.url, tmp_path) as made:
        yield made


async def ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/health/ready")).status_code == 200


async def test_without_its_database_it_lives_is_not_ready_and_refuses(
    installation: Installation, database: Server, tmp_path: Path
) -> None:
    async with asking(installation, tmp_path) as client:
        made = await agent(client)
        path = f"/api/agents/{made['id']}"
        assert await ready(client)
        await asyncio.to_thread(database.kill)
        unready = await client.get("/health/ready")
        assert (unready.status_code, unready.json()["event_store"]) == (503, "unhealthy")
        assert (await client.get("/health/live")).status_code == 200
        refused = await client.post("/api/agents", json={"name": "Bob"})
        assert_problem(refused, 503, "storage_unavailable")
        assert_problem(await client.get(path), 503, "storage_unavailable")
        await asyncio.to_thread(database.start)
        await until(lambda: ready(client), "it is ready again")
        await agent(client, "Cyd")

        async def read() -> bool:
            return bool((await client.get(path)).json() == made)

        await until(read, "what was acknowledged is read again")
