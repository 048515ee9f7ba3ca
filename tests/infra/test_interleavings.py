"""Two writers and a reader of the log, step by step, in every order that there is."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from itertools import combinations
from random import Random, randrange
from typing import Any, Protocol

import pytest
from psycopg import AsyncConnection

from infra.event_store.lane import Append
from infra.event_store.postgres import PostgresLog
from infra.event_store.postgres_batch import APPEND, LOCK, values
from infra.event_store.sqlite import new_row
from infra.postgres.migrations import migrate

WRITER_STEPS = 4
READER_STEPS = 3
ALL = 11_550
SAMPLED = 1_000
READER = "reader"
STEPS = 2 * WRITER_STEPS + READER_STEPS
PAGE = 100

Schedule = Sequence[str]
Step = Callable[[], Coroutine[Any, Any, object]]


def schedules() -> Iterator[Schedule]:
    """Give every order of the steps of writers `a` and `b` and of the reader."""
    places = set(range(STEPS))
    for of_a in combinations(range(STEPS), WRITER_STEPS):
        for of_b in combinations(sorted(places - set(of_a)), WRITER_STEPS):
            yield ["a" if n in of_a else "b" if n in of_b else READER for n in range(STEPS)]


def chosen(size: int, seed: int) -> list[Schedule]:
    every = list(schedules())
    return every if size == ALL else Random(seed).sample(every, size)


class Store(Protocol):
    """Where two writers and a reader meet.

    Attributes:
        locks: The second step of a writer waits for the other one's last.
    """

    locks: bool

    def steps(self, connection: AsyncConnection, number: int, writer: str) -> list[Step]: ...
    async def after(self, position: int) -> list[int]: ...


class Writer:
    """Does one step after another; those that come while one of them waits are parked."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.done = 0
        self.parked = 0
        self.waiting: asyncio.Task[object] | None = None
        self._steps = deque(steps)

    @property
    def locks_next(self) -> bool:
        return self.done == 1

    @property
    def commits_next(self) -> bool:
        return self.done == WRITER_STEPS - 1

    def next(self) -> asyncio.Task[object]:
        self.done += 1
        return asyncio.create_task(self._steps.popleft()())


class Run:
    """Two writers, a reader, and one order of their steps."""

    def __init__(self, store: Store, writers: dict[str, Writer], head: int) -> None:
        self._store = store
        self._writers = writers
        self._holder: Writer | None = None
        self.seen: list[int] = [head]

    async def follow(self, schedule: Schedule) -> list[int]:
        """Take the steps; give the positions that the reader has seen."""
        for who in schedule:
            await (self._poll() if who == READER else self._step(self._writers[who]))
        await self._poll()
        return self.seen[1:]

    async def _poll(self) -> None:
        self.seen += await self._store.after(self.seen[-1])

    async def _step(self, writer: Writer) -> None:
        if writer.waiting is not None:
            writer.parked += 1
        elif not self._store.locks:
            await writer.next()
        elif writer.locks_next and self._holder is not None:
            writer.waiting = writer.next()
        elif writer.locks_next:
            await writer.next()
            self._holder = writer
        elif writer.commits_next:
            await self._commit(writer)
        else:
            await writer.next()

    async def _commit(self, writer: Writer) -> None:
        """End a transaction; let who waits have the lock, and take the steps it has missed."""
        others = [w for w in self._writers.values() if w.waiting is not None]
        assert not any(other.waiting and other.waiting.done() for other in others)
        await writer.next()
        self._holder = next(iter(others), None)
        for other in others:
            assert other.waiting is not None
            await other.waiting
            other.waiting = None
            for _ in range(other.parked):
                await self._step(other)


class TheLog:
    """Implements `Store`: the statements with which the committer writes."""

    locks = True

    def __init__(self, log: PostgresLog) -> None:
        self._log = log

    def steps(self, connection: AsyncConnection, number: int, writer: str) -> list[Step]:
        append = Append([new_row(f"test-acme+{number}-{writer}", 1, "tested", b"{}")])
        return [
            lambda: connection.execute("BEGIN"),
            lambda: connection.execute(LOCK),
            lambda: connection.execute(APPEND, values([append]), prepare=True),
            lambda: connection.execute("COMMIT"),
        ]

    async def after(self, position: int) -> list[int]:
        return [row.global_position for row in await self._log.all(after=position, limit=PAGE)]


class Numbered:
    """Implements `Store` as we do not: positions come from a sequence, and nobody waits."""

    locks = False

    def __init__(self, reader: AsyncConnection) -> None:
        self._reader = reader

    def steps(self, connection: AsyncConnection, number: int, writer: str) -> list[Step]:
        return [
            lambda: connection.execute("BEGIN"),
            lambda: connection.execute("SELECT 1"),
            lambda: connection.execute("INSERT INTO numbered DEFAULT VALUES"),
            lambda: connection.execute("COMMIT"),
        ]

    async def after(self, position: int) -> list[int]:
        query = "SELECT position FROM numbered WHERE position > %s ORDER BY position"
        return [row[0] for row in await (await self._reader.execute(query, (position,))).fetchall()]


@pytest.fixture
def url(postgres_url: str) -> str:
    migrate(postgres_url)
    return postgres_url


@pytest.fixture
async def connections(url: str) -> AsyncIterator[list[AsyncConnection]]:
    opened = [await AsyncConnection.connect(url, autocommit=True) for _ in range(3)]
    yield opened
    for each in opened:
        await each.close()


async def missed(
    store: Store, connections: Sequence[AsyncConnection], chosen: Sequence[Schedule]
) -> Schedule | None:
    """Find an order in which the reader misses, or sees twice, what was committed."""
    for number, schedule in enumerate(chosen):
        head = 2 * number
        writers = {
            name: Writer(store.steps(connection, number, name))
            for name, connection in zip("ab", connections, strict=False)
        }
        if await Run(store, writers, head).follow(schedule) != [head + 1, head + 2]:
            return schedule
    return None


@pytest.mark.parametrize("size", [SAMPLED, pytest.param(ALL, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
async def test_in_no_order_of_steps_does_a_reader_miss_what_two_writers_append(
    url: str,
    connections: list[AsyncConnection],
    record_property: Callable[[str, object], None],
    size: int,
) -> None:
    seed = randrange(2**32)
    log = PostgresLog(url)
    found = await missed(TheLog(log), connections, chosen(size, seed))
    await log.close()
    record_property("figure", f"{size} interleavings, seed {seed}: missed {found}")
    assert found is None, f"seed {seed}"


async def test_the_same_orders_catch_a_log_whose_positions_are_given_out_before_the_commit(
    connections: list[AsyncConnection],
) -> None:
    await connections[2].execute("CREATE TABLE numbered (position bigserial PRIMARY KEY)")
    orders = chosen(SAMPLED, seed=1)
    assert await missed(Numbered(connections[2]), connections, orders) is not None


def test_there_are_as_many_orders_as_there_should_be() -> None:
    assert len({tuple(schedule) for schedule in schedules()}) == ALL
