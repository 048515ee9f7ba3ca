"""Methods that no route names: HEAD and OPTIONS (RFC 9110, 9.3.2 and 9.3.7)."""

import pytest

from infra.settings import Settings
from tests.read_api.conftest import HARDENED, Served, Tenant, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHANGING = {"date", "x-request-id"}
PATHS = ["/api/agents", "/api/agents/1", "/health/live", "/docs", "/api/agents?limit=0", "/nope"]


@pytest.mark.parametrize("path", PATHS)
async def test_head_is_answered_as_get_without_the_body(tenant: Tenant, path: str) -> None:
    got, head = await tenant.http.get(path), await tenant.http.head(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    assert {n: v for n, v in head.headers.items() if n not in CHANGING} == {
        n: v for n, v in got.headers.items() if n not in CHANGING
    }


async def test_head_needs_what_get_needs(served: Served) -> None:
    assert (await served.client().head("/api/agents")).status_code == 401


async def test_head_of_a_live_stream_ends_at_once(served: Served, tenant: Tenant) -> None:
    async def answered() -> bool:
        answer = await tenant.http.head("/api/events/stream")
        assert answer.status_code in {200, 429}
        return answer.headers["content-type"] == "text/event-stream"

    # More than a key may have open: none that goes on would leave room for the last ones.
    for _ in range(2 * Settings().streams_per_key):
        await until(answered)


async def test_a_connection_goes_on_after_head(tenant: Tenant) -> None:
    for _ in range(3):
        assert (await tenant.http.head("/api/agents")).status_code == 200
        assert (await tenant.http.get("/api/agents")).json() == []


async def test_head_of_a_command_is_not_allowed(tenant: Tenant) -> None:
    answer = await tenant.http.head("/api/workflows/1/execute")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "OPTIONS, POST"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/agents", "GET, HEAD, OPTIONS, POST"),
        ("/api/agents/1", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("/api/workflows/1/execute", "OPTIONS, POST"),
        ("/health", "GET, HEAD, OPTIONS"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
async def test_options_tells_every_method_of_a_path_to_anybody(
    served: Served, tenant: Tenant, path: str, allowed: str, *, known: bool
) -> None:
    client = tenant.http if known else served.client()
    answer = await client.options(path)
    assert answer.status_code == 204
    assert answer.headers["allow"] == allowed
    assert answer.content == b""
    for name, value in HARDENED.items():
        assert answer.headers[name] == value, name
