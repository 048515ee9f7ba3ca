"""How far projectors in other processes have come, as PostgreSQL tells it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import NamedTuple

import structlog
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import SQLAlchemyError

from domain.events import WorkspaceId
from infra.kafka.records import partition_of
from projections.projector import parked_slices
from read_api.reads import Reads

LOOK_EVERY_S = 0.02
"""How often checkpoints are read while somebody waits, whoever and how many wait."""

LOOK_GAP_S = 0.005
"""Rest between two looks, however many hints there are."""

REFRESH_S = 1.0
"""How often they are read while nobody waits."""

PARKED_MAX = 10_000
"""Workspaces that are parked and known to be; answers of more are not called stale."""

_LOOK = text(
    """
    SELECT p.name, n.partition, coalesce(c.global_position, 0), r.published, r.passed
    FROM unnest(CAST(:names AS text[])) AS p (name)
    CROSS JOIN generate_series(0, :partitions - 1) AS n (partition)
    LEFT JOIN checkpoints c ON c.projector = p.name AND c.partition = n.partition
    LEFT JOIN relay_checkpoints r ON r.topic = :topic AND r.partition = n.partition
    """
)

_PARKED = select(
    parked_slices.c.projector, parked_slices.c.workspace_id, parked_slices.c.position
).limit(PARKED_MAX)

log = structlog.get_logger(__name__)


class Partitioned(NamedTuple):
    """The topic, as far as progress depends on it."""

    topic: str
    partitions: int


class _Seen(NamedTuple):
    passed: dict[tuple[str, int], int]
    relayed: int | None
    parked: dict[tuple[str, str], int]


def _look(connection: Connection, names: Sequence[str], topic: Partitioned) -> _Seen:
    found = connection.execute(_LOOK, {"names": list(names), **topic._asdict()})
    passed: dict[tuple[str, int], int] = {}
    relayed: list[int | None] = []
    for name, partition, position, published, through in found:
        relayed.append(through)
        # Who has projected all that was published has passed whatever the relay has passed: a
        # partition that is quiet does not lag behind those that are not.
        done = published is not None and position >= published
        passed[name, partition] = max(position, through) if done else position
    known = [through for through in relayed if through is not None]
    # Read after the checkpoints: who parks a workspace passes its event at the same moment.
    parked = {(name, workspace): at for name, workspace, at in connection.execute(_PARKED)}
    return _Seen(passed, min(known) if len(known) == len(relayed) else None, parked)


class PostgresProgress:
    """Implements `read_api.reads.Progress`. Belongs to one event loop.

    One look at the checkpoints serves all who wait. Positions only grow, so what was seen
    once need not be looked at again.

    Attributes:
        failed: Always empty: a projector's process ends with its projector.
        relayed: How far the log is on Kafka; None if nobody has ever told.
    """

    def __init__(self, reads: Reads, topic: Partitioned, projectors: Sequence[str]) -> None:
        self._reads = reads
        self._topic = topic
        self._projectors = tuple(projectors)
        self._passed: dict[tuple[str, int], int] = {}
        self._parked: dict[tuple[str, str], int] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._waiting = 0
        self._looking: asyncio.Task[None] | None = None
        self._hinted = asyncio.Event()
        self._is_blind = False
        self.failed: dict[str, str] = {}
        self.relayed: int | None = None

    def position(self, projector: str) -> int:
        """Tell the position that a projector has passed in every partition."""
        partitions = range(self._topic.partitions)
        return min(self._passed.get((projector, partition), 0) for partition in partitions)

    def parked_counts(self) -> Counter[str]:
        """Count the workspaces that each projector skips, where it skips any."""
        return Counter(projector for projector, _ in self._parked)

    async def reach(
        self, projector: str, workspace_id: WorkspaceId, position: int, /, *, timeout_s: float
    ) -> int:
        place = projector, partition_of(workspace_id, self._topic.partitions)
        await self._until(lambda: self._passed.get(place, 0) >= position, timeout_s)
        parked_at = self._parked.get((projector, workspace_id))
        passed = self._passed.get(place, 0)
        return passed if parked_at is None else min(passed, parked_at - 1)

    async def wait(self, projector: str, position: int, *, timeout_s: float) -> bool:
        """Wait until a projector has passed a position everywhere; False if it takes too long."""
        return await self._until(lambda: self.position(projector) >= position, timeout_s)

    def heard(self, projected: Mapping[str, Mapping[int, int]]) -> None:
        """Have those who wait look at once. What is said is a hint: PostgreSQL knows."""
        for projector, passed in projected.items():
            for partition, position in passed.items():
                if position > self._passed.get((projector, partition), 0):
                    self._hinted.set()

    async def refresh(self) -> None:
        """Read the checkpoints.

        Raises:
            SQLAlchemyError: PostgreSQL does not answer.
        """
        seen = await self._reads.ask(_look, self._projectors, self._topic)
        for place, position in seen.passed.items():
            self._passed[place] = max(position, self._passed.get(place, 0))
        self.relayed, self._parked = seen.relayed, seen.parked
        self._wake()

    async def run(self) -> None:
        """Keep what is told without waiting from growing old; cancel to stop."""
        try:
            while True:
                await self._refreshed()
                await asyncio.sleep(REFRESH_S)
        finally:
            if self._looking is not None:
                self._looking.cancel()

    async def _until(self, passed: Callable[[], bool], timeout_s: float) -> bool:
        deadline = monotonic() + timeout_s
        self._waiting += 1
        try:
            while not passed():
                left = deadline - monotonic()
                if left <= 0:
                    return False
                await self._moved(left)
        finally:
            self._waiting -= 1
        return True

    async def _moved(self, timeout_s: float) -> None:
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_while_waited_for())
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)

    async def _look_while_waited_for(self) -> None:
        try:
            while self._waiting:
                self._hinted.clear()
                await self._refreshed()
                await asyncio.sleep(LOOK_GAP_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S - LOOK_GAP_S):
                        await self._hinted.wait()
        finally:
            self._looking = None

    async def _refreshed(self) -> None:
        """Look; if PostgreSQL does not answer, those who wait learn it from their own query."""
        try:
            await self.refresh()
        except SQLAlchemyError as error:
            if not self._is_blind:
                log.warning("checkpoints cannot be read", error=type(error).__name__)
            self._is_blind = True
        else:
            self._is_blind = False

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
