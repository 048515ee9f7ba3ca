"""Copies the log to Kafka. The log is the outbox: nothing else is written with an event.

One relay is active, by lease. Whatever goes wrong, it begins again behind the last position that
was saved after its acknowledgement: so an event may be published twice, and none is left out. A
process that was stopped and goes on as if it still held the lease only repeats what the next one
has published; `prev` of a record follows from the log alone, so the repetition is the same.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from random import uniform
from time import monotonic
from typing import NamedTuple

import psycopg
import structlog
from kafka.errors import KafkaError  # type: ignore[import-untyped]

from commands.transact import CommandError
from infra.ending import end
from infra.event_store.codec import Stored
from infra.event_store.store import Log
from infra.failpoints import failpoint
from infra.kafka.checkpoints import Checkpoints, Passed
from infra.kafka.fork import refuse_fork
from infra.kafka.producer import ACK_WITHIN_S, Ack, Producer, open_producer
from infra.kafka.records import about, partition_of, record
from infra.kafka.topic import Topic, differs, ensure_topic
from infra.postgres.leases import Lease, LeaseLost, Leases, Pool

LEASE_S = 5.0
RENEW_EVERY_S = 1.5

PAGE_ROWS_MAX = 1_000
PAGE_BYTES_MAX = 8 * 1024 * 1024
"""Read ahead at most: three pages are in memory, two on their way and the next."""

POLL_S = 0.2
LAG_EVERY_S = 10.0
PAUSE_MIN_S = 0.1
PAUSE_MAX_S = 10.0

FAULTS: tuple[type[BaseException], ...] = (
    KafkaError,
    OSError,
    psycopg.Error,
    CommandError,
    LeaseLost,
)
"""What passes: then the relay begins again. Anything else ends the process."""

log = structlog.get_logger(__name__)


class Lag(NamedTuple):
    """How far the topic is behind the log.

    Attributes:
        seconds: Age of the oldest event that is not acknowledged.
    """

    events: int
    seconds: float


async def lag(rows: Log, pool: Pool, topic: Topic) -> Lag:
    """Tell the lag, in any process."""
    passed = (await Checkpoints(pool, topic).read()).position
    head = await rows.head()
    waiting = await rows.all(after=passed, limit=1)
    if not waiting:
        return Lag(0, 0.0)
    oldest = datetime.fromisoformat(about(waiting[0]).metadata.occurred_at)
    age = datetime.now(UTC) - oldest
    return Lag(head - passed, max(0.0, age.total_seconds()))


Wait = Callable[[float], Awaitable[object]]
"""Waits until something may have been appended, so many seconds at most."""


class Relay:
    """Args:
    instance: Names this process, unlike any other.
    changed: A hint that saves waiting; the log is read every `POLL_S` all the same.
    """

    def __init__(
        self, rows: Log, pool: Pool, topic: Topic, *, instance: str, changed: Wait = asyncio.sleep
    ) -> None:
        self._rows = rows
        self._pool = pool
        self._topic = topic
        self._instance = instance
        self._changed = changed
        self._leases = Leases(pool)
        self._checkpoints = Checkpoints(pool, topic)
        self._stopping = asyncio.Event()
        self._failures = 0
        self._page_rows = PAGE_ROWS_MAX

    @property
    def lease_name(self) -> str:
        return f"relay/{self._topic.name}"

    def stop(self) -> None:
        """Let `run` end when what is sent is acknowledged and saved."""
        self._stopping.set()

    async def run(self) -> None:
        """Copy until `stop`.

        Raises:
            TopicDiffers: Somebody has changed the topic's partitions.
            LogRewound: The topic holds what the log does not.
        """
        while not self._stopping.is_set():
            try:
                await self._lead_if_free()
            except FAULTS as error:
                self._failures += 1
                pause_s = _pause_s(self._failures)
                log.warning("the relay begins again", error=repr(error), in_s=round(pause_s, 1))
                await self._pause(pause_s)

    async def _pause(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._stopping.wait()

    # Leading: one task keeps the lease, another copies; when one ends, so does the other.

    async def _lead_if_free(self) -> None:
        epoch = await self._leases.take(self.lease_name, self._instance, LEASE_S)
        if epoch is None:
            await self._pause(RENEW_EVERY_S)
            return
        failpoint("relay.after_lease")
        log.info("relaying", topic=self._topic.name, epoch=epoch)
        lease = Lease(self.lease_name, self._instance, epoch)
        tasks = [
            asyncio.create_task(work)
            for work in (self._keep(lease), self._copy(lease), self._tell())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(tasks)
            with suppress(psycopg.Error):
                await self._leases.release(self.lease_name, self._instance)
        for task in done:
            task.result()

    async def _keep(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            epoch = await self._leases.take(lease.name, lease.owner, LEASE_S)
            if epoch != lease.epoch:
                raise LeaseLost(lease.name)

    async def _tell(self) -> None:
        while True:
            behind = await lag(self._rows, self._pool, self._topic)
            log.info("relay", lag_events=behind.events, lag_s=round(behind.seconds, 1))
            await asyncio.sleep(LAG_EVERY_S)

    async def _copy(self, lease: Lease) -> None:
        await ensure_topic(self._pool, self._topic)
        await refuse_fork(self._rows, self._topic)
        passed = await self._checkpoints.read()
        producer = await asyncio.to_thread(open_producer, self._topic.servers, self._topic.access)
        try:
            await self._pass_on(producer, passed, lease)
        finally:
            await asyncio.shield(asyncio.to_thread(producer.drop))

    async def _pass_on(self, producer: Producer, passed: Passed, lease: Lease) -> None:
        """Send page after page; each one while the one before it is acknowledged and saved."""
        settled = asyncio.create_task(_nothing())
        try:
            while not self._stopping.is_set():
                page = await self._page(passed.position)
                if not page:
                    await settled
                    await self._changed(POLL_S)
                    continue
                passed, acks = await self._sent(producer, page, passed)
                await settled
                settled = asyncio.create_task(self._settle(acks, passed, lease))
            await settled
        finally:
            await end([settled])

    async def _sent(
        self, producer: Producer, page: list[Stored], passed: Passed
    ) -> tuple[Passed, list[Ack]]:
        failpoint("relay.before_send")
        published, acks = await asyncio.to_thread(self._send, producer, page, passed.published)
        failpoint("relay.after_send")
        return Passed(page[-1].global_position, published), acks

    async def _settle(self, acks: Sequence[Ack], passed: Passed, lease: Lease) -> None:
        await asyncio.to_thread(_wait_for, acks)
        failpoint("relay.after_ack")
        await self._checkpoints.save(passed, lease)
        failpoint("relay.after_checkpoint")
        self._failures = 0

    async def _page(self, after: int) -> list[Stored]:
        page = await self._rows.all(after=after, limit=self._page_rows)
        size = sum(len(row.body) for row in page)
        if page:
            fitting = len(page) * PAGE_BYTES_MAX // max(1, size)
            self._page_rows = max(1, min(PAGE_ROWS_MAX, fitting))
        return page

    def _refuse_other_partitions(self, producer: Producer) -> None:
        """Look at what the producer has last heard of the topic, which costs nothing."""
        name, partitions = self._topic.name, self._topic.partitions
        known = len(producer.partitions_for(name) or ())
        if known not in (0, partitions):
            raise differs(name, partitions, f"the broker has {known}")

    def _send(
        self, producer: Producer, page: Sequence[Stored], published: Sequence[int]
    ) -> tuple[tuple[int, ...], list[Ack]]:
        """Hand a page to the producer; give the last position of each partition with it."""
        self._refuse_other_partitions(producer)
        name, partitions = self._topic.name, self._topic.partitions
        last, acks = [*published], list[Ack]()
        for row in page:
            said = about(row)
            partition = partition_of(said.metadata.workspace_id, partitions)
            key, value, headers = record(row, said, last[partition])
            acks.append(producer.send(name, value, key=key, headers=headers, partition=partition))
            last[partition] = row.global_position
        return tuple(last), acks


def _wait_for(acks: Sequence[Ack]) -> None:
    """Wait until all of a page is acknowledged. Not by `flush`, which would send what comes
    meanwhile in batches of one.

    Raises:
        KafkaError: Some record is not.
    """
    deadline = monotonic() + ACK_WITHIN_S
    for ack in acks:
        ack.get(max(0.0, deadline - monotonic()))


async def _nothing() -> None:
    """Be what is settled before the first page."""


def _pause_s(failures: int) -> float:
    longest = min(PAUSE_MAX_S, PAUSE_MIN_S * 2 ** min(failures, 10))
    return uniform(PAUSE_MIN_S, longest)  # noqa: S311 no secret
