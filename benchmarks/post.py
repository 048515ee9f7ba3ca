"""`POST /api/agents` of the real server against a route that does nothing."""

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import perf_counter

import uvloop

from benchmarks import servers
from benchmarks.client import load
from benchmarks.measure import Row, Sample, Size, alternate, percentiles
from benchmarks.servers import Served

CONNECTIONS = 64
WARM_UP_S = 0.5
LONGER = 3
"""A server is loaded so many times as long as a store: it settles later."""

TARGET = 0.4


def rows(size: Size) -> Iterator[Row]:
    seconds = LONGER * size.seconds
    systems = {
        "ours": partial(ours, seconds=seconds),
        "no-op Litestar POST": partial(noop, seconds=seconds),
    }
    found = alternate(size.rounds, systems)
    what = f"POST /api/agents, {CONNECTIONS} connections"
    yield found.row(what, "ours", "no-op Litestar POST", target=TARGET)
    mine, other = found.middle("ours"), found.middle("no-op Litestar POST")
    yield Row(
        what=f"{what}: p50 / p99",
        ours=f"{mine.p50_ms:.1f} / {mine.p99_ms:.1f} ms",
        peer=f"{other.p50_ms:.1f} / {other.p99_ms:.1f} ms  no-op Litestar POST",
        ratio=other.p99_ms / mine.p99_ms,
    )


def ours(folder: Path, *, seconds: float) -> Sample:
    with servers.real(folder) as served:
        return _loaded(served, seconds)


def noop(_: Path, *, seconds: float) -> Sample:
    with servers.other("noop") as served:
        return _loaded(served, seconds)


def _loaded(served: Served, seconds: float) -> Sample:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(load(served.port, served.key, CONNECTIONS, WARM_UP_S))
        cpu_s, began = served.cpu_s(), perf_counter()
        taken = runner.run(load(served.port, served.key, CONNECTIONS, seconds))
        wall, cpu_s = perf_counter() - began, served.cpu_s() - cpu_s
    p50_ms, p99_ms = percentiles(taken)
    return Sample(len(taken) / wall, cpu_s / len(taken) * 1e6, p50_ms, p99_ms)
