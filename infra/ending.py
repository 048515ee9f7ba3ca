"""The end of tasks that would go on for ever."""

import asyncio
from collections.abc import Iterable
from typing import Any

import structlog

AGAIN_S = 5.0
"""How long a cancelled task may tidy up before it is cancelled once more."""

CANCELS_MAX = 12
"""After which a task that goes on is left to the end of the process."""

log = structlog.get_logger(__name__)


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait for their end, however they end.

    Once is not enough. Until Python 3.12 `asyncio.wait_for` loses a cancellation that comes in the
    moment its result does (python/cpython#86296), and psycopg's pool waits by it for a connection.
    """
    tasks = list(tasks)
    going_on = set(tasks)
    for _ in range(CANCELS_MAX):
        if not going_on:
            break
        for task in going_on:
            task.cancel()
        _, going_on = await asyncio.wait(going_on, timeout=AGAIN_S)
    for task in going_on:
        log.error("a task does not end", task=task.get_name())
    await asyncio.gather(*(task for task in tasks if task.done()), return_exceptions=True)
