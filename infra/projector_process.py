"""A process that projects its share of the partitions, from Kafka or from the log alone."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

import psycopg
import structlog
from kafka.errors import KafkaError  # type: ignore[import-untyped]
from psycopg_pool import PoolTimeout
from sqlalchemy import Connection, Engine

from commands.transact import CommandError
from infra.ending import end
from infra.event_store.codec import Codec
from infra.event_store.postgres import PostgresLog
from infra.event_store.store import Log
from infra.intake import Intake, LogRewound, Told
from infra.kafka.checkpoints import Checkpoints, Passed
from infra.kafka.consumer import Feed
from infra.kafka.fork import refuse_fork
from infra.kafka.records import Received, about
from infra.kafka.relay import Wait
from infra.kafka.topic import Topic, TopicDiffers, topic_of
from infra.postgres.heartbeats import Heartbeats, instance_name
from infra.postgres.leases import HELD, Lease, Leases, Pool, open_pool
from infra.postgres.migrations import check_schema
from infra.postgres.reads import open_engine
from infra.postgres.sharing import SHARE_EVERY_S, Shares
from infra.projecting import Applier, PartitionLost
from infra.redis_wakes import RedisWakes
from infra.settings import Settings
from infra.until_stopped import on_signals, until_stopped
from infra.vault import Vault
from projections.projector import Projector

PROCESS = "projector"
EXIT_REFUSED = 2
SILENCE_MAX_S = 5.0
"""How long a partition may say nothing while the log has older events for it."""

POLL_S = 0.2
WATCH_EVERY_S = 1.0
LAG_EVERY_S = 10.0
PAUSE_S = 1.0
QUEUED_MAX = 4
"""Polls of Kafka that may wait to be projected."""

FAULTS: tuple[type[Exception], ...] = (
    KafkaError,
    OSError,
    psycopg.Error,
    PoolTimeout,
    CommandError,
)
"""What may pass. Anything else ends the process."""

_HELD = HELD.replace("SELECT", "SELECT 1", 1)

log = structlog.get_logger(__name__)


class Lag(NamedTuple):
    """How far read models are behind the log, of the partitions held.

    Attributes:
        seconds: Age of the oldest event that may not be projected.
    """

    events: int
    seconds: float


class Source(NamedTuple):
    """Where events come from.

    Attributes:
        changed: A hint that the log has news, which saves waiting.
    """

    rows: Log
    pool: Pool
    codec: Codec
    topic: Topic
    changed: Wait = asyncio.sleep


class ProjectorProcess:
    """Args:
    source: Without servers in its topic, the log is followed itself.
    instance: Names this process, unlike any other.
    """

    def __init__(
        self,
        source: Source,
        engine: Engine,
        projectors: Sequence[Projector],
        *,
        instance: str,
        told: Told = lambda _projector, _passed: None,
    ) -> None:
        self._source = source
        self._applier = Applier(engine, projectors)
        partitions = source.topic.partitions
        self._intake = Intake(source.rows, source.codec, self._applier, partitions, told=told)
        group = ",".join(sorted(projector.name for projector in projectors))
        leases = Leases(source.pool)
        self._shares = Shares(leases, f"projectors/{group}", instance, partitions)
        self._relayed = Checkpoints(source.pool, source.topic)
        self._feed = Feed(source.topic) if source.topic.servers else None
        self._kafka = ThreadPoolExecutor(1, thread_name_prefix="kafka")
        self._arrived: asyncio.Queue[dict[int, list[Received]]] = asyncio.Queue(QUEUED_MAX)
        self._leased: dict[int, Lease] = {}
        self._begun: dict[int, Lease] = {}
        self._heads: list[tuple[float, int]] = []
        self._stopping = asyncio.Event()
        self.lag = Lag(0, 0.0)

    @property
    def held(self) -> list[int]:
        return sorted(self._intake.places)

    @property
    def projected(self) -> Counter[str]:
        """Count the events that came from the topic, and from the log."""
        return self._intake.projected

    @property
    def failed(self) -> dict[str, str]:
        return self._applier.failed

    def stop(self) -> None:
        """Let `run` end after the batch that is being projected."""
        self._stopping.set()

    async def run(self) -> None:
        """Project until `stop`.

        Raises:
            TopicDiffers: Somebody has changed the topic's partitions.
            LogRewound: The log has lost what was projected, or what the topic holds.
        """
        works = [self._project, self._share, *([self._fetch] if self._feed else [])]
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(work()) for work in works]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
            self._stopping.set()
            await tasks[0]
            for task in done - {stopping}:
                task.result()
        finally:
            await self._close([*tasks, stopping])

    async def _close(self, tasks: list[asyncio.Task[Any]]) -> None:
        await end(tasks)
        self._intake.close()
        if self._feed is not None:
            await asyncio.get_running_loop().run_in_executor(self._kafka, self._feed.close)
        self._kafka.shutdown(wait=False)
        with suppress(*FAULTS):
            await self._shares.leave()

    # Sharing.

    async def _share(self) -> None:
        """Hold leases; the projecting task takes up and puts down what they say."""
        while True:
            try:
                await self._shares.look()
            except FAULTS as error:
                log.warning("leases cannot be renewed", error=type(error).__name__)
            self._leased = dict(self._shares.held)
            await asyncio.sleep(SHARE_EVERY_S)

    async def _take_up(self) -> None:
        leased = self._leased
        for partition in [n for n in self._begun if leased.get(n) != self._begun[n]]:
            self._intake.end(partition)
            del self._begun[partition]
        for partition, lease in leased.items():
            if partition not in self._intake.places:
                await self._intake.begin(partition, partial(guard, lease))
                self._begun[partition] = lease

    # Projecting.

    async def _project(self) -> None:
        watched = told = 0.0
        while not self._stopping.is_set():
            try:
                await self._take_up()
                await (self._next() if self._feed else self._follow())
                if monotonic() - watched >= WATCH_EVERY_S:
                    watched = monotonic()
                    await self._watch()
                if monotonic() - told >= LAG_EVERY_S:
                    told = monotonic()
                    log.info("projecting", partitions=self.held, **_spelt(self.lag))
            except FAULTS as error:
                log.warning("projecting is held up", error=repr(error))
                await asyncio.sleep(PAUSE_S)
        with suppress(*FAULTS):
            await self._intake.settle()

    async def _next(self) -> None:
        """Project what Kafka has brought, if anything."""
        try:
            async with asyncio.timeout(POLL_S):
                arrived = await self._arrived.get()
        except TimeoutError:
            return
        for partition, records in arrived.items():
            await self._intake.take_in(partition, records)

    async def _follow(self) -> None:
        """Project what the log has, without Kafka."""
        head = await self._source.rows.head()
        if any(place.done < head for place in self._intake.places.values()):
            await self._intake.catch_up(self.held, head)
        else:
            await self._source.changed(POLL_S)

    async def _fetch(self) -> None:
        assert self._feed is not None
        run = partial(asyncio.get_running_loop().run_in_executor, self._kafka)
        checked = False
        while True:
            wanted = {n: place.at for n, place in self._intake.places.items()}
            if not wanted:
                await asyncio.sleep(POLL_S)
                continue
            try:
                if not checked:
                    await refuse_fork(self._source.rows, self._source.topic)
                    checked = True
                arrived = await run(partial(self._feed.poll, wanted))
            except (LogRewound, TopicDiffers):
                raise
            except Exception as error:  # noqa: BLE001 kafka-python raises what its parts raise
                checked = False
                log.warning("Kafka does not answer", error=repr(error))
                await asyncio.sleep(PAUSE_S)
            else:
                if arrived:
                    await self._arrived.put(arrived)

    # Watching: whether Kafka brings what the log has, and how far behind that is.

    async def _watch(self) -> None:
        head = await self._source.rows.head()
        self._heads = [*self._heads, (monotonic(), head)][-60:]
        if self._applier.failed:
            await self._begin_again()
        relayed = await self._relayed.read()
        silent = self._silent(relayed)
        if silent:
            log.warning("Kafka is silent; reading the log itself", partitions=silent)
            await self._intake.catch_up(silent, head)
        await self._intake.settle()
        await self._intake.try_again()
        await self._measure(head, relayed)

    async def _begin_again(self) -> None:
        """Let projectors that have stopped try again: somebody may have mended what was wrong."""
        self._applier.failed.clear()
        for partition in self.held:
            self._intake.end(partition)
            self._begun.pop(partition, None)

    def _silent(self, relayed: Passed) -> list[int]:
        """Find partitions that lack what has been in the log for a while."""
        if self._feed is None:
            return []
        long_ago = monotonic() - SILENCE_MAX_S
        old = max((head for at, head in self._heads if at <= long_ago), default=0)
        places = self._intake.places.items()
        return [
            n for n, place in places if place.heard <= long_ago and self._complete(n, relayed) < old
        ]

    def _complete(self, partition: int, relayed: Passed) -> int:
        """Tell up to which position a partition has nothing left to project.

        Once all is projected that was ever published to it, that is as far as the relay is.
        """
        done = self._intake.places[partition].done
        if self._feed is None or done < relayed.published[partition]:
            return done
        return max(done, relayed.position)

    async def _measure(self, head: int, relayed: Passed) -> None:
        complete = min((self._complete(n, relayed) for n in self.held), default=head)
        waiting = await self._source.rows.all(after=complete, limit=1) if complete < head else []
        if not waiting:
            self.lag = Lag(0, 0.0)
            return
        oldest = datetime.fromisoformat(about(waiting[0]).metadata.occurred_at)
        age_s = (datetime.now(UTC) - oldest).total_seconds()
        self.lag = Lag(head - complete, max(0.0, age_s))


def guard(lease: Lease, connection: Connection) -> None:
    """See, within the transaction, that the partition is still this instance's."""
    if connection.exec_driver_sql(_HELD, tuple(lease)).first() is None:
        raise PartitionLost(lease.name)


def _spelt(lag: Lag) -> dict[str, float]:
    return {"lag_events": lag.events, "lag_s": round(lag.seconds, 1)}


# The process.


def serve(settings: Settings, projectors: Sequence[Projector]) -> int:
    """Project until SIGTERM; give the exit code."""
    try:
        asyncio.run(_serve(settings, projectors))
    except (LogRewound, TopicDiffers) as error:
        log.critical("the projector refuses to go on", reason=str(error))
        return EXIT_REFUSED
    return 0


async def _serve(settings: Settings, projectors: Sequence[Projector]) -> None:
    url = settings.database_url
    check_schema(url)
    topic = topic_of(settings)
    rows, engine, instance = PostgresLog(url), open_engine(url, pool_size=2), instance_name()
    async with open_pool(url) as pool:
        # Events are only read here: personal fields stay sealed, and no key is needed.
        source = Source(rows, pool, Codec(Vault()), topic)
        wakes = RedisWakes(settings.redis_url) if settings.redis_url else None
        process = ProjectorProcess(
            source,
            engine,
            projectors,
            instance=instance,
            told=wakes.tell_projected if wakes else lambda _projector, _passed: None,
        )
        beside = [Heartbeats(pool).run(PROCESS, instance)]
        if wakes is not None:
            beside.append(wakes.run())
        try:
            await until_stopped(on_signals(), process, *beside)
        finally:
            await rows.close()
            engine.dispose()
