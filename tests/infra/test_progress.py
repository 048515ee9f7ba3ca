"""How far projectors of other processes have come: readers wait for it, all with one look."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Concatenate, ParamSpec, TypeVar

import psycopg
import pytest
from sqlalchemy import Connection

from domain.events import WorkspaceId
from infra.kafka.records import partition_of
from infra.postgres.migrations import migrate
from infra.postgres.progress import Partitioned, PostgresProgress
from infra.postgres.reads import PostgresReads
from tests.contracts.stores import WAIT_MAX_S

P = ParamSpec("P")
T = TypeVar("T")

TOPIC = Partitioned("automatos.events", 4)
PROJECTOR, OTHER = "agents", "runs"
ACME = WorkspaceId("acme")
HERE = partition_of(ACME, TOPIC.partitions)
ELSEWHERE = (HERE + 1) % TOPIC.partitions
SOON_S = 0.1


class Counted(PostgresReads):
    """Attributes:
    looks: How often the database was asked.
    """

    looks = 0

    async def ask(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        self.looks += 1
        return await super().ask(query, *args, **kwargs)


class Projectors:
    """The other processes: they move checkpoints."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)

    def passed(self, position: int, partition: int = HERE, projector: str = PROJECTOR) -> None:
        self._connection.execute(
            "INSERT INTO checkpoints VALUES (%s, %s, %s) ON CONFLICT (projector, partition)"
            " DO UPDATE SET global_position = excluded.global_position",
            (projector, partition, position),
        )

    def relayed(self, through: int, *published: int) -> None:
        """Tell of the relay: how far it is, and the last position in each partition."""
        for partition, position in enumerate(published):
            self._connection.execute(
                "INSERT INTO relay_checkpoints VALUES (%s, %s, %s, %s) ON CONFLICT"
                " (topic, partition) DO UPDATE SET published = excluded.published,"
                " passed = excluded.passed",
                (TOPIC.topic, partition, position, through),
            )

    def parked(self, workspace_id: WorkspaceId, position: int) -> None:
        with self._connection.transaction():
            self._connection.execute("SELECT set_config('automatos.workspace', '*', true)")
            self._connection.execute(
                "INSERT INTO parked_slices (projector, workspace_id, position, stream_id, error,"
                " occurred_at) VALUES (%s, %s, %s, 's', 'e', 0)",
                (PROJECTOR, workspace_id, position),
            )

    def unparked(self) -> None:
        with self._connection.transaction():
            self._connection.execute("SELECT set_config('automatos.workspace', '*', true)")
            self._connection.execute("DELETE FROM parked_slices")

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
async def reads(postgres_url: str) -> AsyncIterator[Counted]:
    migrate(postgres_url)
    reads = Counted(postgres_url)
    yield reads
    reads.close()


@pytest.fixture
async def projectors(reads: Counted, postgres_url: str) -> AsyncIterator[Projectors]:
    made = Projectors(postgres_url)
    yield made
    made.close()


@pytest.fixture
def progress(reads: Counted) -> PostgresProgress:
    return PostgresProgress(reads, TOPIC, [PROJECTOR, OTHER])


async def test_a_reader_waits_until_its_workspace_s_partition_has_passed(
    progress: PostgresProgress, projectors: Projectors
) -> None:
    projectors.passed(9)
    reader = asyncio.create_task(progress.reach(PROJECTOR, ACME, 10, timeout_s=WAIT_MAX_S))
    assert await progress.reach(PROJECTOR, ACME, 9, timeout_s=WAIT_MAX_S) == 9
    assert await progress.reach(PROJECTOR, ACME, 10, timeout_s=SOON_S) == 9
    assert not reader.done()
    projectors.passed(12)
    assert await reader == 12


@pytest.mark.parametrize(("partition", "projector"), [(ELSEWHERE, PROJECTOR), (HERE, OTHER)])
async def test_another_partition_or_projector_does_not_count(
    progress: PostgresProgress, projectors: Projectors, partition: int, projector: str
) -> None:
    projectors.passed(100, partition, projector)
    assert await progress.reach(PROJECTOR, ACME, 10, timeout_s=SOON_S) == 0


async def test_what_was_seen_once_is_not_looked_up_again(
    progress: PostgresProgress, projectors: Projectors, reads: Counted
) -> None:
    projectors.passed(12)
    assert await progress.reach(PROJECTOR, ACME, 12, timeout_s=WAIT_MAX_S) == 12
    before = reads.looks
    for position in range(13):
        assert await progress.reach(PROJECTOR, ACME, position, timeout_s=0) == 12
    assert reads.looks == before


async def test_one_look_serves_all_who_wait(
    progress: PostgresProgress, projectors: Projectors, reads: Counted
) -> None:
    readers = [
        asyncio.create_task(progress.reach(PROJECTOR, ACME, 10, timeout_s=WAIT_MAX_S))
        for _ in range(500)
    ]
    await progress.reach(PROJECTOR, ACME, 10, timeout_s=SOON_S)
    projectors.passed(10)
    assert await asyncio.gather(*readers) == [10] * 500
    assert reads.looks < 100


async def test_nobody_looks_once_nobody_waits(
    progress: PostgresProgress, projectors: Projectors, reads: Counted
) -> None:
    await progress.reach(PROJECTOR, ACME, 10, timeout_s=SOON_S)
    async with asyncio.timeout(WAIT_MAX_S):
        while progress._looking is not None:  # noqa: ASYNC110 it ends by itself
            await asyncio.sleep(0.001)
    before = reads.looks
    await asyncio.sleep(0)
    assert reads.looks == before
    projectors.passed(10)
    assert await progress.reach(PROJECTOR, ACME, 10, timeout_s=WAIT_MAX_S) == 10


async def test_a_hint_is_only_a_hint(progress: PostgresProgress, projectors: Projectors) -> None:
    progress.heard({PROJECTOR: {HERE: 1_000}})
    assert await progress.reach(PROJECTOR, ACME, 10, timeout_s=SOON_S) == 0


async def test_a_quiet_partition_has_passed_what_the_relay_has_passed(
    progress: PostgresProgress, projectors: Projectors
) -> None:
    published = [0] * TOPIC.partitions
    published[HERE], published[ELSEWHERE] = 7, 100
    projectors.relayed(100, *published)
    projectors.passed(7)
    assert await progress.reach(PROJECTOR, ACME, 100, timeout_s=WAIT_MAX_S) == 100
    await progress.refresh()
    assert (progress.position(PROJECTOR), progress.position(OTHER)) == (0, 0)
    projectors.passed(99, ELSEWHERE)
    await progress.refresh()
    assert progress.position(PROJECTOR) == 99
    assert not await progress.wait(PROJECTOR, 100, timeout_s=SOON_S)
    projectors.passed(100, ELSEWHERE)
    assert await progress.wait(PROJECTOR, 100, timeout_s=WAIT_MAX_S)


async def test_a_partition_with_unread_events_has_not_passed_them(
    progress: PostgresProgress, projectors: Projectors
) -> None:
    projectors.relayed(100, *([50] * TOPIC.partitions))
    projectors.passed(49)
    assert await progress.reach(PROJECTOR, ACME, 49, timeout_s=WAIT_MAX_S) == 49
    assert await progress.reach(PROJECTOR, ACME, 50, timeout_s=SOON_S) == 49
    assert progress.relayed == 100


async def test_a_parked_workspace_has_not_passed_its_event_and_others_have(
    progress: PostgresProgress, projectors: Projectors
) -> None:
    projectors.parked(ACME, 10)
    for partition in range(TOPIC.partitions):
        projectors.passed(12, partition)
    assert await progress.reach(PROJECTOR, ACME, 12, timeout_s=WAIT_MAX_S) == 9
    assert await progress.reach(PROJECTOR, WorkspaceId("globex"), 12, timeout_s=0) == 12
    projectors.unparked()
    await progress.refresh()
    assert await progress.reach(PROJECTOR, ACME, 12, timeout_s=0) == 12


async def test_how_far_the_relay_is_is_unknown_until_it_has_told(
    progress: PostgresProgress, projectors: Projectors
) -> None:
    await progress.refresh()
    assert progress.relayed is None


async def test_readers_go_on_when_the_database_does_not_answer(
    progress: PostgresProgress, projectors: Projectors, postgres_url: str
) -> None:
    projectors.passed(5)
    assert await progress.reach(PROJECTOR, ACME, 5, timeout_s=WAIT_MAX_S) == 5
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE checkpoints RENAME TO hidden")
        assert await progress.reach(PROJECTOR, ACME, 6, timeout_s=SOON_S) == 5
        connection.execute("ALTER TABLE hidden RENAME TO checkpoints")
    projectors.passed(6)
    assert await progress.reach(PROJECTOR, ACME, 6, timeout_s=WAIT_MAX_S) == 6
