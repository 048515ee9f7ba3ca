"""An API process without its database: it says so, answers no 500, and goes on when it is back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from domain.events import WorkspaceId
from infra.api import build_api, build_api_app
from infra.ids import new_uuid
from infra.settings import Settings
from tests.api_processes import WAIT_MAX_S, Installation, agent, projected, until
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


@asynccontextmanager
async def asking(installation: Installation, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client with a key, of an API without a port."""
    settings = Settings(data_dir=folder, database_url=installation.url, kafka_partitions=1)
    app = build_api_app(build_api(settings), closing=lambda: False)
    headers = {"X-API-Key": await installation.key(WorkspaceId(new_uuid()))}
    # Each library spells ASGI's types in its own way.
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with (
        app.lifespan(),
        httpx.AsyncClient(
            base_url="http://api", headers=headers, transport=transport, timeout=WAIT_MAX_S
        ) as client,
    ):
        yield client


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
