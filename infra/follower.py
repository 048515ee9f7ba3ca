"""Follows the log and projects it: the embedded installation's projectors, all in one."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from domain.catalog import AnyEvent
from domain.events import Recorded, WorkspaceId
from infra.event_store.store import EventStore
from infra.read_store import positions, projection_thread, will_pass
from projections.projector import Projector, project, project_all

BATCH_MAX = 500
"""Events projected in one transaction."""

GATHER_S = 0.025
"""How long events are gathered for one transaction while no reader waits for them."""

RETRY_S = 1.0
"""Pause while the read models' disk is full, or another process holds their lock."""

CATCH_UP_S = 3.0
"""How long a start or a stop waits for read models; the rest is projected afterwards."""

log = structlog.get_logger(__name__)


class Follower:
    """Implements `read_api.reads.Progress`.

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
        self._touched: dict[str, int] = {}
        self._wanted = asyncio.Event()
        self._held_up = False
        self._ended = False
        self.failed: dict[str, str] = {}

    async def run(self) -> None:
        """Follow for ever; cancel to stop."""
        try:
            while True:
                if not await self._advance():
                    await self._store.changed()
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

    async def reach(
        self, projector: str, _workspace_id: WorkspaceId, position: int, *, timeout_s: float
    ) -> int:
        """Wait as `wait` does; tell the position that the projector has passed by then."""
        if self._positions[projector] < position:
            await self.wait(projector, position, timeout_s=timeout_s)
        return self._positions[projector]

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
        going = [p for p in self._projectors if p.name not in self.failed]
        if not going or self._ended:
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
            self._tell(held_up=True, error=str(error.orig))
            await asyncio.sleep(RETRY_S)
        else:
            self._tell(held_up=False)
        self._wake()
        return True

    def _tell(self, *, held_up: bool, error: str = "") -> None:
        """Log that it does not go on, and that it does again; not every try between."""
        if held_up and not self._held_up:
            log.warning("read models cannot be written; trying again", error=error)
        elif self._held_up and not held_up:
            log.warning("read models are written again")
        self._held_up = held_up

    def _project(self, going: Sequence[Projector], events: Sequence[Recorded[AnyEvent]]) -> None:
        """Project into all read models in one transaction; apart, when one of them fails."""
        try:
            with self._engine.begin() as connection:
                passed = project_all(connection, going, events)
        except Exception as error:
            if will_pass(error):
                raise
            self._project_apart(going, events)
        else:
            for name, (position, touched) in passed.items():
                self._positions[name] = position
                if touched:
                    self._touched[name] = position

    def _project_apart(
        self, going: Sequence[Projector], events: Sequence[Recorded[AnyEvent]]
    ) -> None:
        for projector in going:
            try:
                self._write(projector, events)
            except Exception as error:
                if will_pass(error):
                    raise
                self._write_singly(projector, events)

    def _write(self, projector: Projector, events: Sequence[Recorded[AnyEvent]]) -> None:
        with self._engine.begin() as connection:
            passed = project(connection, projector, events)
        self._positions[projector.name] = self._touched[projector.name] = passed

    def _write_singly(self, projector: Projector, events: Sequence[Recorded[AnyEvent]]) -> None:
        """Go on to the very event at fault, and stop the projector there."""
        for recorded in events:
            try:
                self._write(projector, [recorded])
            except Exception as error:
                if will_pass(error):
                    raise
                at = recorded.global_position
                self.failed[projector.name] = f"event {at}: {type(error).__name__}: {error}"
                log.critical(
                    "a projector has stopped at an event that it cannot project",
                    projector=projector.name,
                    position=at,
                    exc_info=error,
                )
                return

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
