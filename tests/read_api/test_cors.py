"""Pages of the origins that are named may ask, and see every answer; others may not."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from litestar import get

from infra.settings import Settings
from read_api.auth import PUBLIC
from read_api.cors import EXPOSED, MAX_AGE_S
from tests.read_api.conftest import Served, assert_problem, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

OURS, SECOND = "http://localhost:3000", "https://app.example.com"
WIDGET_SITE = "https://shop.example"
FOREIGN = "https://evil.example"
ALLOWED, CREDENTIALS = "access-control-allow-origin", "access-control-allow-credentials"


@get("/api/widget/config", opt={PUBLIC: True})
async def widget() -> dict[str, str]:
    return {}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browsed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("browsed"),
        cors_allow_origins=f" {OURS} ,, {SECOND}",
        widget_origin_allowlist=WIDGET_SITE,
        body_max=1_000,
    )
    async with serving(settings.data_dir, settings) as made:
        made.app.register(widget)
        yield made


async def preflight(
    client: httpx.AsyncClient, path: str, origin: str, method: str = "PUT"
) -> httpx.Response:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,x-workspace-id",
    }
    return await client.options(path, headers=asked)


@pytest.mark.parametrize("origin", [OURS, SECOND])
async def test_a_page_of_ours_may_ask(browsed: Served, origin: str) -> None:
    answer = await preflight(browsed.client(), "/api/agents/1", origin)
    assert answer.status_code == 204
    assert answer.headers[ALLOWED] == origin
    assert answer.headers[CREDENTIALS] == "true"
    assert answer.headers["access-control-max-age"] == str(MAX_AGE_S)
    assert answer.headers["vary"] == "Origin"
    methods = set(answer.headers["access-control-allow-methods"].split(", "))
    assert methods == {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"}
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert {"authorization", "content-type", "x-api-key", "x-workspace-id"} <= set(allowed)
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("origin", [FOREIGN, f"{OURS}.evil.example", "null", OURS.upper(), "*"])
async def test_a_foreign_page_may_not(browsed: Served, origin: str) -> None:
    for answer in (
        await preflight(browsed.client(), "/api/agents", origin),
        await browsed.client().get("/health", headers={"Origin": origin}),
    ):
        assert not {name for name in answer.headers if name.startswith("access-control-")}
        assert answer.headers["vary"] == "Origin"


async def test_a_page_sees_refusals_of_every_layer(browsed: Served) -> None:
    client, origin = browsed.client(browsed.tenants[0].key), {"Origin": OURS}
    large = "x" * 2_000
    answers = [
        (401, await browsed.client().get("/api/agents", headers=origin)),
        (404, await client.get("/nope", headers=origin)),
        (405, await client.patch("/api/agents", headers=origin)),
        (413, await client.post("/api/agents", content=large, headers=origin)),
        (415, await client.post("/api/agents", headers={**origin, "Content-Encoding": "gzip"})),
        (414, await client.get("/" + "x" * 9_000, headers=origin)),
        (400, await client.get("/%00", headers=origin)),
        (200, await client.get("/api/agents", headers=origin)),
    ]
    for status, answer in answers:
        assert answer.status_code == status, answer.text
        assert answer.headers[ALLOWED] == OURS, status
        assert answer.headers[CREDENTIALS] == "true"
        assert answer.headers["access-control-expose-headers"] == EXPOSED.decode()


async def test_a_page_may_read_the_headers_that_ours_reads() -> None:
    told = EXPOSED.decode().split(", ")
    for name in ("X-Request-ID", "X-Routing-Agent-ID", "X-Event-Position", "ETag", "RateLimit"):
        assert name in told


async def test_without_an_origin_nothing_is_said_of_origins(browsed: Served) -> None:
    answer = await browsed.client().get("/health")
    assert not {name for name in answer.headers if name.startswith("access-control-")}


async def test_widgets_have_a_list_of_their_own_and_never_credentials_of_everybody(
    browsed: Served,
) -> None:
    client = browsed.client()
    shown = await client.get("/api/widget/config", headers={"Origin": WIDGET_SITE})
    assert (shown.status_code, shown.headers[ALLOWED]) == (200, WIDGET_SITE)
    for path, origin in (("/api/widget/config", OURS), ("/health", WIDGET_SITE)):
        assert ALLOWED not in (await client.get(path, headers={"Origin": origin})).headers


async def test_widgets_of_every_site_may_ask_if_none_is_named_but_without_credentials(
    alone: Served,
) -> None:
    alone.app.register(widget)
    for answer in (
        await alone.client().get("/api/widget/config", headers={"Origin": FOREIGN}),
        await preflight(alone.client(), "/api/widget/config", FOREIGN, "GET"),
    ):
        assert answer.headers[ALLOWED] == "*"
        assert CREDENTIALS not in answer.headers


async def test_a_question_for_options_that_is_no_preflight_is_a_request(browsed: Served) -> None:
    answer = await browsed.client().options("/nope", headers={"Origin": OURS})
    assert_problem(answer, 404, "no_such_route")


async def test_by_default_the_original_frontend_may_ask() -> None:
    assert Settings().cors_allow_origins == OURS
