"""PostgreSQL and Kafka as ours see them, in memory and under a `ScheduledLoop`.

They take their time, cut connections on either side of a commit, and refuse; what they have
acknowledged they keep. That is all that is promised of the real ones, too.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import TypeVar

import psycopg
import pytest
from kafka.errors import KafkaTimeoutError  # type: ignore[import-untyped]
from psycopg import errors

from commands.transact import Known
from domain.events import CommandId
from infra.event_store import postgres_writer, store
from infra.event_store.codec import Codec, Stored
from infra.event_store.lane import Append, Written, first_conflict
from infra.event_store.memory import MemoryLog
from infra.event_store.postgres_committer import Committer
from infra.kafka import relay
from infra.kafka.checkpoints import Passed
from infra.kafka.records import Headers, Received, received
from infra.postgres.leases import Lease, LeaseLost
from tests.relaying import PARTITIONS
from tests.schedules import ScheduledLoop, pause

CODECS = 4
PAGE_ROWS = 5
"""So few that several pages are on their way."""

T = TypeVar("T")

CUT = 0.1
"""How often a statement's connection is cut."""


class Database:
    """The log's tables.

    Attributes:
        cut: How often a connection is cut; 0 once faults are to end.
        late: What was sent on a connection that is cut may still be on its way to the lock.
    """

    def __init__(self, loop: ScheduledLoop, cut: float = CUT) -> None:
        self.rows = MemoryLog()
        # Its thread ends here: rows are put in by the transactions below.
        self.rows.close()
        self.cut = cut
        self.late = True
        self._loop = loop
        self._lock = asyncio.Lock()
        self._transactions: set[asyncio.Task[list[Written]]] = set()

    def is_cut(self) -> bool:
        return self._loop.chance.random() < self.cut

    async def committed(self, work: Callable[[], list[Written]]) -> list[Written]:
        """Do something in a transaction, which may go on, or not, when nobody hears of it."""
        asked = asyncio.Event()
        transaction = asyncio.create_task(self._transaction(work, asked))
        self._transactions.add(transaction)
        transaction.add_done_callback(self._ended)
        if not self.late:
            await asked.wait()
        if self.is_cut():
            await pause()
            if self._loop.chance.random() < 0.5:
                transaction.cancel()
            raise psycopg.OperationalError("the connection is lost")
        return await asyncio.shield(transaction)

    async def _transaction(
        self, work: Callable[[], list[Written]], asked: asyncio.Event
    ) -> list[Written]:
        if self.late:
            await pause()
        asked.set()
        async with self._lock:
            await pause()
            written = work()
            await pause()
        await pause()
        return written

    async def settled(self) -> None:
        """Wait until every transaction has ended, those of which nobody hears as well."""
        while self._transactions:
            await asyncio.wait(self._transactions)

    def _ended(self, transaction: "asyncio.Task[list[Written]]") -> None:
        self._transactions.discard(transaction)
        if not transaction.cancelled():
            transaction.exception()

    # What `postgres_batch` does, of which `postgres_writer` knows no more.

    async def insert(self, appends: Sequence[Append]) -> list[Written]:
        def work() -> list[Written]:
            rows = [row for append in appends for row in append.rows]
            ids = Counter(append.command.command_id for append in appends if append.command)
            if first_conflict(rows, self._version) or any(
                self._known(command_id) or count > 1 for command_id, count in ids.items()
            ):
                raise errors.UniqueViolation
            return self.rows._commit(appends)

        return await self.committed(work)

    async def insert_valid(self, appends: Sequence[Append]) -> list[Written]:
        return await self.committed(lambda: self.rows._commit(appends))

    async def find(self, appends: Sequence[Append]) -> list[list[int] | None]:
        async with self._lock:
            await pause()
            if self.is_cut():
                raise psycopg.OperationalError("the connection is lost")
            return [self._recorded(append) for append in appends]

    def _recorded(self, append: Append) -> list[int] | None:
        if not append.rows:
            return None
        last = append.rows[-1]
        stream = self.rows._streams.get(last.stream_id, [])[: last.stream_version]
        if len(stream) < last.stream_version or stream[-1].body != last.body:
            return None
        end = stream[-1].global_position
        return list(range(end - len(append.rows) + 1, end + 1))

    def _version(self, stream_id: str) -> int:
        return len(self.rows._streams.get(stream_id, ()))

    def _known(self, command_id: CommandId) -> bool:
        return command_id in self.rows._commands


class _Connection:
    """To one database, for the committer of one process."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.closed = False

    async def execute(self, *_: object) -> None:
        await pause()

    async def close(self) -> None:
        self.closed = True


class _Driver:
    """In `BoundedConnection`'s place: connects to the database that its process has."""

    async def connect(self, *_: object, **__: object) -> _Connection:
        await pause()
        return _Connection(DATABASE.get())


class _Batch:
    """In `postgres_batch`'s place."""

    async def prepare(self, _: _Connection) -> None:
        await pause()

    async def insert(self, connection: _Connection, appends: Sequence[Append]) -> list[Written]:
        return await connection.database.insert(appends)

    async def insert_valid(
        self, connection: _Connection, appends: Sequence[Append]
    ) -> list[Written]:
        return await connection.database.insert_valid(appends)

    async def find(
        self, connection: _Connection, appends: Sequence[Append]
    ) -> list[list[int] | None]:
        return await connection.database.find(appends)


class SimulatedLog:
    """Implements `infra.event_store.store.Log`: our committer, before a database in memory."""

    def __init__(self, database: Database) -> None:
        self._rows = database.rows
        self._committer = Committer("", _unexpected)
        self.submit = self._committer.submit
        self.close = self._committer.close

    async def stream(self, stream_id: str, *, after: int, limit: int) -> list[Stored]:
        return await _answered(partial(self._rows.stream, stream_id, after=after, limit=limit))

    async def bodies(self, stream_id: str, *, after: int, limit: int) -> list[bytes]:
        return await _answered(partial(self._rows.bodies, stream_id, after=after, limit=limit))

    async def all(self, *, after: int, limit: int) -> list[Stored]:
        return await _answered(partial(self._rows.all, after=after, limit=limit))

    async def workspace(self, workspace_id: str, *, after: int, limit: int) -> list[Stored]:
        return await _answered(
            partial(self._rows.workspace, workspace_id, after=after, limit=limit)
        )

    async def head(self) -> int:
        return await _answered(self._rows.head)

    async def workspace_head(self, workspace_id: str) -> int:
        return await _answered(partial(self._rows.workspace_head, workspace_id))

    async def command(self, command_id: CommandId) -> Known | None:
        return await _answered(partial(self._rows.command, command_id))

    async def blob(self, workspace_id: str, address: str) -> bytes | None:
        return await _answered(partial(self._rows.blob, workspace_id, address))


async def _answered(question: Callable[[], Awaitable[T]]) -> T:
    """Ask at some moment, and have the answer at a later one."""
    await pause()
    answer = await question()
    await pause()
    return answer


def _unexpected(error: Exception) -> None:
    raise error


# What the relay needs beside the log.


class SimulatedLeases:
    """As `infra.postgres.leases`: one table, by the database's clock."""

    def __init__(self, loop: ScheduledLoop) -> None:
        self._loop = loop
        self._held: dict[str, tuple[Lease, float]] = {}

    async def take(self, name: str, owner: str, ttl_s: float) -> int | None:
        await pause()
        now = self._loop.time()
        lease, expires_at = self._held.get(name, (Lease(name, owner, 0), -1.0))
        if lease.owner != owner and expires_at > now:
            return None
        same = lease.owner == owner and expires_at > now
        epoch = lease.epoch if same else lease.epoch + 1
        self._held[name] = Lease(name, owner, epoch), now + ttl_s
        await pause()
        return epoch

    async def release(self, name: str, owner: str) -> None:
        await pause()
        lease, _ = self._held[name]
        if lease.owner == owner:
            self._held[name] = lease, self._loop.time()

    def holds(self, lease: Lease) -> bool:
        """Tell whether nobody has taken it since; it may have run out."""
        return self._held[lease.name][0] == lease


class _Ack:
    def __init__(self, broker: "Broker", producer: "SimulatedProducer", partition: int) -> None:
        self._broker, self._producer, self._partition = broker, producer, partition
        self.is_there = False

    def get(self, timeout: float) -> object:
        """Be told that the broker has it, and all of its partition before it."""
        if self._broker.is_away() or self._producer.is_dropped:
            raise KafkaTimeoutError
        while not self.is_there:
            self._producer.deliver(self._partition)
        return None


class Broker:
    """A topic, and how far it was copied.

    Attributes:
        records: What is on the topic, of each partition in its order.
        away: How often an acknowledgement or a checkpoint does not come.
    """

    def __init__(self, loop: ScheduledLoop, leases: SimulatedLeases) -> None:
        self.records: list[list[Received]] = [[] for _ in range(PARTITIONS)]
        self.away = 0.05
        self.passed = Passed(0, (0,) * PARTITIONS)
        self.chance = loop.chance
        self.leases = leases

    def is_away(self) -> bool:
        return self.chance.random() < self.away

    @property
    def positions(self) -> set[int]:
        return {one.stored.global_position for part in self.records for one in part}


class SimulatedProducer:
    """Implements `infra.kafka.producer.Producer`: idempotent, and in order per partition."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._waiting: list[list[tuple[_Ack, Received]]] = [[] for _ in range(PARTITIONS)]
        self.is_dropped = False

    def send(
        self, topic: str, value: bytes, *, key: bytes, headers: Headers, partition: int
    ) -> _Ack:
        ack = _Ack(self._broker, self, partition)
        self._waiting[partition].append((ack, received(partition, key, value, headers)))
        return ack

    def deliver(self, partition: int) -> None:
        ack, record = self._waiting[partition].pop(0)
        self._broker.records[partition].append(record)
        ack.is_there = True

    def partitions_for(self, topic: str) -> set[int] | None:
        return set(range(PARTITIONS))

    def drop(self) -> None:
        """Let some of what waits get through, and forget the rest."""
        self.is_dropped = True
        for partition, waiting in enumerate(self._waiting):
            for _ in range(self._broker.chance.randint(0, len(waiting))):
                self.deliver(partition)


class SimulatedCheckpoints:
    """As `infra.kafka.checkpoints`, and sees that nothing is passed that is not on the topic."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def read(self) -> Passed:
        await pause()
        return self._broker.passed

    async def save(self, passed: Passed, lease: Lease) -> None:
        await pause()
        if self._broker.is_away():
            raise psycopg.OperationalError("the connection is lost")
        if not self._broker.leases.holds(lease):
            raise LeaseLost(lease.name)
        missing = set(range(1, passed.position + 1)) - self._broker.positions
        assert not missing, f"{missing} are passed, and not on the topic"
        assert passed.position >= self._broker.passed.position
        self._broker.passed = passed
        await pause()
        if self._broker.is_away():
            raise psycopg.OperationalError("the connection is lost")


# Putting them in the places of the real ones.

DATABASE: ContextVar[Database] = ContextVar("database")
BROKER: ContextVar[Broker] = ContextVar("broker")


async def _no_fork(*_: object) -> None:
    """The simulated log loses nothing."""


def simulate(patch: pytest.MonkeyPatch) -> None:
    """Have our code talk to `DATABASE` and `BROKER` of the context that it runs in."""
    # Making one takes longer than a whole schedule.
    patch.setattr(store, "Codec", lru_cache(maxsize=CODECS)(Codec))
    patch.setattr(postgres_writer, "batch", _Batch())
    patch.setattr(postgres_writer, "BoundedConnection", _Driver())
    patch.setattr(relay, "Leases", lambda _: BROKER.get().leases)
    patch.setattr(relay, "refuse_fork", _no_fork)
    patch.setattr(relay, "Checkpoints", lambda *_: SimulatedCheckpoints(BROKER.get()))
    patch.setattr(relay, "ensure_topic", _nothing)
    patch.setattr(relay, "open_producer", lambda *_: SimulatedProducer(BROKER.get()))
    patch.setattr(relay, "PAGE_ROWS_MAX", PAGE_ROWS)


async def _nothing(*_: object) -> None:
    """Make no topic."""
