"""Follows the log and projects it: the embedded installation's projectors, all in one."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TypeVar

import structlog
from sqlalchemy import Engine

from domain.events import WorkspaceId
from infra.event_store.store import EventStore
from infra.event_store.unreadable import readable
from infra.parking import Unparker
from infra.projecting import Applier, Slice
from infra.read_store import projection_thread, will_pass
from projections.projector import Projector

BATCH_MAX = 500
"""Events projected in one transaction."""

GATHER_S = 0.025
"""How long events are gathered for one transaction while no reader waits for them."""

RETRY_S = 1.0
"""Pause while the read models' disk is full, or another process holds their lock."""

CATCH_UP_S = 3.0
"""How long a start or a stop waits for read models; the rest is projected afterwards."""

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Follower:
    """Implements `read_api.reads.Progress`.

    Attributes:
        failed: Projectors that have stopped, with the reason; the others go on.
        parked: Per projector the workspaces that it skips, with the position from which on.
    """

    def __init__(
        self, store: EventStore, engine: Engine, projectors: tuple[Projector, ...]
    ) -> None:
        self._store = store
        store.keep_tail()
        folded = [kind for projector in projectors for kind in projector.folds]
        self._passed_over = store.codec.tags_of_others(folded)
        self._applier = Applier(engine, projectors)
        standings = self._applier.standings()
        self._positions = {name: passed.position for name, passed in standings.items()}
        self._applier.take_up()
        self._thread = projection_thread()
        self._unparker = Unparker(store.log, engine, store.codec, run=self._in_thread)
        self._waiters: set[asyncio.Future[None]] = set()
        self._touched: dict[str, int] = {}
        self._wanted = asyncio.Event()
        self._held_up = False
        self._ended = False
        self.parked = {name: passed.parked for name, passed in standings.items()}
        self.failed = self._applier.failed

    async def run(self) -> None:
        """Follow for ever; cancel to stop."""
        try:
            while True:
                if not await self._advance():
                    await self._store.changed()
                    await self._see_who_is_unparked()
                if self._applier.waiting:
                    await self._try_again()
                await self._gather()
        finally:
            self._ended = True
            self._thread.shutdown(wait=True)

    async def catch_up(self, timeout_s: float = CATCH_UP_S) -> bool:
        """Project all there is, within a bound; False if that took too long."""
        deadline = monotonic() + timeout_s
        while await self._advance():
            if monotonic() >= deadline:
                return False
        return True

    def position(self, projector: str) -> int:
        """Tell the last position a projector has passed."""
        return self._positions[projector]

    def parked_counts(self) -> dict[str, int]:
        """Count the workspaces that each projector skips, where it skips any."""
        return {name: len(found) for name, found in self.parked.items() if found}

    async def reach(
        self, projector: str, workspace_id: WorkspaceId, position: int, *, timeout_s: float
    ) -> int:
        """Wait as `wait` does; tell the position that the projector has passed by then."""
        if self._positions[projector] < position:
            await self.wait(projector, position, timeout_s=timeout_s)
        parked = self.parked[projector].get(workspace_id)
        passed = self._positions[projector]
        return passed if parked is None else min(passed, parked - 1)

    async def wait(self, projector: str, position: int, *, timeout_s: float) -> bool:
        """Wait until a projector has passed a position; False if it takes too long."""
        deadline = monotonic() + timeout_s
        while self._positions[projector] < position:
            self._wanted.set()
            left = deadline - monotonic()
            if left <= 0 or projector in self.failed:
                return False
            await self._moved(left)
        return True

    def touched(self, projector: str) -> int:
        """Tell the position at which a projector last passed an event of a kind that it folds."""
        return self._touched.get(projector, 0)

    async def changed(self, projector: str, seen: int, *, timeout_s: float) -> None:
        """Wait until `touched` tells another position than was seen, or the time is over."""
        deadline = monotonic() + timeout_s
        while self.touched(projector) == seen and (left := deadline - monotonic()) > 0:
            await self._moved(left)

    async def _moved(self, timeout_s: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)

    async def _gather(self) -> None:
        """Let more events come, unless somebody waits for those that are there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S):
                await self._wanted.wait()
        self._wanted.clear()

    async def _advance(self) -> bool:
        """Project the next batch; False when there is none."""
        going = self._applier.going
        if not going or self._ended:
            return False
        after = min(self._positions[p.name] for p in going)
        part = await self._read(after)
        if part is None:
            return False
        try:
            await self._in_thread(partial(self._project, part))
        except Exception as error:
            if not will_pass(error):
                raise
            self._tell(held_up=True, error=str(getattr(error, "orig", error)))
            await asyncio.sleep(RETRY_S)
        else:
            self._tell(held_up=False)
        self._wake()
        return True

    async def _read(self, after: int) -> Slice | None:
        """Read what comes next; what nobody folds is not even decoded."""
        rows = await self._store.rows(after=after, limit=BATCH_MAX)
        if not rows:
            return None
        codec, passed_over = self._store.codec, self._passed_over
        events = [readable(codec, row) for row in rows if row.tag not in passed_over]
        return Slice(events, upto=rows[-1].global_position)

    def _tell(self, *, held_up: bool, error: str = "") -> None:
        """Log that it does not go on, and that it does again; not every try between."""
        if held_up and not self._held_up:
            log.warning("read models cannot be written; trying again", error=error)
        elif self._held_up and not held_up:
            log.warning("read models are written again")
        self._held_up = held_up

    async def _see_who_is_unparked(self) -> None:
        """Another process may have, by `automatos projector retry`."""
        if not any(self.parked.values()):
            return
        for name, passed in (await self._in_thread(self._applier.standings)).items():
            self.parked[name] = passed.parked

    async def _try_again(self) -> None:
        """Project what waits for another try, and whose time has come."""
        try:
            if await self._unparker.try_again(self._applier):
                await self._see_who_is_unparked()
        except Exception as error:
            if not will_pass(error):
                raise
            log.warning("a parked workspace cannot be tried again yet", error=str(error))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _project(self, part: Slice) -> None:
        for name, passed in self._applier.apply(part).items():
            self._positions[name] = passed.position
            self.parked[name] = passed.parked
            if passed.touched:
                self._touched[name] = passed.position

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
