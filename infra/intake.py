"""Projects partitions of the log, whatever comes in first: records of Kafka, or the log itself.

Only positions count. What a checkpoint has passed is skipped; a record that names a predecessor
which has not been seen shows that some are missing, and those are read from the log.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from time import monotonic
from typing import TypeVar

import msgspec
import structlog
from sqlalchemy import Connection, func, select

from domain.catalog import AnyEvent
from domain.events import Recorded, WorkspaceId
from infra.event_store.codec import Codec, Stored
from infra.event_store.store import Log
from infra.event_store.unreadable import Unreadable, readable, workspace_of
from infra.kafka.records import Received, about, partition_of
from infra.parking import Unparker
from infra.projecting import Applier, PartitionLost, Slice
from infra.read_store import will_pass
from projections.projector import checkpoints

BATCH_MAX = 1_000
"""Events projected in one transaction, and rows read from the log at once."""

PAUSE_MIN_S = 0.1
PAUSE_MAX_S = 5.0

T = TypeVar("T")
Guard = Callable[[Connection], None]
Told = Callable[[str, Mapping[int, int]], None]

log = structlog.get_logger(__name__)


class LogRewound(Exception):
    """The log has lost its tail, in a failover or by a restore from an older backup.

    Nothing is projected any more; `automatos rebuild all` makes the read models anew.
    """


class _CommitLost(PartitionLost):
    """A checkpoint is before what was told to be committed."""


@dataclass(slots=True, kw_only=True)
class Place:
    """How far a partition is.

    Attributes:
        done: Position up to which nothing is left to project.
        saved: Position that all checkpoints have reached.
        heard: When something last came in, by the process's own clock.
        at: When the last event that was projected happened.
    """

    guard: Guard
    done: int
    saved: int
    at: datetime | None = None
    heard: float = field(default_factory=monotonic)


class Intake:
    """Belongs to one event loop, and to one task of it at a time.

    Args:
        partitions: How many there are; 1 where the log is not divided.
        told: Hears how far projectors have come.

    Attributes:
        projected: Events that came from the `topic`, and from the `log`.
    """

    def __init__(
        self,
        rows: Log,
        codec: Codec,
        applier: Applier,
        partitions: int,
        *,
        told: Told = lambda _projector, _passed: None,
    ) -> None:
        self._rows = rows
        self._codec = codec
        self._applier = applier
        self._partitions = partitions
        self._told = told
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="projector")
        self._unparker = Unparker(rows, applier.engine, codec, run=self._in_thread)
        self.places: dict[int, Place] = {}
        self.projected: Counter[str] = Counter()

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    async def begin(self, partition: int, guard: Guard = lambda _: None) -> None:
        """Take a partition up where its checkpoints are.

        Raises:
            LogRewound: They are beyond the log's end.
        """
        done = await self._checkpoint(partition)
        before = await self._rows.all(after=done - 1, limit=1) if done else []
        if done and not before:
            raise LogRewound(f"LOG_REWOUND: partition {partition} is projected up to {done}.")
        await self._in_thread(partial(self._applier.take_up, partition, self._of(partition)))
        at = _time(before[0]) if before else None
        self.places[partition] = Place(guard=guard, done=done, saved=done, at=at)

    def _of(self, partition: int) -> Callable[[WorkspaceId], bool]:
        return lambda workspace_id: partition_of(workspace_id, self._partitions) == partition

    def end(self, partition: int) -> None:
        self._applier.put_down(partition)
        self.places.pop(partition, None)

    async def try_again(self) -> None:
        """Project what waits for another try, and whose time has come."""
        await self._unparker.try_again(self._applier)

    async def _checkpoint(self, partition: int) -> int:
        standings = await self._in_thread(partial(self._applier.standings, partition))
        going = [p.name for p in self._applier.going]
        return min((standings[name].position for name in going), default=0)

    async def take_in(self, partition: int, arrivals: Sequence[Received]) -> None:
        """Project what is new among records of one partition, in whatever order they came."""
        place = self.places.get(partition)
        if place is None:
            return
        place.heard = monotonic()
        new: list[Recorded[AnyEvent]] = []
        seen, taken = place.done, 0
        for arrival in arrivals:
            position = arrival.stored.global_position
            if position <= seen or not self._belongs(arrival):
                continue
            recorded = readable(self._codec, arrival.stored)
            damaged = isinstance(recorded.event, Unreadable)
            if arrival.prev <= seen and not damaged:
                new.append(recorded)
                seen, taken = position, taken + 1
                continue
            # Some are missing, or this one is damaged: the log has them whole.
            await self._project(partition, new)
            new = []
            seen = position if damaged else arrival.prev
            await self.catch_up([partition], seen)
            if not damaged:
                new, seen, taken = [recorded], position, taken + 1
        await self._project(partition, new)
        self.projected["topic"] += taken

    def _belongs(self, arrival: Received) -> bool:
        return partition_of(arrival.workspace_id, self._partitions) == arrival.partition

    async def catch_up(self, partitions: Collection[int], upto: int) -> None:
        """Project from the log what some partitions lack up to a position.

        Raises:
            LogRewound: The log does not reach so far.
        """
        held = [n for n in partitions if n in self.places and self.places[n].done < upto]
        after = min((self.places[n].done for n in held), default=upto)
        while after < upto and any(n in self.places for n in held):
            rows = await self._rows.all(after=after, limit=min(BATCH_MAX, upto - after))
            if not rows:
                raise LogRewound(f"LOG_REWOUND: the log ends at {after}, before {upto}.")
            scanned = min(upto, rows[-1].global_position)
            by_partition = self._divided(rows, held, scanned)
            for partition in held:
                events = by_partition[partition]
                await self._project(partition, events, upto=scanned)
                self.projected["log"] += len(events)
            after = scanned

    def _divided(
        self, rows: Iterable[Stored], held: Collection[int], upto: int
    ) -> Mapping[int, list[Recorded[AnyEvent]]]:
        parts: defaultdict[int, list[Recorded[AnyEvent]]] = defaultdict(list)
        for row in rows:
            partition = partition_of(_workspace(row), self._partitions)
            place = self.places.get(partition)
            if place is None or partition not in held:
                continue
            if place.done < row.global_position <= upto:
                parts[partition].append(readable(self._codec, row))
        return parts

    async def _project(
        self, partition: int, events: Sequence[Recorded[AnyEvent]], upto: int = 0
    ) -> None:
        """Project events of a partition, and remember that nothing else is before `upto`."""
        for first in range(0, len(events), BATCH_MAX):
            batch = events[first : first + BATCH_MAX]
            if partition in self.places:
                await self._write(partition, self.places[partition], batch)
        if partition in self.places:
            place = self.places[partition]
            place.done = max(place.done, upto)

    async def settle(self) -> None:
        """Move checkpoints past what is known to hold nothing for them."""
        for partition, place in list(self.places.items()):
            if place.saved < place.done:
                await self._write(partition, place, [], upto=place.done)

    async def _write(
        self,
        partition: int,
        place: Place,
        events: Sequence[Recorded[AnyEvent]],
        upto: int = 0,
    ) -> None:
        part = Slice(events, partition, upto, partial(self._see, partition, place))
        try:
            passed = await self._in_thread(partial(self._applier.apply, part))
        except _CommitLost as error:
            raise LogRewound(
                f"LOG_REWOUND: partition {partition} is no more projected up to {place.saved}."
            ) from error
        except PartitionLost:
            log.info("a partition is somebody else's now", partition=partition)
            self.end(partition)
            return
        place.saved = upto or events[-1].global_position
        place.done = max(place.done, place.saved)
        if events:
            place.at = events[-1].metadata.occurred_at
        for name, each in passed.items():
            self._told(name, {partition: each.position})

    def _see(self, partition: int, place: Place, connection: Connection) -> None:
        """See, within the transaction, that a place is ours, and where we have left it."""
        place.guard(connection)
        reached = select(func.min(checkpoints.c.global_position)).where(
            checkpoints.c.partition == partition,
            checkpoints.c.projector.in_([projector.name for projector in self._applier.going]),
        )
        if place.saved and (connection.scalar(reached) or 0) < place.saved:
            raise _CommitLost(f"{partition}")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Do something with the read models, again and again while a passing fault lasts."""
        pause_s = PAUSE_MIN_S
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
            except Exception as error:
                if not will_pass(error):
                    raise
                log.warning("read models cannot be written; trying again", error=str(error))
            await asyncio.sleep(pause_s)
            pause_s = min(PAUSE_MAX_S, 2 * pause_s)


def _workspace(row: Stored) -> WorkspaceId:
    try:
        return WorkspaceId(about(row).metadata.workspace_id)
    except (msgspec.MsgspecError, ValueError):
        return workspace_of(row)


def _time(row: Stored) -> datetime | None:
    try:
        return datetime.fromisoformat(about(row).metadata.occurred_at)
    except (msgspec.MsgspecError, ValueError):
        return None
