"""How long `automatos serve` takes until it answers, on a long log and on one just begun."""

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import perf_counter

from benchmarks import history, servers
from benchmarks.client import status
from benchmarks.measure import Row, Sample, Size, alternate, scratch
from infra.composition import build_installation
from infra.settings import Settings

TARGET_S = 5.0


def rows(size: Size) -> Iterator[Row]:
    with scratch() as long, scratch() as short:
        _prepare(long, size.stored)
        _prepare(short, 0)
        systems = {
            "ours": partial(start, existing=long),
            "short": partial(start, existing=short),
        }
        found = alternate(size.rounds, systems)
    mine, other = found.middle("ours"), found.middle("short")
    yield Row(
        what=f"start of `automatos serve` on {size.stored:,} events",
        ours=f"{1 / mine.per_s:.2f} s",
        peer=f"{1 / other.per_s:.2f} s  on a few",
        ratio=found.ratio("ours", "short"),
        target=f"<= {TARGET_S:g} s",
        met=1 / mine.per_s <= TARGET_S,
        cpu=f"{mine.cpu_us:,.0f} / {other.cpu_us:,.0f}",
    )


def start(_: Path, *, existing: Path) -> Sample:
    """From the process's start until its first answer."""
    began = perf_counter()
    with servers.real(existing) as served:
        assert asyncio.run(status(served.port, "/health")) == 200
        taken = perf_counter() - began
        return Sample(1 / taken, served.cpu_s() * 1e6)


def _prepare(folder: Path, count: int) -> None:
    """Make what an installation of so many events leaves: all projected, a key made."""
    history.write_file(folder, count)
    asyncio.run(_project(folder))
    with servers.real(folder):
        pass


async def _project(folder: Path) -> None:
    installation = build_installation(Settings(data_dir=folder))
    await installation.follower.catch_up()
    await installation.stop()
