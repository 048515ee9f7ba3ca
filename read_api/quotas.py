"""How many runs a workspace may have going on at once: one tenant must not take every worker."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from domain.events import WorkspaceId
from projections.runs import run_counts
from read_api.errors import TooManyRuns
from read_api.view import View


class RunPlaces:
    """Admits runs to a workspace's places, one after another in this process: each looks when the
    one before it is recorded. Several processes that look at the same moment may together admit
    one more each.

    Args:
        per_workspace: None for any number.
    """

    def __init__(self, per_workspace: int | None) -> None:
        self._per_workspace = per_workspace
        self._locks: dict[WorkspaceId, asyncio.Lock] = {}
        self._users: Counter[WorkspaceId] = Counter()

    @asynccontextmanager
    async def admitting(self, view: View) -> AsyncGenerator[Callable[[], Awaitable[None]], None]:
        """Give what admits one run, to be asked when it is decided on."""
        if self._per_workspace is None:
            yield _any_number
            return
        async with self._turn(view.workspace_id):
            yield lambda: self._admit(view)

    async def _admit(self, view: View) -> None:
        """Raises:
        TooManyRuns: There is no place.
        """
        await view.fresh("runs")
        going_on = (await view.ask(run_counts)).by_status.get("running", 0)
        if self._per_workspace is not None and going_on >= self._per_workspace:
            raise TooManyRuns(f"A workspace may have {self._per_workspace} runs at once.")

    @asynccontextmanager
    async def _turn(self, workspace_id: WorkspaceId) -> AsyncGenerator[None, None]:
        lock = self._locks.setdefault(workspace_id, asyncio.Lock())
        self._users[workspace_id] += 1
        try:
            async with lock:
                yield
        finally:
            self._users[workspace_id] -= 1
            if not self._users[workspace_id]:
                del self._users[workspace_id], self._locks[workspace_id]


async def _any_number() -> None:
    return
