"""A limit holds over all processes together, and statistics add up over them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from domain.events import PLATFORM_WORKSPACE, WorkspaceId
from infra.ids import new_uuid
from tests.api_processes import Installation, Processes, projected, serving, until

WORKERS = 2
LIMIT, AT_ONCE = 60, 200
ENDPOINTS = "/api/health/endpoints"


@pytest.fixture
async def installation(postgres_url: str, tmp_path: Path) -> AsyncIterator[Installation]:
    async with projected(postgres_url, tmp_path) as made:
        yield made


@pytest.fixture
async def key(installation: Installation) -> str:
    return await installation.key(WorkspaceId(new_uuid()))


async def asked(api: Processes, key: str = "") -> Counter[int]:
    """Ask so often at once, on a connection each, so that every process is asked."""
    async with api.client(key) as client:
        paths = ["/api/agents" if key else "/"] * AT_ONCE
        answers = await asyncio.gather(*(client.get(path) for path in paths))
    assert all(int(a.headers["retry-after"]) > 0 for a in answers if a.status_code == 429)
    return Counter(answer.status_code for answer in answers)


async def test_of_many_at_once_exactly_the_limit_pass_whichever_process_is_asked(
    installation: Installation, key: str, redis_url: str, tmp_path: Path
) -> None:
    limits = {
        "AUTOMATOS_RATE_LIMIT_PER_PRINCIPAL": f"{LIMIT}/hour",
        "AUTOMATOS_RATE_LIMIT_PER_IP": f"{LIMIT}/hour",
    }
    async with serving(installation, tmp_path, WORKERS, REDIS_URL=redis_url, **limits) as processes:
        expected = {200: LIMIT, 429: AT_ONCE - LIMIT}
        assert await asked(processes, key) == expected
        assert await asked(processes) == expected


async def test_statistics_add_up_over_processes_and_restarts(
    installation: Installation, key: str, tmp_path: Path
) -> None:
    for lives in (1, 2):
        async with serving(installation, tmp_path, WORKERS) as api:
            assert await asked(api, key) == {200: AT_ONCE}
            api.terminate()
            assert await api.wait() == 0
        operator = await installation.key(PLATFORM_WORKSPACE)
        async with serving(installation, tmp_path, 1) as api, api.client(operator) as client:
            found = (await client.get(ENDPOINTS)).json()["endpoints"]
            counts = {each["endpoint"]: each["call_count"] for each in found}
            assert counts["GET /api/agents"] == lives * AT_ONCE


async def test_what_a_process_has_counted_is_soon_told_by_all(
    installation: Installation, key: str, tmp_path: Path
) -> None:
    operator = await installation.key(PLATFORM_WORKSPACE)
    async with serving(installation, tmp_path, WORKERS) as api, api.client(operator) as client:
        await asked(api, key)

        async def is_told() -> bool:
            found = (await client.get(ENDPOINTS)).json()["endpoints"]
            counts = {each["endpoint"]: each["call_count"] for each in found}
            return bool(counts["GET /api/agents"] == AT_ONCE)

        await until(is_told, "all calls are told of")
