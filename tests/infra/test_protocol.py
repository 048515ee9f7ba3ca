"""Who does not finish its request is told so, and gets no connection to keep."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from infra import protocol
from tests.read_api.conftest import WAIT_MAX_S, Served, serving

HEAD = b"POST /api/agents HTTP/1.1\r\nHost: x\r\nContent-Length: 21\r\n"


@pytest.fixture
async def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    monkeypatch.setattr(protocol, "HEAD_MAX_S", 0.3)
    monkeypatch.setattr(protocol, "BODY_MAX_S", 0.3)
    monkeypatch.setattr(protocol, "LOOK_S", 0.02)
    async with serving(tmp_path) as made:
        yield made


async def answered(served: Served, *sent: bytes) -> bytes:
    """Send bytes; give all that comes until the server ends the connection."""
    address = urlsplit(served.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        async with asyncio.timeout(WAIT_MAX_S):
            for each in sent:
                writer.write(each)
                await writer.drain()
            return await reader.read()
    finally:
        writer.close()


def assert_too_slow(answer: bytes) -> None:
    head, _, body = answer.rpartition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n"), answer
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["code"] == "request_too_slow"


@pytest.mark.parametrize("sent", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_does_not_end_is_too_slow(impatient: Served, sent: bytes) -> None:
    assert_too_slow(await answered(impatient, sent))


async def test_a_body_that_does_not_end_is_too_slow_and_records_nothing(
    impatient: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant = impatient.tenants[0]
    key = f"X-API-Key: {tenant.key}\r\n\r\n".encode()
    assert_too_slow(await answered(impatient, HEAD + key + b'{"name": '))
    assert_too_slow(
        await answered(
            impatient,
            HEAD.replace(b"Content-Length: 21", b"Transfer-Encoding: chunked") + key,
            b'9\r\n{"name": \r\n',
        )
    )
    assert (await tenant.http.get("/api/agents")).json() == []
    assert "unexpectedly" not in capsys.readouterr().out


async def test_a_refusal_is_the_only_answer_to_a_body_that_does_not_end(
    impatient: Served,
) -> None:
    answer = await answered(impatient, HEAD + b"\r\n", b"{")
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_who_sends_nothing_of_use_after_an_answer_is_cut_off(impatient: Served) -> None:
    answer = await answered(impatient, b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'{"status":"live"}')


async def test_what_has_arrived_gives_the_rest_more_time(
    impatient: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first byte is worth more time than the test takes.
    monkeypatch.setattr(protocol, "BODY_BYTES_S", 1 / WAIT_MAX_S)
    address = urlsplit(impatient.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    key = f"X-API-Key: {impatient.tenants[0].key}\r\nConnection: close\r\n\r\n".encode()
    writer.write(HEAD + key)
    writer.write(b"{")
    # Meanwhile one that sends nothing is too slow.
    assert_too_slow(await answered(impatient, b"GET /"))
    writer.write(b'"name": "Patience" }')
    async with asyncio.timeout(WAIT_MAX_S):
        assert (await reader.read()).startswith(b"HTTP/1.1 201 ")
    writer.close()


async def test_a_head_without_end_is_too_large(served_once: Served) -> None:
    filler = b"X-Filler: " + b"x" * protocol.HEAD_BYTES_MAX + b"\r\n"
    answer = await answered(served_once, b"GET / HTTP/1.1\r\nHost: x\r\n" + filler)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["code"] == "headers_too_large"


async def test_a_stream_outlasts_every_bound_of_requests(impatient: Served) -> None:
    tenant = impatient.tenants[0]
    await tenant.agent("First")
    async with tenant.http.stream("GET", "/api/events/stream") as answer:
        lines = answer.aiter_lines()
        for name in ("First", "Later"):
            async with asyncio.timeout(WAIT_MAX_S):
                async for line in lines:
                    if f'"{name}"' in line:
                        break
            if name == "First":
                # As long as a request may take at most, told by another connection.
                assert_too_slow(await answered(impatient, b"GET /"))
                await tenant.agent("Later")


@pytest.fixture
async def served_once(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as made:
        yield made
