"""Follows the log and projects it: the embedded installation's projectors, all in one."""

import asyncio
from collections.abc import Sequence
from time import monotonic

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from domain.catalog import AnyEvent
from domain.events import Recorded
from infra.event_store.store import EventStore
from infra.read_store import positions, projection_thread
from projections.projector import Projector, project

BATCH_MAX = 500
"""Events projected in one transaction."""

RETRY_S = 1.0
"""Pause while the read models' disk is full, or another process holds their lock."""

log = structlog.get_logger(__name__)


class Follower:
    """Implements `read_api.freshness.Progress`.

    A projector that fails on an event stops there and is reported; the others go on.
    """

    def __init__(
        self, store: EventStore, engine: Engine, projectors: tuple[Projector, ...]
    ) -> None:
        self._store = store
        self._engine = engine
        self._projectors = projectors
        self._positions = positions(engine, projectors)
        self._thread = projection_thread()
        self._waiters: set[asyncio.Future[None]] = set()
        self.failed: dict[str, str] = {}

    async def run(self) -> None:
        """Follow for ever; cancel to stop."""
        try:
            while True:
                if not await self._advance():
                    await self._store.changed()
        finally:
            self._thread.shutdown(wait=True)

    async def catch_up(self) -> None:
        """Project all there is, then return."""
        while await self._advance():
            pass

    def position(self, projector: str) -> int:
        """Tell the last position a projector has passed."""
        return self._positions[projector]

    async def wait(self, projector: str, position: int, *, timeout_s: float) -> bool:
        """Wait until a projector has passed a position; False if it takes too long."""
        deadline = monotonic() + timeout_s
        while self._positions[projector] < position:
            left = deadline - monotonic()
            if left <= 0 or projector in self.failed:
                return False
            await self._moved(left)
        return True

    async def changed(self, timeout_s: float) -> None:
        """Wait until a projector moves, or the time is over."""
        await self._moved(timeout_s)

    async def _moved(self, timeout_s: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)

    async def _advance(self) -> bool:
        """Project the next batch; False when there is none."""
        going = [p for p in self._projectors if p.name not in self.failed]
        if not going:
            return False
        after = min(self._positions[p.name] for p in going)
        events = await self._store.read_all(after=after, limit=BATCH_MAX)
        if not events:
            return False
        try:
            await asyncio.get_running_loop().run_in_executor(
                self._thread, self._project, going, events
            )
        except OperationalError as error:
            log.warning("read models cannot be written; trying again", error=str(error.orig))
            await asyncio.sleep(RETRY_S)
        self._wake()
        return True

    def _project(self, going: Sequence[Projector], events: Sequence[Recorded[AnyEvent]]) -> None:
        for projector in going:
            try:
                with self._engine.begin() as connection:
                    passed = project(connection, projector, events)
            except OperationalError:
                raise
            except Exception as error:
                self.failed[projector.name] = f"{type(error).__name__}: {error}"
                log.critical(
                    "a projector has stopped at an event that it cannot project",
                    projector=projector.name,
                    after=self._positions[projector.name],
                    exc_info=error,
                )
            else:
                self._positions[projector.name] = passed

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
