"""A load generator that costs little: raw HTTP/1.1 over asyncio, one request at a time each."""

import asyncio
import itertools
from collections.abc import Iterator
from time import perf_counter
from typing import cast

HOST = "127.0.0.1"
LATE_MAX_S = 10.0

BODY = (
    b'{"name": "agent-%012d", "description": "Finds the likeliest cause of an incident",'
    b' "agent_type": "custom", "configuration": {"priority": "high"},'
    b' "tags": ["incident", "cause"], "system_prompt": "'
    + b"Name the likeliest cause and the evidence for it. " * 6
    + b'"}'
)

_numbers = itertools.count(1)


class Requests:
    """Spells `POST /api/agents` again and again, each time for another name."""

    def __init__(self, key: str) -> None:
        head = (
            f"POST /api/agents HTTP/1.1\r\nHost: {HOST}\r\nX-API-Key: {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(BODY % 0)}\r\n\r\n"
        )
        self._text = head.encode().replace(b"%", b"%%") + BODY

    def __iter__(self) -> Iterator[bytes]:
        return (self._text % number for number in _numbers)


class Connection(asyncio.Protocol):
    """Sends the next request when the last one is answered, until the deadline."""

    def __init__(self, requests: Requests, deadline: float) -> None:
        self._requests = iter(requests)
        self._deadline = deadline
        self._arrived = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None
        self.seconds: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by isinstance
        self._send()

    def data_received(self, data: bytes) -> None:
        self._arrived += data
        if not _is_whole(self._arrived):
            return
        now = perf_counter()
        if not self._arrived.startswith(b"HTTP/1.1 201"):
            self._end(RuntimeError(self._arrived.decode()))
            return
        self.seconds.append(now - self._sent_at)
        if now >= self._deadline:
            self._end()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionError("The server closed the connection."))

    def _send(self) -> None:
        assert self._transport is not None
        self._arrived, self._sent_at = b"", perf_counter()
        self._transport.write(next(self._requests))

    def _end(self, error: Exception | None = None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
        assert self._transport is not None
        self._transport.close()


async def load(port: int, key: str, connections: int, seconds: float) -> list[float]:
    """Keep a server busy; tell how long each request took, in seconds."""
    loop, deadline = asyncio.get_running_loop(), perf_counter() + seconds
    requests = Requests(key)
    opened = [
        (await loop.create_connection(lambda: Connection(requests, deadline), HOST, port))[1]
        for _ in range(connections)
    ]
    async with asyncio.timeout(seconds + LATE_MAX_S):
        await asyncio.gather(*(connection.done for connection in opened))
    return [taken for connection in opened for taken in connection.seconds]


async def status(port: int, path: str) -> int:
    """Ask once on a connection of its own."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
    line = await reader.readline()
    writer.close()
    return int(line.split()[1])


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    _, _, length = head.lower().partition(b"content-length: ")
    return len(body) >= int(length.partition(b"\r\n")[0])
