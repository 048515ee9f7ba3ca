"""Many tenants at once: nobody is told what is another's, even by a query that forgets whose."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import BinaryExpression, ClauseElement, Column, Engine, create_engine, event, true
from sqlalchemy.sql import operators
from sqlalchemy.sql.visitors import replacement_traverse

from domain.events import WorkspaceId
from infra.api import Api, build_api, build_api_app
from infra.ids import new_uuid
from infra.postgres.connections import sqlalchemy_url
from infra.settings import Settings
from tests.api_processes import WAIT_MAX_S, projected
from tests.api_processes import serving as api_processes
from tests.canaries import Bird, live_together
from tests.read_api.conftest import serving

TENANTS = 20
SEED = 20_261_122
DRILL = 20
"""Requests of each tenant once the filter is gone."""

UNLIMITED = {
    "AUTOMATOS_RATE_LIMIT_PER_PRINCIPAL": "0",
    "AUTOMATOS_RATE_LIMIT_WRITES": "0",
    "AUTOMATOS_RUNS_PER_WORKSPACE": "0",
}

SIZES = [
    pytest.param(60, id="ci"),
    pytest.param(2_000, id="long", marks=[pytest.mark.long, pytest.mark.timeout(3_600)]),
]


async def checked(birds: list[Bird], requests: int, report: Any, where: str) -> None:
    assert await live_together(birds, requests) == []
    for bird in birds:
        await bird.listen()
    asked, seen = sum(bird.asked for bird in birds), sum(bird.seen for bird in birds)
    report(
        "figure",
        f"canaries, {where}: {TENANTS} tenants, {asked} requests, {seen} answers with their own"
        " canary, 0 with another's",
    )
    assert asked >= TENANTS * requests
    assert sum(bird.dropped for bird in birds) < asked / 1_000 + 1
    assert all(bird.seen > requests // 10 for bird in birds)
    assert [leak for bird in birds for leak in bird.leaks] == []


@pytest.mark.parametrize("requests", SIZES)
async def test_no_tenant_is_told_of_another_in_one_process(
    requests: int, tmp_path: Path, record_property: Any
) -> None:
    async with serving(tmp_path, tenants=TENANTS) as served:
        birds = [Bird(tenant.http, SEED + n) for n, tenant in enumerate(served.tenants)]
        await checked(birds, requests, record_property, "SQLite")


# On PostgreSQL.


class Served:
    """An API on PostgreSQL, and its tenants."""

    def __init__(self, api: Api, birds: list[Bird]) -> None:
        self.api = api
        self.birds = birds


@asynccontextmanager
async def on_postgres(url: str, folder: Path) -> AsyncIterator[Served]:
    settings = Settings(
        data_dir=folder,
        database_url=url,
        kafka_partitions=1,
        rate_limit_per_principal="0",
        rate_limit_writes="0",
        runs_per_workspace="0",
    )
    async with projected(url, folder) as installation, AsyncExitStack() as stack:
        keys = [await installation.key(WorkspaceId(new_uuid())) for _ in range(TENANTS)]
        api = build_api(settings)
        app = build_api_app(api, closing=lambda: False)
        await stack.enter_async_context(app.lifespan())
        birds: list[Bird] = []
        for number, key in enumerate(keys):
            client = httpx.AsyncClient(
                base_url="http://api",
                headers={"X-API-Key": key},
                # Each library spells ASGI's types in its own way.
                transport=httpx.ASGITransport(app),  # type: ignore[arg-type]
                timeout=WAIT_MAX_S,
            )
            birds.append(Bird(await stack.enter_async_context(client), SEED + number))
        yield Served(api, birds)


def forgetful(engine: Engine) -> list[int]:
    """Take the workspace out of every condition; give a list that grows with each one taken."""
    taken: list[int] = []

    def without(element: Any, **_: object) -> ClauseElement | None:
        names_workspace = (
            isinstance(element, BinaryExpression)
            and element.operator is operators.eq
            and isinstance(element.left, Column)
            and element.left.name == "workspace_id"
        )
        if not names_workspace:
            return None
        taken.append(1)
        return true()

    @event.listens_for(engine, "before_execute", retval=True)
    def forget(  # pyright: ignore[reportUnusedFunction]
        _connection: Any, statement: Any, many: Any, one: Any, _options: Any
    ) -> tuple[Any, Any, Any]:
        if isinstance(statement, ClauseElement):
            statement = replacement_traverse(statement, {}, without)
        return statement, many, one

    return taken


@pytest.mark.parametrize("requests", SIZES)
async def test_no_tenant_is_told_of_another_by_two_processes_on_postgresql(
    requests: int, postgres_url: str, tmp_path: Path, record_property: Any
) -> None:
    async with projected(postgres_url, tmp_path) as installation, AsyncExitStack() as stack:
        api = await stack.enter_async_context(api_processes(installation, tmp_path, 2, **UNLIMITED))
        birds: list[Bird] = []
        for number in range(TENANTS):
            client = api.client(await installation.key(WorkspaceId(new_uuid())))
            birds.append(Bird(await stack.enter_async_context(client), SEED + number))
        await checked(birds, requests, record_property, "PostgreSQL")


async def test_queries_that_forget_the_workspace_are_shown_one_all_the_same(
    postgres_url: str, tmp_path: Path, record_property: Any
) -> None:
    async with on_postgres(postgres_url, tmp_path) as served:
        assert await live_together(served.birds, DRILL) == []
        taken = forgetful(served.api.reads._one)
        assert await live_together(served.birds, DRILL) == []
        assert await leaks_to_browsers(served) == []
        record_property("figure", f"drill: {len(taken)} conditions taken away, 0 leaks")
        assert len(taken) > TENANTS


async def test_without_both_walls_there_are_leaks(postgres_url: str, tmp_path: Path) -> None:
    """As the superuser, for whom no row security counts: or the drill proves nothing."""
    async with on_postgres(postgres_url, tmp_path) as served:
        assert await live_together(served.birds, DRILL) == []
        unbound = create_engine(sqlalchemy_url(postgres_url), pool_size=8)
        forgetful(unbound)
        kept, served.api.reads._one = served.api.reads._one, unbound
        try:
            assert len(await leaks_to_browsers(served)) > TENANTS
        finally:
            served.api.reads._one = kept
            unbound.dispose()


async def leaks_to_browsers(served: Served) -> list[str]:
    for bird in served.birds:
        await bird.browse()
    return [leak for bird in served.birds for leak in bird.leaks]
