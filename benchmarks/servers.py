"""Servers, each in a process of its own: the real ones, and three that do as little as can be.

`python -m benchmarks.servers noop|floor|redis` prints its port and serves until SIGTERM.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

import psutil  # type: ignore[import-untyped]
import uvicorn
import uvloop
from litestar import Litestar, post
from litestar.params import JSONBody
from redis.asyncio import Redis

from benchmarks.measure import ROOT
from domain.agents import ModelConfig
from infra.server import BACKLOG, uvicorn_config
from read_api.agents import AgentBody, ModelUsageStats, NewAgent

STOP_S = 30


class Served(NamedTuple):
    """Attributes:
    key: Of the real server; empty for the others, which ask for none.
    """

    port: int
    key: str
    process: psutil.Process

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def real(folder: Path) -> Iterator[Served]:
    """`automatos serve` with the settings it has when nobody sets any."""
    with _process(["infra", "serve"], _environment(folder)) as (process, lines):
        yield _greeted(lines, psutil.Process(process.pid))


@contextmanager
def processes(folder: Path, workers: int, **settings: str) -> Iterator[Served]:
    """`automatos api`, on a database that is there; whoever asks brings a key."""
    # One client that sends all it can is what limits are for.
    limits = ("PER_IP", "PER_PRINCIPAL", "WRITES", "BAD_KEYS")
    settings |= {f"AUTOMATOS_RATE_LIMIT_{name}": "0" for name in limits}
    # Nobody reads what they log.
    env = (
        _environment(folder) | settings | {"LOG_LEVEL": "ERROR", "AUTOMATOS_KAFKA_PARTITIONS": "1"}
    )
    with _process(["infra", "api", "--workers", str(workers)], env) as (process, lines):
        port = int(lines.readline().rpartition(":")[2])
        yield Served(port, "", psutil.Process(process.pid))


def _environment(folder: Path) -> dict[str, str]:
    ours = ("AUTOMATOS_", "LLM_", "LOG_LEVEL")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return env | {"DATA_DIR": str(folder), "PORT": "0"}


@contextmanager
def other(name: str) -> Iterator[Served]:
    with _process(["benchmarks.servers", name], dict(os.environ)) as (process, lines):
        yield Served(int(lines.readline()), "", psutil.Process(process.pid))


def _greeted(lines: IO[str], process: psutil.Process) -> Served:
    port = 0
    for line in lines:
        words = line.split()
        if words[:2] == ["Automatos", "serves"]:
            port = int(words[2].rpartition(":")[2])
        if words[:2] == ["API", "key"]:
            return Served(port, words[2], process)
    raise RuntimeError("The server ended before it told its key.")


@contextmanager
def _process(
    module: list[str], env: dict[str, str]
) -> Iterator[tuple["subprocess.Popen[str]", IO[str]]]:
    command = [sys.executable, "-m", *module]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout
    finally:
        process.terminate()
        process.wait(STOP_S)


# The two that do as little as can be.

NOOP_ANSWER = AgentBody(
    id=7_340_112_955_021_313,
    name="agent-000000000001",
    description="Finds the likeliest cause of an incident",
    agent_type="custom",
    status="active",
    configuration={"priority": "high"},
    performance_metrics={},
    tags=("incident", "cause"),
    priority_level="high",
    max_concurrent_tasks=5,
    auto_start=False,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    updated_at=datetime(2026, 1, 1, tzinfo=UTC),
    created_by="key:Zk3v9QmX2b",
    skills=[],
    tools=[],
    plugins=[],
    agent_model_config=ModelConfig(provider="offline", model_id="extractive-bm25"),
    model_usage_stats=ModelUsageStats(),
    system_prompt="Name the likeliest cause and the evidence for it. " * 6,
    source=None,
    version=1,
)


@post("/api/agents")
async def noop(data: JSONBody[NewAgent]) -> AgentBody:
    """Decode a body and answer with another, as Litestar does by itself."""
    del data
    return NOOP_ANSWER


Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Floor:
    """A live stream on nothing but ASGI and one fsync: POST anything, and it is a frame."""

    def __init__(self) -> None:
        self._followers: list[asyncio.Queue[bytes]] = []
        self._file = os.open(os.environ["FLOOR_FILE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["method"] == "POST":
            await self._append(receive, send)
        else:
            await self._follow(receive, send)

    async def _append(self, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        os.write(self._file, body)
        os.fsync(self._file)
        for follower in self._followers:
            follower.put_nowait(b"data: %b\n\n" % body)
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def _follow(self, receive: Receive, send: Send) -> None:
        frames: asyncio.Queue[bytes] = asyncio.Queue()
        self._followers.append(frames)
        leaving = asyncio.create_task(_leave(receive, frames))
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        frame = b": hello\n\n"
        while frame:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
            frame = await frames.get()
        await leaving


async def _leave(receive: Receive, frames: asyncio.Queue[bytes]) -> None:
    """Let a stream end when its client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    frames.put_nowait(b"")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


FLOOR_CHANNEL = "floor"


async def forward(listening: socket.socket) -> None:
    """Pass on what Redis tells to whoever is connected."""
    client = Redis.from_url(os.environ["FLOOR_REDIS"])
    followers: list[asyncio.StreamWriter] = []

    def follow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        followers.append(writer)

    async with client.pubsub() as messages:
        await messages.subscribe(FLOOR_CHANNEL)
        await asyncio.start_server(follow, sock=listening)
        async for message in messages.listen():
            for follower in followers if message["type"] == "message" else []:
                follower.write(message["data"])


def _app(name: str) -> object:
    if name == "noop":
        return Litestar([noop], openapi_config=None, logging_config=None)
    return Floor()


def main(name: str) -> None:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(BACKLOG)
    print(listening.getsockname()[1], flush=True)
    if name == "redis":
        uvloop.run(forward(listening))
    config = uvicorn_config(_app(name))
    config.timeout_graceful_shutdown = 1
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[listening]))


if __name__ == "__main__":
    main(sys.argv[1])
