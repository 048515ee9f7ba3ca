"""How a process without a server runs: until it is told to stop, or a part of it fails."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Protocol

from infra.ending import end

STOP_WITHIN_S = 25.0
"""How long a process may take to end what it has begun; the rest is the next one's."""


class Stoppable(Protocol):
    async def run(self) -> None: ...
    def stop(self) -> None:
        """Begin nothing more; `run` then returns by itself."""
        ...


def on_signals() -> asyncio.Event:
    """Give what is set by SIGTERM and SIGINT."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def until_stopped(
    stop: asyncio.Event, process: Stoppable, *beside: Coroutine[Any, Any, None]
) -> None:
    """Run a process, and other things beside it, until told to stop.

    Raises:
        Exception: What made one of them end by itself.
    """
    running, stopping = asyncio.create_task(process.run()), asyncio.create_task(stop.wait())
    others = [asyncio.create_task(work) for work in beside]
    tasks = (running, stopping, *others)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        process.stop()
        await asyncio.wait({running}, timeout=STOP_WITHIN_S)
    finally:
        ended = [task for task in (running, *others) if task.done()]
        await end(tasks)
    for task in ended:
        task.result()
