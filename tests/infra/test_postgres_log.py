"""What only PostgreSQL can do to the log: lost answers, held locks, rights, a server that dies."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import errors
from structlog.testing import capture_logs

from commands.agents import AgentCommands, RegisterAgent
from commands.transact import CommandError, Issued, StorageUnavailable, Transactions
from domain.agents import AgentProfile
from domain.errors import NameIsTaken
from domain.events import CommandId, Metadata
from infra.event_store.lane import Append, Written
from infra.event_store.postgres import PostgresLog
from infra.event_store.postgres_committer import BESIDE_MIN
from infra.event_store.postgres_committer import WRITERS as WRITERS_IN_ALL
from infra.event_store.sqlite import new_row
from infra.event_store.store import EventStore
from infra.ids import IntegerIds, new_uuid
from infra.postgres.connections import APP_ROLE
from infra.postgres.migrations import MIGRATIONS, SchemaIsNewer, SchemaIsOld, check_schema, migrate
from infra.vault import Vault
from tests.contracts.stores import ACME, NOON
from tests.relaying import opened
from tests.servers.fixtures import Private
from tests.servers.proxy import Proxy

CUTS = 200
WRITERS = 6
APPENDS_EACH = 100
WAIT_MAX_S = 60.0

TRIED_IN_VAIN = 3

ABC = [f"{which}{n}" for which in "ab" for n in range(BESIDE_MIN)]
ABC[-1] = "c"
AT_THE_LOCK = (
    "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
REFUSALS = (errors.RestrictViolation, errors.InsufficientPrivilege, errors.CheckViolation)
UPSERT = (
    "INSERT INTO stored_events VALUES (1, 'test-w+b', 1, 'tested', '{}', 'w')"
    " ON CONFLICT (position) DO UPDATE SET topic = 'x'"
)


@pytest.fixture
def url(postgres_url: str) -> str:
    migrate(postgres_url)
    return postgres_url


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    with Proxy(urlsplit(url).port or 0) as proxy:
        yield proxy


@asynccontextmanager
async def commanding(url: str) -> AsyncIterator[AgentCommands]:
    async with opened(url) as log:
        yield AgentCommands(Transactions(EventStore(log, Vault())), IntegerIds())


def issued(key: str = "") -> Issued:
    metadata = Metadata(
        workspace_id=ACME,
        actor="key:k1",
        correlation_id="c",
        command_id=CommandId(key or new_uuid()),
        occurred_at=NOON,
    )
    return Issued(metadata=metadata, fingerprint="f" if key else None)


def named(name: str) -> RegisterAgent:
    return RegisterAgent(profile=AgentProfile(name=name))


def one(stream: str, version: int = 1, text: str = "{}") -> Append:
    return Append([new_row(f"test-{ACME}+{stream}", version, "tested", text.encode())])


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


# Lost answers.


async def test_a_command_whose_answer_was_lost_at_commit_is_told_its_true_result(
    proxy: Proxy, url: str
) -> None:
    async with commanding(proxy.url(url)) as agents:
        for number in range(CUTS):
            proxy.cut_after(lambda sent: b"agent_registered" in sent)
            key = f"key-{number}"
            told = await agents.register(named(f"Agent {number}"), issued(key))
            again = await agents.register(named(f"Agent {number}"), issued(key))
            assert again.replayed
            assert again.answer == told.answer
            assert again.global_position == told.global_position == 2 * (number + 1)
    assert proxy.cuts == CUTS
    assert rows(url, "SELECT count(*) FROM stored_events") == [(2 * CUTS,)]
    assert rows(url, "SELECT count(*) FROM commands") == [(CUTS,)]


async def test_of_a_group_whose_answer_was_lost_every_command_is_told_its_own_result(
    proxy: Proxy, url: str
) -> None:
    async with commanding(proxy.url(url)) as agents:
        await agents.register(named("taken"), issued())
        proxy.cut_after(lambda sent: b"agent_registered" in sent)
        told = await asyncio.gather(
            *(agents.register(named(name), issued()) for name in ("a", "b", "taken", "c")),
            return_exceptions=True,
        )
    assert [type(each) is NameIsTaken for each in told] == [False, False, True, False]
    assert rows(url, "SELECT count(*) FROM stored_events WHERE topic = 'agent_registered'") == [
        (4,)
    ]


async def test_a_server_that_is_away_is_told_of_and_nothing_is_recorded(
    proxy: Proxy, url: str
) -> None:
    async with commanding(proxy.url(url)) as agents:
        await agents.register(named("a"), issued())
        proxy.refuse()
        with pytest.raises(StorageUnavailable):
            await agents.register(named("b"), issued())
        proxy.restore()
        await agents.register(named("b"), issued())
    assert rows(url, "SELECT count(*) FROM stored_events") == [(4,)]


async def test_an_append_is_tried_again_while_the_server_is_away_for_a_moment(
    proxy: Proxy, url: str
) -> None:
    async with commanding(proxy.url(url)) as agents:
        await agents.register(named("a"), issued())
        proxy.refuse()
        with capture_logs() as logged:
            told = asyncio.create_task(agents.register(named("b"), issued()))
            async with asyncio.timeout(WAIT_MAX_S):
                while len(logged) < TRIED_IN_VAIN:
                    assert not told.done()
                    await asyncio.sleep(0)
        proxy.restore()
        assert (await told).global_position == 4
    assert rows(url, "SELECT count(*) FROM stored_events") == [(4,)]


# Two batches of one process under way.


async def test_a_second_batch_waits_at_the_lock_while_the_first_is_written(url: str) -> None:
    async with opened(url) as log, holding_the_lock(url) as release:
        idle = log._committer._idle
        first = submitted(log, *(f"a{n}" for n in range(BESIDE_MIN)))
        await at_the_lock(url, 1)
        few = submitted(log, *(f"b{n}" for n in range(BESIDE_MIN - 1)))
        assert len(idle) == WRITERS_IN_ALL - 1
        enough = submitted(log, "c")
        assert len(idle) == WRITERS_IN_ALL - 2
        await at_the_lock(url, 2)
        await release()
        told = [*await first, *await few, *await enough]
        found = await log.all(after=0, limit=1_000)
    where = {row.stream_id.partition("+")[2]: [row.global_position] for row in found}
    assert [where[stream] for stream in ABC] == told
    assert [row.global_position for row in found] == list(range(1, 2 * BESIDE_MIN + 1))


async def test_of_two_batches_that_were_cut_off_at_the_lock_each_append_is_told_what_is_true(
    proxy: Proxy, url: str
) -> None:
    async with opened(proxy.url(url)) as log, holding_the_lock(url) as release:
        first = submitted(log, *(f"a{n}" for n in range(BESIDE_MIN)))
        await at_the_lock(url, 1)
        second = submitted(log, *(f"b{n}" for n in range(BESIDE_MIN)))
        await at_the_lock(url, 2)
        proxy.refuse()
        proxy.restore()
        # Those who ask what became of the two stand behind them.
        await at_the_lock(url, 4)
        await release()
        told = [*await first, *await second]
        found = await log.all(after=0, limit=1_000)
    where = {row.stream_id.partition("+")[2]: [row.global_position] for row in found}
    assert [where[f"{which}{n}"] for which in "ab" for n in range(BESIDE_MIN)] == told
    assert len(found) == 2 * BESIDE_MIN


def submitted(log: PostgresLog, *streams: str) -> asyncio.Future[list[Written]]:
    """Submit an append to each stream, all as one group; give what will be told of them."""
    told: asyncio.Future[list[Written]] = asyncio.get_running_loop().create_future()
    log.submit([one(stream) for stream in streams], told.set_result)
    return told


async def at_the_lock(url: str, count: int) -> None:
    """Wait until so many stand there: more do if one has waited too long for its answer."""
    async with asyncio.timeout(WAIT_MAX_S):
        while len(await asyncio.to_thread(rows, url, AT_THE_LOCK)) < count:
            pass


@asynccontextmanager
async def holding_the_lock(url: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    async with await psycopg.AsyncConnection.connect(url) as holder:
        await holder.execute("SELECT pg_advisory_xact_lock(727001)")
        yield holder.commit


# The order of positions is the order of commits.


async def test_an_append_that_is_held_open_is_never_passed(url: str) -> None:
    async with opened(url) as log, await psycopg.AsyncConnection.connect(url) as held:
        await held.execute("SELECT pg_advisory_xact_lock(727001)")
        await held.execute(
            "INSERT INTO stored_events VALUES (1, 'test-w+held', 1, 'tested', '{}', 'w')"
        )
        writing = asyncio.create_task(log.write(one("later")))
        waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        async with asyncio.timeout(WAIT_MAX_S):
            while not await asyncio.to_thread(rows, url, waiting):
                assert not writing.done()
        assert await log.all(after=0, limit=10) == []
        await held.commit()
        assert await writing == [2]
        assert [row.global_position for row in await log.all(after=0, limit=10)] == [1, 2]


@pytest.mark.parametrize(
    "appends", [APPENDS_EACH, pytest.param(20_000, marks=pytest.mark.long)], ids=["ci", "long"]
)
async def test_who_follows_the_log_misses_nothing_that_six_writers_append(
    url: str, appends: int
) -> None:
    async def write(log: PostgresLog, writer: int) -> None:
        for number in range(appends):
            await log.write(one(f"{writer}-{number}"))

    async def follow(log: PostgresLog) -> list[int]:
        seen: list[int] = []
        while len(seen) < WRITERS * appends:
            after = seen[-1] if seen else 0
            seen += [row.global_position for row in await log.all(after=after, limit=500)]
        return seen

    async with opened(url) as reader:
        following = asyncio.create_task(follow(reader))
        await asyncio.gather(*(_with_log(url, write, n) for n in range(WRITERS)))
        async with asyncio.timeout(WAIT_MAX_S):
            assert await following == list(range(1, WRITERS * appends + 1))


async def _with_log(url: str, write: Callable[[PostgresLog, int], object], number: int) -> None:
    async with opened(url) as log:
        await write(log, number)  # type: ignore[misc]


# Rights.


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE stored_events SET topic = 'x'",
        "DELETE FROM stored_events",
        "TRUNCATE stored_events",
        "INSERT INTO stored_events VALUES (9, 'test-w+a', 3, 'tested', '{}', 'w')",
        UPSERT,
    ],
    ids=["update", "delete", "truncate", "gap", "upsert"],
)
@pytest.mark.parametrize("role", ["postgres", APP_ROLE])
async def test_no_role_can_change_what_was_recorded(url: str, role: str, change: str) -> None:
    async with opened(url) as log:
        await log.write(one("a"))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"SET ROLE {role}".encode())
        with pytest.raises(
            (errors.RestrictViolation, errors.InsufficientPrivilege, errors.CheckViolation)
        ):
            connection.execute(change.encode())
    assert rows(url, "SELECT position, topic FROM stored_events") == [(1, "tested")]


async def test_an_auditor_reads_events_as_json(url: str) -> None:
    async with opened(url) as log:
        await log.write(one("a", text='{"event": {"type": "tested"}}'))
    assert rows(url, "SELECT stream_id, body -> 'event' ->> 'type' FROM events") == [
        (f"test-{ACME}+a", "tested")
    ]


# The schema.


def test_migrating_again_and_at_once_changes_nothing(postgres_url: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        versions = list(threads.map(lambda _: migrate(postgres_url), range(4)))
    assert versions == [len(MIGRATIONS)] * 4
    check_schema(postgres_url)


def test_a_schema_of_another_release_is_refused(postgres_url: str) -> None:
    with pytest.raises(SchemaIsOld):
        check_schema(postgres_url)
    migrate(postgres_url)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("INSERT INTO migrations VALUES (99, now())")
    for refuse in (check_schema, migrate):
        with pytest.raises(SchemaIsNewer):
            refuse(postgres_url)


# A server that dies.


async def test_what_was_acknowledged_outlives_the_server_and_writing_goes_on(
    private_postgres: Private,
) -> None:
    server = private_postgres()
    migrate(server.url)
    acknowledged: list[str] = []
    async with commanding(server.url) as agents:

        async def register(names: Sequence[str]) -> None:
            for name in names:
                try:
                    await agents.register(named(name), issued())
                except CommandError:
                    continue
                acknowledged.append(name)

        batches = [[f"{worker}-{n}" for n in range(100)] for worker in range(8)]
        writing = asyncio.gather(*(register(batch) for batch in batches))
        for _ in range(3):
            wanted = len(acknowledged) + 20
            async with asyncio.timeout(WAIT_MAX_S):
                while len(acknowledged) < wanted and not writing.done():
                    await asyncio.wait([writing], timeout=0.01)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await writing
        await agents.register(named("afterwards"), issued())
    recorded = rows(
        server.url,
        "SELECT body -> 'event' -> 'profile' ->> 'name' FROM events"
        " WHERE type = 'agent_registered'",
    )
    names = [name for (name,) in recorded]
    assert set(acknowledged) <= set(names)
    assert len(names) == len(set(names))
