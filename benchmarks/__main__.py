"""`python -m benchmarks [--long] [--only NAME]`: measure, print a table, judge nothing."""

import argparse
import os
import platform
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress

import structlog
from rich.console import Console
from rich.table import Table

from benchmarks import (
    append,
    append_grown,
    append_postgres,
    live,
    live_processes,
    load,
    post,
    projecting,
    projecting_postgres,
    rebuilding,
    relaying,
    startup,
)
from benchmarks.measure import LONG, QUICK, SCRATCH, Row, Size, StolenTime

PARTS: dict[str, Callable[[Size], Iterator[Row]]] = {
    "append": append.rows,
    "append-postgres": append_postgres.rows,
    "post": post.rows,
    "load": load.rows,
    "live": live.rows,
    "project": projecting.rows,
    "project-postgres": projecting_postgres.rows,
    "start": startup.rows,
    "relay": relaying.rows,
    "live-processes": live_processes.rows,
    "rebuild": rebuilding.rows,
    "append-grown": append_grown.rows,
}

PLAIN_WIDTH = 200
"""Columns where the output is no terminal."""

MISSED = "BELOW"

out = Console(highlight=False)
if not out.is_terminal:
    out = Console(highlight=False, width=PLAIN_WIDTH)
notes = Console(stderr=True, highlight=False)


def main() -> None:
    arguments = _arguments()
    size = LONG if arguments.long else QUICK
    # The servers tell of themselves on stdout, and the follower here need not.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    rows: list[Row] = []
    stolen = StolenTime()
    try:
        for name in [arguments.only] if arguments.only else PARTS:
            notes.print(f"measuring: {name}, {size.rounds} rounds")
            rows += PARTS[name](size)
    finally:
        with suppress(OSError):  # Another run may be using it.
            SCRATCH.rmdir()
    _show(rows, stolen.share())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--long", action="store_true", help="larger sizes, more rounds")
    parser.add_argument("--only", choices=PARTS, help="measure one part only")
    return parser.parse_args()


def _show(rows: list[Row], stolen: float) -> None:
    table = Table("", "what", "ours", "peer", caption=_machine(stolen), caption_justify="left")
    for heading in ("ratio", "target", "CPU µs per operation"):
        table.add_column(heading, justify="right")
    for row in rows:
        style = "bold red" if row.met is False else None
        table.add_row(_mark(row), row.what, row.ours, row.peer, *_figures(row), style=style)
    out.print(table)
    missed = [row for row in rows if row.met is False]
    if missed:
        out.print("Below target in this run:")
    for row in missed:
        ratio, target, _ = _figures(row)
        out.print(f"  {row.what}: {row.ours}, ratio {ratio}, target {target}", markup=False)


def _mark(row: Row) -> str:
    return {None: "", True: "ok", False: MISSED}[row.met]


def _figures(row: Row) -> tuple[str, str, str]:
    if row.ratio is None:
        return "", row.target, row.cpu
    ratio = f"{row.ratio:.2f}x" if row.ratio < 10 else f"{row.ratio:,.0f}x"
    return ratio, row.target, row.cpu


def _machine(stolen: float) -> str:
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} CPUs, {stolen:.0%} of their time taken by the hypervisor,"
        f" load {load:.1f} at the end, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}. CPU: ours / peer. Only ratios count: see README.md."
    )


if __name__ == "__main__":
    main()
