"""One holder at a time, by the database's clock; whoever is not the holder writes nothing."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import LiteralString

import psycopg
import pytest

from infra.clock import SharedClock
from infra.kafka.checkpoints import Checkpoints, Passed
from infra.kafka.topic import Topic
from infra.postgres.heartbeats import Heartbeats
from infra.postgres.leases import HELD, Lease, LeaseLost, Leases, Pool, open_pool
from infra.postgres.migrations import migrate
from tests.relaying import until

LONG_S = 60.0
AT_ONCE = 0.0
"""A lease for so long has run out as soon as it is taken."""

WAITING: LiteralString = (
    "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)
TOPIC = Topic("nowhere:1", "t", 2)


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[Pool]:
    migrate(postgres_url)
    async with open_pool(postgres_url) as opened:
        yield opened


@pytest.fixture
def leases(pool: Pool) -> Leases:
    return Leases(pool)


async def test_one_of_many_who_ask_at_once_gets_the_lease(leases: Leases) -> None:
    owners = [f"owner {n}" for n in range(10)]
    epochs = await asyncio.gather(*(leases.take("work", owner, LONG_S) for owner in owners))
    assert sorted(epochs, key=str) == [1, *[None] * 9]


async def test_a_lease_that_is_held_is_refused_to_others_and_renewed_to_its_holder(
    leases: Leases,
) -> None:
    assert await leases.take("work", "ada", LONG_S) == 1
    assert await leases.take("work", "bob", LONG_S) is None
    assert await leases.take("work", "ada", LONG_S) == 1


async def test_a_lease_that_ran_out_goes_to_whoever_asks_in_a_new_epoch(leases: Leases) -> None:
    assert await leases.take("work", "ada", AT_ONCE) == 1
    assert await leases.take("work", "bob", AT_ONCE) == 2
    assert await leases.take("work", "ada", LONG_S) == 3
    assert await leases.take("work", "bob", LONG_S) is None


async def test_a_holder_who_comes_back_too_late_is_in_a_new_epoch(leases: Leases) -> None:
    assert await leases.take("work", "ada", AT_ONCE) == 1
    assert await leases.take("work", "ada", LONG_S) == 2


async def test_a_lease_runs_out_by_itself(leases: Leases) -> None:
    assert await leases.take("work", "ada", 0.2) == 1
    await until(lambda: leases.take("work", "bob", LONG_S), "the lease has run out")
    assert await leases.take("work", "ada", LONG_S) is None


async def test_a_released_lease_is_free_at_once_and_its_epochs_go_on(leases: Leases) -> None:
    assert await leases.take("work", "ada", LONG_S) == 1
    await leases.release("work", "bob")
    assert await leases.take("work", "bob", LONG_S) is None
    await leases.release("work", "ada")
    assert await leases.take("work", "bob", LONG_S) == 2


async def test_the_leases_that_are_held_are_told_by_the_beginning_of_their_names(
    leases: Leases,
) -> None:
    await leases.take("work/1", "ada", LONG_S)
    await leases.take("work/2", "bob", AT_ONCE)
    await leases.take("play/1", "bob", LONG_S)
    assert await leases.held("work/") == {"work/1": Lease("work/1", "ada", 1)}
    assert set(await leases.held()) == {"play/1", "work/1"}


async def test_who_has_lost_the_lease_saves_nothing(pool: Pool, leases: Leases) -> None:
    checkpoints = Checkpoints(pool, TOPIC)
    await leases.take("relay/t", "ada", AT_ONCE)
    await checkpoints.save(Passed(3, (3, 2)), Lease("relay/t", "ada", 1))
    await leases.take("relay/t", "bob", AT_ONCE)
    with pytest.raises(LeaseLost):
        await checkpoints.save(Passed(4, (3, 4)), Lease("relay/t", "ada", 1))
    await leases.take("relay/t", "ada", LONG_S)
    with pytest.raises(LeaseLost):
        await checkpoints.save(Passed(4, (3, 4)), Lease("relay/t", "ada", 1))
    assert await checkpoints.read() == Passed(3, (3, 2))
    await checkpoints.save(Passed(5, (5, 4)), Lease("relay/t", "ada", 3))
    assert await checkpoints.read() == Passed(5, (5, 4))


async def test_a_relay_that_has_published_nothing_begins_at_the_beginning(pool: Pool) -> None:
    assert await Checkpoints(pool, TOPIC).read() == Passed(0, (0, 0))


async def test_a_lease_changes_hands_only_after_what_its_holder_is_writing(
    leases: Leases, postgres_url: str
) -> None:
    await leases.take("work", "ada", AT_ONCE)
    connect = psycopg.AsyncConnection.connect
    async with await connect(postgres_url) as writing, await connect(postgres_url) as watching:

        async def somebody_waits() -> bool:
            # One transaction would see one state for ever.
            await watching.rollback()
            return (await watching.execute(WAITING)).rowcount > 0

        cursor = await writing.execute(HELD, ("work", "ada", 1))
        assert cursor.rowcount == 1
        taking = asyncio.create_task(leases.take("work", "bob", LONG_S))
        await until(somebody_waits, "the other one waits")
        assert not taking.done()
    assert await taking == 2


async def test_a_process_is_seen_as_long_ago_as_its_youngest_instance(pool: Pool) -> None:
    heartbeats = Heartbeats(pool)
    assert await heartbeats.seen("relay") is None
    await heartbeats.beat("relay", "one")
    async with pool.connection() as connection:
        await connection.execute("UPDATE heartbeats SET seen_at = seen_at - interval '1 hour'")
    assert 3_600 <= (await heartbeats.seen("relay") or 0) < 3_700
    await heartbeats.beat("relay", "two")
    assert (await heartbeats.seen("relay") or LONG_S) < LONG_S
    assert await heartbeats.seen("projector") is None


@pytest.mark.parametrize("hours", [-1, 0, 1])
async def test_workers_tell_the_time_by_the_database_however_wrong_their_own_clocks_are(
    pool: Pool, hours: int
) -> None:
    clock = SharedClock(lambda: datetime.now(UTC) + timedelta(hours=hours))
    clock.heard(await Heartbeats(pool).beat("worker", "one"))
    async with pool.connection() as connection:
        row = await (await connection.execute("SELECT clock_timestamp()")).fetchone()
    assert row is not None
    assert abs(clock.now() - row[0]) < timedelta(seconds=LONG_S)
