"""No route sees a request that is none, and no body is larger than its route takes."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from litestar import Request, post

from infra.settings import Settings
from read_api.auth import PUBLIC
from read_api.gate import HEADERS_BYTES_MAX, UPLOAD_BYTES_MAX, UPLOADS, URL_BYTES_MAX
from tests.read_api.conftest import WAIT_MAX_S, Served, assert_problem, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY_MAX = 100_000


@post("/unread", opt={PUBLIC: True}, status_code=200)
async def unread() -> dict[str, str]:
    return {}


@post(list(UPLOADS), opt={PUBLIC: True}, status_code=200, request_max_body_size=UPLOAD_BYTES_MAX)
async def uploaded(request: Request) -> int:  # type: ignore[type-arg]
    return sum([len(piece) async for piece in request.stream()])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gated(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("gated"), body_max=BODY_MAX)
    async with serving(settings.data_dir, settings) as made:
        made.app.register(unread)
        made.app.register(uploaded)
        yield made


@pytest.fixture
def client(gated: Served) -> httpx.AsyncClient:
    return gated.client(gated.tenants[0].key)


async def pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(0, size, 10_000):
        yield b" " * 10_000


async def raw(served: Served, request: bytes, *more: bytes) -> tuple[int, dict[str, Any]]:
    """Send bytes as they are; give the status and, if it is a problem, what it says."""
    address = urlsplit(served.url)
    async with asyncio.timeout(WAIT_MAX_S):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(request)
        for each in more:
            writer.write(each)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        writer.close()
    return int(head[9:12]), json.loads(body)


@pytest.mark.parametrize("path", ["/api/workflows", "/unread", "/nope"])
async def test_a_body_that_says_it_is_too_large_is_refused_unread(gated: Served, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY_MAX + 1}\r\n\r\n"
    status, problem = await raw(gated, head.encode())
    assert (status, problem["code"]) == (413, "body_too_large")
    assert problem["detail"] == "Payload too large"


async def test_a_body_in_chunks_is_counted(gated: Served, client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/workflows", content=pieces(BODY_MAX + 20_000))
    assert_problem(answer, 413, "body_too_large")
    # The connection is at its end or goes on with the next request: it does not hang.
    assert (await client.get("/api/workflows")).status_code == 200


async def test_a_body_in_chunks_that_fits_is_taken(client: httpx.AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'{"name": '
        yield b'"In pieces"}'

    assert (await client.post("/api/agents", content=body())).status_code == 201


@pytest.mark.parametrize("path", UPLOADS)
async def test_uploads_may_be_larger(client: httpx.AsyncClient, path: str) -> None:
    size = BODY_MAX + 20_000
    assert (await client.post(path, content=b" " * size)).text == str(size)
    assert (await client.post(path, content=pieces(size))).text == str(size)


async def test_an_upload_that_says_it_is_too_large_is_refused(gated: Served) -> None:
    head = f"POST {UPLOADS[0]} HTTP/1.1\r\nHost: x\r\nContent-Length: {UPLOAD_BYTES_MAX + 1}"
    assert (await raw(gated, f"{head}\r\n\r\n".encode()))[0] == 413


async def test_a_request_without_host_is_refused(gated: Served) -> None:
    for host in (b"", b"Host:\r\n", b"X-Forwarded-Host: a\r\n"):
        status, problem = await raw(gated, b"GET /health HTTP/1.1\r\n" + host + b"\r\n")
        assert (status, problem["code"]) == (400, "bad_header")
        assert problem["errors"][0]["pointer"] == "/header/Host"


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
async def test_an_encoded_body_is_refused(client: httpx.AsyncClient, encoding: str) -> None:
    head = {"Content-Encoding": encoding}
    answer = await client.post("/api/agents", content=b"{}", headers=head)
    assert_problem(answer, 415, "encoded_body")


async def test_a_body_that_says_it_is_not_encoded_is_taken(client: httpx.AsyncClient) -> None:
    head = {"Content-Encoding": "identity"}
    answer = await client.post("/api/agents", json={"name": "Plain"}, headers=head)
    assert answer.status_code == 201


async def test_a_url_has_a_bound(client: httpx.AsyncClient) -> None:
    fits = "/" + "x" * (URL_BYTES_MAX - 4) + "?y="
    assert_problem(await client.get(fits), 404, "no_such_route")
    assert_problem(await client.get(fits + "yz"), 414, "url_too_long")


async def test_headers_have_a_bound(client: httpx.AsyncClient) -> None:
    fits = {"X-Filler": "x" * (HEADERS_BYTES_MAX - 1_000)}
    assert (await client.get("/health", headers=fits)).status_code == 200
    more = {f"X-{number}": "x" * 1_000 for number in range(17)}
    assert_problem(await client.get("/health", headers=more), 431, "headers_too_large")


async def test_a_length_that_is_no_number_is_refused_by_whoever_reads_it_first(
    gated: Served,
) -> None:
    address = urlsplit(gated.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n")
    async with asyncio.timeout(WAIT_MAX_S):
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
