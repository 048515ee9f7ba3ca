"""From a command to its frame in the live stream, over HTTP."""

import asyncio
import os
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter

import uvloop

from benchmarks import servers
from benchmarks.client import HOST, Requests
from benchmarks.measure import Row, Sample, Size, alternate, percentiles
from benchmarks.servers import Served

COMMANDS_PER_S = 300
"""Commands measured for each second that a size gives; they are sent one after the other."""

WARM_UP = 50
WAIT_S = 10.0
TARGET_P99_MS = 15.0


def rows(size: Size) -> Iterator[Row]:
    commands = int(COMMANDS_PER_S * size.seconds)
    systems = {
        "ours": partial(ours, commands=commands),
        "floor": partial(floor, commands=commands),
    }
    found = alternate(size.rounds, systems)
    mine, least = found.middle("ours"), found.middle("floor")
    yield Row(
        what="command sent -> SSE frame at the client: p50 / p99",
        ours=f"{mine.p50_ms:.2f} / {mine.p99_ms:.2f} ms",
        peer=f"{least.p50_ms:.2f} / {least.p99_ms:.2f} ms  floor: raw ASGI, one fsync",
        ratio=least.p99_ms / mine.p99_ms,
        target=f"p99 <= {TARGET_P99_MS:g} ms",
        met=mine.p99_ms <= TARGET_P99_MS,
        cpu=f"{mine.cpu_us:,.0f} / {least.cpu_us:,.0f}",
    )


def ours(folder: Path, *, commands: int) -> Sample:
    with servers.real(folder) as served:
        return _followed(served, commands)


def floor(folder: Path, *, commands: int) -> Sample:
    os.environ["FLOOR_FILE"] = str(folder / "floor")
    with servers.other("floor") as served:
        return _followed(served, commands)


def _followed(served: Served, commands: int) -> Sample:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_follow(served, commands))


async def _follow(served: Served, commands: int) -> Sample:
    frames, follower = await asyncio.open_connection(HOST, served.port)
    follower.write(
        f"GET /api/events/stream HTTP/1.1\r\nHost: {HOST}\r\n"
        f"X-API-Key: {served.key}\r\n\r\n".encode()
    )
    await frames.readuntil(b"\n\n")
    answers, asker = await asyncio.open_connection(HOST, served.port)
    requests = Requests(served.key)
    for request in islice(requests, WARM_UP):
        await once(request, asker, answers, frames)
    cpu_s, began = served.cpu_s(), perf_counter()
    taken = [await once(request, asker, answers, frames) for request in islice(requests, commands)]
    wall, cpu_s = perf_counter() - began, served.cpu_s() - cpu_s
    asker.close()
    follower.close()
    return Sample(commands / wall, cpu_s / commands * 1e6, *percentiles(taken))


async def once(
    request: bytes,
    asker: asyncio.StreamWriter,
    answers: asyncio.StreamReader,
    frames: asyncio.StreamReader,
) -> float:
    """Send a command; tell when the frame of its last event was there, in seconds."""
    name = request.partition(b'"name": "')[2].partition(b'"')[0]
    sent_at = perf_counter()
    asker.write(request)
    async with asyncio.timeout(WAIT_S):
        # The agent's own event is the one with the prompt in it; the name's claim comes first.
        frame = b""
        while name not in frame or b"likeliest" not in frame:
            frame = await frames.readuntil(b"\n\n")
        arrived_at = perf_counter()
        head = (await answers.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await answers.readexactly(length)
    return arrived_at - sent_at
