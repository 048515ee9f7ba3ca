"""From a command at one API process to its frame at a stream of another one, told by Redis."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

import psutil  # type: ignore[import-untyped]
import psycopg
import uvloop
from redis.asyncio import Redis

from benchmarks import servers
from benchmarks.client import HOST, Requests, status
from benchmarks.events import WORKSPACE
from benchmarks.live import COMMANDS_PER_S, WAIT_S, WARM_UP, once
from benchmarks.measure import Row, Sample, Size, alternate, percentiles
from infra.composition import PROJECTORS
from infra.follower import Follower
from infra.postgres.migrations import migrate
from infra.postgres.reads import open_engine
from infra.settings import Settings
from infra.writing import build_writing
from tests.servers.postgres import postgres
from tests.servers.redis import redis

WORKERS = 2
TRIES_MAX = 200
"""Connections opened until two lead to different processes."""

TARGET_P99_MS = 40.0


class Sides(NamedTuple):
    """Attributes:
    frames: Of a stream that one process serves.
    answers, asker: A connection to the other one.
    """

    frames: asyncio.StreamReader
    answers: asyncio.StreamReader
    asker: asyncio.StreamWriter


def rows(size: Size) -> Iterator[Row]:
    commands = int(COMMANDS_PER_S * size.seconds)
    # The servers share this machine's processors with those who ask them.
    with ExitStack() as stack:
        database = stack.enter_context(postgres(settings={"shared_buffers": "256MB"}))
        wakes = stack.enter_context(redis(appendfsync="no"))
        systems = {
            "ours": partial(ours, database=database.url, redis=wakes.url, commands=commands),
            "floor": partial(floor, redis=wakes.url, messages=commands),
        }
        found = alternate(size.rounds, systems)
    mine, least = found.middle("ours"), found.middle("floor")
    yield Row(
        what="command sent -> SSE frame, another process, PostgreSQL and Redis: p50 / p99",
        ours=f"{mine.p50_ms:.2f} / {mine.p99_ms:.2f} ms",
        peer=f"{least.p50_ms:.2f} / {least.p99_ms:.2f} ms  floor: Redis to a socket",
        ratio=least.p99_ms / mine.p99_ms,
        target=f"p99 <= {TARGET_P99_MS:g} ms",
        met=mine.p99_ms <= TARGET_P99_MS,
        cpu=f"{mine.cpu_us:,.0f} / {least.cpu_us:,.0f}",
    )


def ours(folder: Path, *, database: str, redis: str, commands: int) -> Sample:
    name = f"bench_{uuid4().hex}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    url = urlsplit(database)._replace(path=f"/{name}").geturl()
    migrate(url)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        key = runner.run(_key(folder, url))
        with servers.processes(folder, WORKERS, DATABASE_URL=url, REDIS_URL=redis) as served:
            return runner.run(_measured(served._replace(key=key), commands))


async def _key(folder: Path, url: str) -> str:
    """Make a key, and project it: no projector runs while commands are timed, and none is
    waited for.
    """
    writing = build_writing(Settings(data_dir=folder, database_url=url, kafka_partitions=1))
    key = await writing.create_key(WORKSPACE, "bench", "bench")
    engine = open_engine(url)
    await Follower(writing.store, engine, PROJECTORS).catch_up()
    engine.dispose()
    await writing.aclose()
    return key


async def _measured(served: servers.Served, commands: int) -> Sample:
    async with asyncio.timeout(WAIT_S):
        while await status(served.port, "/health/ready") != 200:  # noqa: ASYNC110 it is asked
            await asyncio.sleep(0.05)
    workers = [psutil.Process(child.pid) for child in served.process.children()]
    async with _apart(served, workers) as (frames, answers, asker):
        requests = Requests(served.key)
        for request in islice(requests, WARM_UP):
            await once(request, asker, answers, frames)
        cpu_s, began = _cpu_s(workers), perf_counter()
        taken = [
            await once(request, asker, answers, frames) for request in islice(requests, commands)
        ]
        wall, cpu_s = perf_counter() - began, _cpu_s(workers) - cpu_s
    return Sample(commands / wall, cpu_s / commands * 1e6, *percentiles(taken))


@asynccontextmanager
async def _apart(served: servers.Served, workers: list[psutil.Process]) -> AsyncIterator[Sides]:
    """Open a stream, and connections until one of them leads to another process."""
    frames, follower = await asyncio.open_connection(HOST, served.port)
    follower.write(
        f"GET /api/events/stream HTTP/1.1\r\nHost: {HOST}\r\n"
        f"X-API-Key: {served.key}\r\n\r\n".encode()
    )
    await frames.readuntil(b"\n\n")
    streaming, opened = _server_of(follower, workers), [follower]
    for _ in range(TRIES_MAX):
        answers, asker = await asyncio.open_connection(HOST, served.port)
        opened.append(asker)
        # Whose it is is known once it is answered.
        asker.write(f"GET /health/live HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        await _answered(answers)
        if _server_of(asker, workers) != streaming:
            break
    else:
        raise RuntimeError("One process takes all connections.")
    try:
        yield Sides(frames, answers, asker)
    finally:
        for writer in opened:
            writer.close()


async def _answered(answers: asyncio.StreamReader) -> None:
    head = (await answers.readuntil(b"\r\n\r\n")).lower()
    await answers.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))


def _server_of(writer: asyncio.StreamWriter, workers: list[psutil.Process]) -> int:
    """Tell which process has the other end of a connection."""
    ours = writer.get_extra_info("sockname")[1]
    for worker in workers:
        for connection in worker.net_connections("tcp"):
            if connection.raddr and connection.raddr[1] == ours:
                return int(worker.pid)
    raise RuntimeError("Nobody has the connection.")


def _cpu_s(workers: list[psutil.Process]) -> float:
    return sum(float(sum(worker.cpu_times()[:2])) for worker in workers)


# The floor: a message published here, forwarded by a process to a socket, and read here.


def floor(_: Path, *, redis: str, messages: int) -> Sample:
    os.environ["FLOOR_REDIS"] = redis
    with (
        servers.other("redis") as served,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_told(served, redis, messages))


async def _told(served: servers.Served, redis: str, messages: int) -> Sample:
    heard, teller = await asyncio.open_connection(HOST, served.port)
    await heard.readline()
    client = Redis.from_url(redis)
    cpu_s, began, taken = served.cpu_s(), perf_counter(), list[float]()
    for number in range(messages + WARM_UP):
        sent_at = perf_counter()
        await client.publish(servers.FLOOR_CHANNEL, b"%d\n" % number)
        assert int(await heard.readline()) == number
        taken.append(perf_counter() - sent_at)
    wall, cpu_s = perf_counter() - began, served.cpu_s() - cpu_s
    teller.close()
    await client.aclose()
    return Sample(messages / wall, cpu_s / messages * 1e6, *percentiles(taken[WARM_UP:]))
