"""What several tasks and processes do together comes out right in whatever order it happens.

Every case runs under many schedules, each drawn from a seed: the order of callbacks, delays,
cut connections, processes that are stopped for a while or end.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from commands.transact import CommandError, StorageUnavailable, Write
from domain.agents import AGENT, AgentTagged
from domain.errors import StreamConflict
from domain.events import StreamId, WorkspaceId
from domain.runs import RUN, Ended, RunId
from infra.event_store.store import EventStore
from infra.kafka.relay import LEASE_S, Relay
from infra.kafka.topic import Topic
from infra.vault import Vault
from read_api.auth import Principal
from read_api.events import EventFilter, follow
from tests.commands.test_run_crashes import History, check
from tests.commands.writing import ACME, Writing, run_stream, step
from tests.contracts.stores import append, tagged
from tests.fakes import NOON, FailingLog, FakeModels, HandClock
from tests.relaying import PARTITIONS, check_complete
from tests.schedules import PROCESS, Process, ScheduledLoop, pause, run, seeds
from tests.simulated import (
    BROKER,
    DATABASE,
    Broker,
    Database,
    SimulatedLeases,
    SimulatedLog,
    simulate,
)

Work = Callable[[ScheduledLoop], Coroutine[Any, Any, object]]

SCHEDULES = pytest.mark.parametrize(
    "count",
    [500, pytest.param(20_000, marks=[pytest.mark.long, pytest.mark.timeout(7_200)])],
    ids=["ci", "long"],
)


@pytest.fixture(autouse=True)
def _simulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    simulate(monkeypatch)
    with capture_logs():
        yield


def check_under_all(work: Work, count: int) -> None:
    for seed in seeds(count):
        run(seed, work)


def database(loop: ScheduledLoop) -> Database:
    made = Database(loop, cut=loop.chance.choice((0.0, 0.1, 0.4)))
    DATABASE.set(made)
    return made


# Group commit: several processes append to the same streams, and some callers go away.

STREAMS = [AGENT.stream_id(ACME, str(n)) for n in range(3)]
WRITERS = 5
APPENDS = 3


class Writers:
    """Callers of two processes, each of whom appends one event after the other.

    Attributes:
        told: Where an append was said to be, by the event's tag.
        refused: Those of which was said that nothing is recorded.
    """

    def __init__(self, loop: ScheduledLoop, streams: list[StreamId] = STREAMS) -> None:
        self.loop = loop
        self.database = database(loop)
        self.stores = [self.store(), self.store()]
        self.streams = streams
        self.told: dict[str, int] = {}
        self.refused: set[str] = set()

    def store(self) -> EventStore:
        return EventStore(SimulatedLog(self.database), VAULT)

    async def write(self) -> None:
        """Append, and have some callers go away."""
        tasks = [asyncio.create_task(self._write(name)) for name in range(WRITERS)]
        for task in tasks:
            if self.loop.chance.random() < 0.2:
                self.loop.call_later(self.loop.delay_s() * 3, task.cancel)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome

    async def _write(self, name: int) -> None:
        store = self.loop.chance.choice(self.stores)
        for number in range(APPENDS):
            stream_id, label = self.loop.chance.choice(self.streams), f"{name}-{number}"
            try:
                # What is cached may be old: then the append is refused.
                fresh = self.loop.chance.random() < 0.7
                version = (await store.load(AGENT, stream_id, fresh=fresh)).version
                event = Write(stream_id, version, [tagged(label)])
                position = await append(store, event, workspace_id=workspace_of(stream_id))
            except StreamConflict:
                self.refused.add(label)
            except StorageUnavailable:
                # After as many lost connections as it puts up with: recorded, or not.
                pass
            else:
                assert position is not None
                self.told[label] = position
            await pause()

    async def close(self) -> None:
        """End when nothing more will be recorded."""
        await asyncio.gather(*(store.aclose() for store in self.stores))
        await self.database.settled()

    async def check(self) -> None:
        rows = await self.store().read_all()
        found = defaultdict[str, list[int]](list)
        versions = Counter[StreamId]()
        for row in rows:
            assert isinstance(row.event, AgentTagged)
            found[row.event.tags[0]].append(row.global_position)
            versions[row.stream_id] += 1
            assert row.stream_version == versions[row.stream_id]
        assert all(len(positions) == 1 for positions in found.values())
        assert {label: [position] for label, position in self.told.items()}.items() <= found.items()
        assert not self.refused & found.keys()

    async def check_caches(self) -> None:
        """See that what processes remember is how the streams were, or are."""
        for store in self.stores:
            for stream_id in self.streams:
                known = await store.load(AGENT, stream_id)
                events = await self.store().read_stream(stream_id, limit=known.version or 1)
                kept: Any = [row.event for row in events]
                folded = AGENT.fold(kept[: known.version])
                assert (known.state, known.version) == (folded, min(known.version, len(events)))


VAULT = Vault()


def workspace_of(stream_id: StreamId) -> WorkspaceId:
    return WorkspaceId(stream_id.removeprefix("agent-").partition("+")[0])


@SCHEDULES
def test_whoever_is_told_of_an_append_finds_it_once_and_whoever_is_refused_does_not(
    count: int,
) -> None:
    async def work(loop: ScheduledLoop) -> None:
        writers = Writers(loop)
        await writers.write()
        await writers.close()
        await writers.check()
        await writers.check_caches()

    check_under_all(work, count)


def test_a_schedule_is_the_same_each_time_it_is_drawn_from_its_seed() -> None:
    async def work(loop: ScheduledLoop) -> None:
        writers = Writers(loop)
        await writers.write()

    traces = [run(seed, work) for seed in (1, 1, 2)]
    assert traces[0] == traces[1] != traces[2]


# The live stream: clients of two processes, which tell each other of appends, mostly.


class Followers:
    """Clients that follow the workspace, hang up at any time, and come back."""

    def __init__(self, writers: Writers) -> None:
        self.writers = writers
        self.loop = writers.loop
        self.ended = False
        self.head = 0

    def connect(self) -> None:
        """Have what is appended in one process told in the other, late or not at all."""
        one, other = self.writers.stores
        one.tell, other.tell = partial(self._tell, other), partial(self._tell, one)

    def _tell(self, other: EventStore, heads: Mapping[WorkspaceId, int]) -> None:
        if self.loop.chance.random() < 0.8:
            self.loop.call_later(self.loop.delay_s(), other.heard, heads)

    async def follow(self, store: EventStore) -> list[int]:
        seen: list[int] = []

        def is_over() -> bool:
            return self.ended and seen[-1:] == [self.head]

        while not is_over():
            frames = follow(
                store,
                Principal(workspace_id=ACME, actor="key:k1"),
                EventFilter(),
                after=seen[-1] if seen else 0,
                closing=is_over,
            )
            await self._read(frames, seen)
        return seen

    async def _read(self, frames: Any, seen: list[int]) -> None:
        """Read some frames, and hang up."""
        left = self.loop.chance.randint(1, 8)
        async with aclosing(frames):
            async for frame in frames:
                seen += positions(frame)
                left -= 1
                if not left:
                    return


def positions(frame: bytes) -> list[int]:
    return [int(line[4:]) for line in frame.splitlines() if line.startswith(b"id: ")]


@SCHEDULES
def test_every_follower_is_sent_every_event_once_and_in_order(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(loop: ScheduledLoop) -> None:
        monkeypatch.setattr("read_api.events.monotonic", loop.time)
        writers = Writers(loop)
        followers = Followers(writers)
        followers.connect()
        following = [asyncio.create_task(followers.follow(store)) for store in writers.stores * 2]
        # At least one event there is, whatever is cut.
        writers.database.cut, cut = 0.0, writers.database.cut
        first = Write(AGENT.stream_id(ACME, "first"), 0, [tagged("first")])
        await append(writers.stores[0], first, workspace_id=ACME)
        writers.database.cut = cut
        await writers.write()
        await writers.close()
        followers.head, followers.ended = writers.database.rows.head_now(), True
        for seen in await asyncio.gather(*following):
            assert seen == list(range(1, followers.head + 1))

    check_under_all(work, count)


# The relay: two of them, stopped, killed and started anew, and a broker that goes away.

RELAYED = [AGENT.stream_id(WorkspaceId(f"acme-{n}"), "ada") for n in range(6)]


class Relays:
    def __init__(self, loop: ScheduledLoop, log: SimulatedLog) -> None:
        self._loop = loop
        self._log = log
        self._relays: list[tuple[Relay, Process, asyncio.Task[None]]] = []

    def start(self) -> None:
        name, process = f"relay {len(self._relays)}", Process()
        topic = Topic("", "events", PARTITIONS)
        relay = Relay(self._log, None, topic, instance=name)  # type: ignore[arg-type]
        token = PROCESS.set(process)
        self._relays.append((relay, process, asyncio.create_task(relay.run())))
        PROCESS.reset(token)

    async def disturb(self) -> None:
        """Stop one beyond its lease, or kill one and start another, some times."""
        for _ in range(4):
            await asyncio.sleep(self._loop.chance.uniform(0, 2 * LEASE_S))
            _, process, task = self._loop.chance.choice(self._relays)
            if self._loop.chance.random() < 0.5:
                process.asleep_until = self._loop.time() + 2 * LEASE_S
            else:
                task.cancel()
                self.start()

    async def end(self) -> None:
        for relay, _, _ in self._relays:
            relay.stop()
        tasks = [task for _, _, task in self._relays]
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome


@SCHEDULES
def test_every_event_gets_onto_the_topic_in_order_whatever_becomes_of_relays(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(loop: ScheduledLoop) -> None:
        monkeypatch.setattr("infra.kafka.relay.monotonic", loop.time)
        broker = Broker(loop, SimulatedLeases(loop))
        BROKER.set(broker)
        writers = Writers(loop, RELAYED)
        relays = Relays(loop, SimulatedLog(writers.database))
        relays.start()
        relays.start()
        await asyncio.gather(writers.write(), relays.disturb())
        await writers.close()
        broker.away, head = 0.0, writers.database.rows.head_now()
        while broker.passed.position < head:  # noqa: ASYNC110 the broker tells nobody
            await asyncio.sleep(1)
        await relays.end()
        rows = await writers.database.rows.all(after=0, limit=head)
        check_complete([one for part in broker.records for one in part], rows)

    check_under_all(work, count)


# Runs: several workers, of which some die, take the steps of the same runs.


class LoopClock(HandClock):
    def __init__(self, loop: ScheduledLoop) -> None:
        super().__init__()
        self._loop = loop

    def __call__(self) -> datetime:
        return NOON + timedelta(seconds=self._loop.time())


class SlowModels(FakeModels):
    async def complete(self, request: Any) -> Any:
        await pause()
        answer = await super().complete(request)
        await pause()
        return answer


class Workers:
    """Processes that advance runs, and now and then die in the middle of it."""

    def __init__(self, loop: ScheduledLoop, side: Writing, models: FakeModels) -> None:
        self._loop = loop
        self._side = side
        self._models = models
        self._names = 0

    async def advance(self, run_id: RunId) -> None:
        """Work on a run until it has ended, in one life after the other."""
        deaths = self._loop.chance.randint(0, 2)
        while True:
            log = FailingLog(SimulatedLog(DATABASE.get()))
            task = asyncio.create_task(self._live(run_id, log))
            if deaths:
                self._loop.call_later(self._loop.chance.uniform(0, 5), kill, log, task)
                deaths -= 1
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()
                return

    async def _live(self, run_id: RunId, log: FailingLog) -> None:
        self._names += 1
        side = Writing(log, beside=self._side)
        process = side.process(self._models, worker=f"worker {self._names}", sole=False)
        while True:
            try:
                until = await process.advance(ACME, run_stream(run_id))
            except CommandError:
                await pause()
                continue
            if until is None:
                return
            left = (until - self._side.clock()).total_seconds()
            await asyncio.sleep(max(left, 0.001))


def kill(log: FailingLog, task: "asyncio.Task[None]") -> None:
    log.dead = True
    task.cancel()


@SCHEDULES
def test_every_run_ends_and_pays_for_no_answer_twice_however_many_work_on_it(count: int) -> None:
    async def work(loop: ScheduledLoop) -> None:
        tables = database(loop)
        cut, tables.cut = tables.cut, 0.0
        side, models = Writing(SimulatedLog(tables)), SlowModels()
        side.clock = LoopClock(loop)
        steps = [await step(side, "a", "{input.of}"), await step(side, "b", "{input.of} again")]
        run_ids = {of: await side.run(*steps, of=of) for of in ("one", "two")}
        tables.cut = cut
        workers = Workers(loop, side, models)
        await asyncio.gather(*(workers.advance(run_id) for run_id in [*run_ids.values()] * 2))
        last = Writing(SimulatedLog(tables), beside=side).store
        for of, run_id in run_ids.items():
            stream_id = run_stream(run_id)
            assert isinstance((await last.load(RUN, stream_id)).state, Ended)
            events = [recorded.event for recorded in await last.read_stream(stream_id)]
            calls = [prompt for prompt in models.prompts if prompt.startswith(of)]
            check(History(events, len(calls)))

    check_under_all(work, count)
