"""A live stream of one process ends when its key is revoked in another one."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import httpx
import pytest

from domain.events import WorkspaceId
from domain.identity import KeyId
from infra.ids import new_uuid
from tests.api_processes import WAIT_MAX_S, Installation, projected, serving

STREAM = "/api/events/stream"
STREAMS = 6
WITHIN_S = 5.0


@pytest.fixture
async def installation(postgres_url: str, tmp_path: Path) -> AsyncIterator[Installation]:
    async with projected(postgres_url, tmp_path) as made:
        yield made


async def read(client: httpx.AsyncClient, begun: asyncio.Semaphore) -> str:
    text = ""
    async with client.stream("GET", STREAM) as answer:
        assert answer.status_code == 200
        begun.release()
        async for more in answer.aiter_text():
            text += more
    return text


async def test_a_key_revoked_beside_two_processes_ends_its_streams_in_both(
    installation: Installation, tmp_path: Path
) -> None:
    workspace_id = WorkspaceId(new_uuid())
    key, kept = [await installation.key(workspace_id) for _ in range(2)]
    async with (
        serving(installation, tmp_path, 2) as api,
        api.client(key) as client,
        api.client(kept) as other,
    ):
        begun = asyncio.Semaphore(0)
        reading = [asyncio.create_task(read(client, begun)) for _ in range(STREAMS)]
        goes_on = asyncio.create_task(read(other, begun))
        async with asyncio.timeout(WAIT_MAX_S):
            for _ in range(STREAMS + 1):
                await begun.acquire()
        identity = installation.writing.identity
        issued = installation.writing.issued(workspace_id, "test")
        await identity.revoke_key(KeyId(key.split("_")[2]), issued)
        since = monotonic()
        async with asyncio.timeout(WAIT_MAX_S):
            ended = await asyncio.gather(*reading)
        assert monotonic() - since < WITHIN_S
        assert all("event: ended" in text for text in ended)
        assert not goes_on.done()
        goes_on.cancel()
        await asyncio.wait((goes_on,))
