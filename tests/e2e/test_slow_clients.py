"""Clients that never read: they cost next to nothing, are sent away, and come back to the rest."""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from tests.e2e.installation import WAIT_MAX_S, Server, made, serving, until

STREAM = "/api/events/stream"
CLIENTS = 50
EACH_MAX_BYTES = 1024 * 1024
AGENTS = 30
PROMPT = "x" * 200_000
SMALL_BUFFER = 4_096
BEGUN = 5
"""Frames that one of them reads before it stops."""

SENT_AWAY = "a client does not read its stream"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Serve a log that is larger than what a network holds of it."""
    more = dict.fromkeys(("AUTOMATOS_STREAMS_PER_KEY", "AUTOMATOS_STREAMS_PER_WORKSPACE"), "60")
    with serving(tmp_path / "data", LLM_PROVIDER="offline", **more) as started:
        with started.client() as client:
            for number in range(AGENTS):
                made(client, "/api/agents", {"name": f"Agent {number}", "system_prompt": PROMPT})
        yield started


def connected(server: Server, last_event_id: str = "0") -> socket.socket:
    """Ask for the stream, and read nothing."""
    address = urlsplit(server.url)
    assert address.hostname is not None
    assert address.port is not None
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    client.settimeout(WAIT_MAX_S)
    client.connect((address.hostname, address.port))
    head = f"Host: {address.netloc}\r\nX-API-Key: {server.key}\r\nLast-Event-ID: {last_event_id}"
    client.sendall(f"GET {STREAM} HTTP/1.1\r\n{head}\r\n\r\n".encode())
    return client


def rest_of(client: socket.socket) -> bytes:
    """Read what is still there, to the connection's end."""
    received = b""
    try:
        while piece := client.recv(65_536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def whole_frames(received: bytes) -> list[int]:
    """Give the positions of frames that have come whole, as a browser takes them."""
    unchunked = re.sub(rb"(\r\n)?[0-9a-f]+\r\n", b"", received.partition(b"\r\n\r\n")[2])
    whole = unchunked.split(b"\n\n")[:-1]
    return [int(part[4:].partition(b"\n")[0]) for part in whole if part.startswith(b"id: ")]


def streamed(server: Server, last: int, *, until_position: int) -> list[int]:
    """Follow the stream as a client that reads."""
    found: list[int] = []
    with (
        server.client() as client,
        client.stream("GET", STREAM, headers={"Last-Event-ID": str(last)}) as answer,
    ):
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("id: "):
                found.append(int(line[4:]))
                if found[-1] == until_position:
                    break
    return found


def head_of(client: httpx.Client) -> int:
    return int(client.get("/api/events?limit=1").headers["X-Event-Position"])


class Watch:
    """Asks while others are stalled, and notes the most memory that the server takes."""

    def __init__(self, server: Server, client: httpx.Client) -> None:
        self._server, self._client = server, client
        self._process = psutil.Process(server.process.pid)
        self.before = self.most = self._process.memory_info().rss

    def all_sent_away(self) -> bool:
        self.most = max(self.most, self._process.memory_info().rss)
        assert self._client.get("/api/agents?limit=1").status_code == 200
        return self._server.output.count(SENT_AWAY) >= CLIENTS


def test_clients_that_do_not_read_cost_little_are_sent_away_and_come_back_to_the_rest(
    server: Server, record_property: Callable[[str, object], None]
) -> None:
    with server.client() as client, ExitStack() as stack:
        head = head_of(client)
        log = streamed(server, 0, until_position=head)
        watch = Watch(server, client)
        stalled = [stack.enter_context(closing(connected(server))) for _ in range(CLIENTS)]
        received = b""
        while len(whole_frames(received)) < BEGUN:
            received += stalled[0].recv(SMALL_BUFFER)
        new = int(made(client, "/api/agents", {"name": "New"}).headers["X-Event-Position"])
        assert streamed(server, head, until_position=new)[-1] == new
        until(watch.all_sent_away, "all who do not read are sent away")
        seen = whole_frames(received + rest_of(stalled[0]))
        assert BEGUN <= len(seen) < len(log)
        assert seen + streamed(server, seen[-1], until_position=head) == log
        for each in stalled[1:]:
            assert len(rest_of(each)) < AGENTS * len(PROMPT) // 2
    each_bytes = max(0, watch.most - watch.before) // CLIENTS
    record_property("figure", f"stalled stream: {each_bytes // 1024} KiB each")
    assert each_bytes < EACH_MAX_BYTES
