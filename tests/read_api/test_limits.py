"""Who asks too often is told when to come back, and nobody else is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from infra.edges import DEFAULT_RATES, rate, rates_of
from infra.settings import Settings
from read_api.limits import Rate
from tests.read_api.conftest import Served, assert_problem, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

JUNK = {"X-API-Key": "atk_live_junk"}


@asynccontextmanager
async def limited(folder: Path, tenants: int = 2, **settings: str) -> AsyncIterator[Served]:
    chosen = Settings(data_dir=folder, **settings)  # type: ignore[arg-type]
    async with serving(folder, chosen, tenants=tenants) as made:
        yield made


async def statuses(client: httpx.AsyncClient, times: int, path: str = "/") -> list[int]:
    return [(await client.get(path)).status_code for _ in range(times)]


async def test_without_credentials_an_address_is_limited_whatever_it_says_of_itself(
    tmp_path: Path,
) -> None:
    async with limited(tmp_path, rate_limit_per_ip="3/hour") as served:
        client = served.client()
        assert await statuses(client, 2) == [200, 200]
        assert await statuses(client, 1, "/nope") == [404]
        for number, path in enumerate(("/", "/nope", "/api/agents", "/docs/problems")):
            spoofed = {
                "X-Forwarded-For": f"198.51.100.{number}",
                "Forwarded": f"for=198.51.100.{number}",
                "X-Real-IP": f"198.51.100.{number}",
            }
            answer = await client.get(path, headers=spoofed)
            assert answer.status_code == 429, path
        body = assert_problem(await client.get("/"), 429, "rate_limited")
        assert body["detail"] == "Rate limit exceeded: 3 in 3600 s (address)."
        assert await statuses(client, 2, "/health") == [200, 200]
        assert await statuses(client, 2, "/health/ready") == [200, 200]
        # Who has credentials is counted by them.
        assert await statuses(served.tenants[0].http, 5, "/api/agents") == [200] * 5


async def test_credentials_that_nobody_checks_are_none(tmp_path: Path) -> None:
    async with limited(tmp_path, rate_limit_per_ip="2/hour") as served:
        answers = [await served.client().get("/", headers=JUNK) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]


async def test_behind_a_trusted_proxy_each_client_has_its_own_limit(tmp_path: Path) -> None:
    async with limited(
        tmp_path, rate_limit_per_ip="1/hour", trusted_proxies="127.0.0.0/8"
    ) as served:
        client = served.client()

        async def asked(forwarded: str) -> int:
            return (await client.get("/", headers={"X-Forwarded-For": forwarded})).status_code

        assert [await asked("198.51.100.1"), await asked("198.51.100.1")] == [200, 429]
        assert await asked("198.51.100.2") == 200
        assert await asked("198.51.100.9, 198.51.100.2") == 429


async def test_a_principal_is_limited_and_no_other_and_told_what_is_left(tmp_path: Path) -> None:
    async with limited(tmp_path, rate_limit_per_principal="2/hour") as served:
        first, second = served.tenants
        left = await first.http.get("/api/agents")
        assert left.headers["ratelimit-policy"] == '"principal";q=2;w=3600'
        assert left.headers["ratelimit"] == '"principal";r=1;t=1800'
        assert (
            (await first.http.get("/api/agents"))
            .headers["ratelimit"]
            .startswith('"principal";r=0;')
        )
        refused = await first.http.get("/api/agents")
        assert_problem(refused, 429, "rate_limited")
        assert 1 <= int(refused.headers["retry-after"]) <= 1_800
        assert refused.headers["ratelimit"].startswith('"principal";r=0;t=')
        assert await statuses(second.http, 2, "/api/agents") == [200, 200]


async def test_writes_have_a_limit_of_their_own_and_what_is_refused_is_not_done(
    tmp_path: Path,
) -> None:
    async with limited(tmp_path, rate_limit_writes="2/hour") as served:
        tenant = served.tenants[0]
        answers = [
            await tenant.http.post("/api/agents", json={"name": f"Agent {number}"})
            for number in range(3)
        ]
        assert [answer.status_code for answer in answers] == [201, 201, 429]
        agents = await tenant.http.get("/api/agents")
        assert (agents.status_code, len(agents.json())) == (200, 2)


async def test_bad_keys_are_counted_by_address_and_good_ones_go_on(tmp_path: Path) -> None:
    async with limited(tmp_path, rate_limit_bad_keys="3/hour") as served:
        client = served.client()
        answers = [await client.get("/api/agents", headers=JUNK) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
        assert_problem(answers[-1], 429, "rate_limited")
        # No key at all is no guess.
        assert (await client.get("/api/agents")).status_code == 401
        assert (await served.tenants[0].http.get("/api/agents")).status_code == 200


async def test_who_serves_this_machine_only_limits_nothing(alone: Served) -> None:
    assert set(await statuses(alone.client(), 200)) == {200}
    assert "ratelimit" not in (await alone.client().get("/")).headers


@pytest.mark.parametrize(
    "settings",
    [
        Settings(host="0.0.0.0"),
        Settings(host="192.0.2.1"),
        Settings(host="automatos.example"),
        Settings(database_url="postgresql://localhost/x"),
    ],
    ids=["every address", "an address", "a name", "the production profile"],
)
async def test_whoever_else_can_be_reached_has_limits_unless_they_are_set(
    settings: Settings,
) -> None:
    found = rates_of(settings)
    assert found == {name: rate(text) for name, text in DEFAULT_RATES.items()}
    assert found["rate_limit_per_principal"] == Rate(600, 60)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
async def test_a_loopback_address_has_those_that_are_set(host: str) -> None:
    assert set(rates_of(Settings(host=host)).values()) == {None}
    some = rates_of(Settings(host=host, rate_limit_writes="5/second"))
    assert some["rate_limit_writes"] == Rate(5, 1)
    assert rates_of(Settings(host="::", rate_limit_writes="0"))["rate_limit_writes"] is None
