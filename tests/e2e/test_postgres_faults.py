"""PostgreSQL that hangs, fails over, fills up or refuses: what callers are told, what is kept."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import LiteralString, Self
from urllib.parse import urlsplit

import psycopg
import pytest
from msgspec.structs import replace

from commands.agents import AgentAnswer, AgentCommands, ChangeAgent
from commands.transact import CommandError, Issued, Outcome, StorageFull, StorageUnavailable
from domain.agents import AGENT, AgentChanges
from domain.errors import NameIsTaken
from domain.events import WorkspaceId
from infra.event_store.codec import Codec
from infra.event_store.lane import Append
from infra.event_store.postgres import PostgresLog
from infra.event_store.postgres_batch import find
from infra.event_store.postgres_writer import TRIES_MAX
from infra.ids import new_uuid
from infra.intake import Intake
from infra.parking import parked
from infra.postgres.connections import ANSWER_WAIT_S, CONNECTING, BoundedConnection
from infra.postgres.migrations import migrate
from infra.projecting import Applier
from infra.vault import Vault
from read_api.health import PROBE_MAX_S
from tests.api_processes import agent, projected, serving
from tests.contracts.stores import ACME
from tests.e2e.full_disk import CHUNK, can_mount, small_disk
from tests.infra.test_postgres_log import commanding, issued, named, one, rows
from tests.projecting import Diary, history, in_postgres, new_rows
from tests.relaying import opened
from tests.servers.fixtures import Private
from tests.servers.proxy import Proxy
from tests.servers.server import LOCAL, Server, free_port
from tests.servers.standby import promote, standby, wait_for_standby

WAIT_MAX_S = 60.0
HEAL_MAX_S = 5.0
WRITERS = 8
NAMES: LiteralString = (
    "SELECT body -> 'event' -> 'profile' ->> 'name' FROM events WHERE type = 'agent_registered'"
)

Made = Callable[..., Private]


@pytest.fixture
def private_standby(_private: Made) -> Private:
    return _private(standby)


# A server that hangs.

KEYS = [f"key-{number}" for number in range(WRITERS)]


async def test_a_server_that_hangs_is_told_of_in_time_and_afterwards_each_command_has_one_effect(
    private_postgres: Private,
) -> None:
    server = private_postgres()
    migrate(server.url)
    async with commanding(server.url) as agents, opened(server.url) as log:
        await register(agents, "before")
        assert await log.head() == 2
        server.pause()
        try:
            await told_in_time(agents, log)
        finally:
            server.resume()
        async with asyncio.timeout(HEAL_MAX_S):
            assert await log.head() >= 2
            told = [await register(agents, key, key) for key in KEYS]
            again = [await register(agents, key, key) for key in KEYS]
    assert [each.answer for each in told] == [each.answer for each in again]
    recorded = [str(name) for (name,) in rows(server.url, NAMES)]
    assert len(recorded) == len(set(recorded))
    assert {"before", *KEYS} <= set(recorded) <= {"before", "unkeyed", *KEYS}
    # Each of them is two events: the agent's, and the claim of its name.
    assert rows(server.url, "SELECT count(*) FROM events") == [(2 * len(recorded),)]


async def register(agents: AgentCommands, name: str, key: str = "") -> Outcome[AgentAnswer]:
    return await agents.register(named(name), issued(key))


async def told_in_time(agents: AgentCommands, log: PostgresLog) -> None:
    """See that who probes and who commands is told before long that nothing answers."""
    async with asyncio.timeout(2 * PROBE_MAX_S):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(log.head(), PROBE_MAX_S)
    async with asyncio.timeout(2 * ANSWER_WAIT_S):
        keyed = (register(agents, key, key) for key in KEYS)
        refusals = await asyncio.gather(register(agents, "unkeyed"), *keyed, return_exceptions=True)
    assert {type(refusal) for refusal in refusals} == {StorageUnavailable}


async def test_an_api_whose_server_hangs_says_so_in_time_and_is_ready_again_after_it(
    private_postgres: Private, tmp_path: Path
) -> None:
    server = private_postgres(fsync=False)
    async with projected(server.url, tmp_path) as installation:
        key = await installation.key(WorkspaceId(new_uuid()))
        async with serving(installation, tmp_path, 1) as api, api.client(key) as client:
            await agent(client)
            server.pause()
            try:
                async with asyncio.timeout(3 * PROBE_MAX_S):
                    assert (await client.get("/health/ready")).status_code == 503
                    assert (await client.get("/health/live")).status_code == 200
            finally:
                server.resume()
            async with asyncio.timeout(HEAL_MAX_S):
                assert (await client.get("/health/ready")).status_code == 200
                await agent(client, "Bob")


# A server that is lost, and its standby in its place.


class Site:
    """A stable address, the primary behind it, and who writes there.

    Attributes:
        acknowledged: Positions and names of what was told to be recorded.
    """

    def __init__(self, primary: Server, private_standby: Private) -> None:
        self.primary = primary
        self._private_standby = private_standby
        self._port = free_port()
        self._proxy = Proxy(primary.port, port=self._port)
        self.acknowledged: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{LOCAL}:{self._port}/postgres"

    def __enter__(self) -> Self:
        self._proxy.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.__exit__()

    def fail_over(self, spare: Server) -> None:
        """Kill the primary with all its processes; its standby gets the address."""
        self.primary.kill()
        self._proxy.__exit__()
        promote(spare)
        self.primary = spare
        self._proxy = Proxy(spare.port, port=self._port)
        self._proxy.__enter__()

    def spare(self) -> Server:
        """Begin a standby of the primary, for which its commits wait."""
        made = self._private_standby(source=self.primary.url)
        wait_for_standby(self.primary, wait=True)
        return made

    async def write(self, log: PostgresLog, writer: str) -> None:
        """Append for ever, and note what was acknowledged."""
        number = 0
        while True:
            number += 1
            name = f"{writer}-{number}"
            with suppress(CommandError):
                self.acknowledged[name] = (await log.write(one(name)))[0]

    async def until_acknowledged(self, more: int) -> None:
        wanted = len(self.acknowledged) + more
        async with asyncio.timeout(WAIT_MAX_S):
            while len(self.acknowledged) < wanted:  # noqa: ASYNC110 the writers tell nobody
                await asyncio.sleep(0.01)


@asynccontextmanager
async def writing(site: Site, name: str) -> AsyncIterator[None]:
    async with opened(site.url) as log:
        tasks = [asyncio.create_task(site.write(log, f"{name}-{n}")) for n in range(WRITERS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    "failovers", [2, pytest.param(20, marks=pytest.mark.long)], ids=["ci", "long"]
)
@pytest.mark.timeout(900)
async def test_with_a_synchronous_standby_a_failover_loses_nothing_that_was_acknowledged(
    private_postgres: Private,
    private_standby: Private,
    record_property: Callable[[str, object], None],
    failovers: int,
) -> None:
    primary = private_postgres(fsync=False)
    migrate(primary.url)
    with Site(primary, private_standby) as site:
        for number in range(failovers):
            spare = await asyncio.to_thread(site.spare)
            async with writing(site, f"load-{number}"):
                await site.until_acknowledged(200)
                await asyncio.to_thread(site.fail_over, spare)
                await site.until_acknowledged(50)
            recorded = {str(name): at for name, at in rows(site.primary.url, RECORDED)}
            assert site.acknowledged.items() <= recorded.items()
            assert {*recorded.values()} == {*range(1, len(recorded) + 1)}
    record_property(
        "figure", f"{failovers} failovers: {len(site.acknowledged)} acknowledged, 0 lost"
    )


RECORDED: LiteralString = "SELECT split_part(stream_id, '+', 2), position FROM events"


async def test_an_append_in_doubt_that_only_the_primary_has_is_not_told_to_be_recorded(
    private_postgres: Private, private_standby: Private
) -> None:
    """A primary that is restarted without its standby shows what that has not got."""
    primary, append = private_postgres(fsync=False), one("held")
    migrate(primary.url)
    with Proxy(primary.port) as link:
        private_standby(source=link.url(primary.url))
        wait_for_standby(primary, wait=True)
        link.refuse()
        async with opened(primary.url) as log:
            telling = asyncio.create_task(log.write(append))
            await until(primary.url, WAITING_FOR_STANDBY)
            primary.kill()
            with pytest.raises(StorageUnavailable):
                await telling
        primary.start()
        async with await BoundedConnection.connect(primary.url, **CONNECTING) as connection:
            finding = asyncio.create_task(find(connection, [append]))
            await until(primary.url, WAITING_FOR_STANDBY)
            assert log_of(primary) == [1]
            assert not finding.done()
            link.restore()
            assert await finding == [[1]]


WAITING_FOR_STANDBY: LiteralString = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


def log_of(server: Server) -> list[object]:
    return [position for (position,) in rows(server.url, "SELECT position FROM events")]


async def until(url: str, query: LiteralString) -> None:
    """Wait until a query has rows."""
    async with asyncio.timeout(WAIT_MAX_S):
        while not await asyncio.to_thread(rows, url, query):  # noqa: ASYNC110 it tells nobody
            await asyncio.sleep(0.01)


# A disk that is full.


class SmallTablespace:
    """A database whose tables are on a disk of their own; the write-ahead log is not."""

    def __init__(self, server: Server, folder: Path) -> None:
        os.chown(folder, server.folder.stat().st_uid, -1)
        admin = (f"CREATE TABLESPACE small LOCATION '{folder}'", "CREATE DATABASE small")
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(admin[0].encode())
            connection.execute(f"{admin[1]} TABLESPACE small".encode())
        self.url = urlsplit(server.url)._replace(path="/small").geturl()
        self._ballast = folder / "ballast"
        migrate(self.url)

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(CHUNK)

    def free(self) -> None:
        self._ballast.unlink()


class Refusing:
    """A database that says its disk is full, where none may be mounted."""

    def __init__(self, server: Server) -> None:
        self.url = server.url
        migrate(self.url)

    def fill(self) -> None:
        failing(self.url, "stored_events", "53100")

    def free(self) -> None:
        rows(self.url, "ALTER TABLE stored_events DISABLE TRIGGER failing; SELECT")


def failing(url: str, table: str, code: str, *, times: int = 2**31) -> None:
    """Have so many of the next statements that insert into a table fail with an SQLSTATE."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"""
            CREATE SEQUENCE failures;
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
                IF nextval('failures') <= {times} THEN
                    RAISE EXCEPTION 'a fault of a test' USING ERRCODE = '{code}';
                END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER failing BEFORE INSERT ON "{table}"
            FOR EACH STATEMENT EXECUTE FUNCTION fail();
            """.encode()
        )


@contextmanager
def little_room(server: Server) -> Iterator[SmallTablespace | Refusing]:
    if not can_mount():
        yield Refusing(server)
        return
    with small_disk(server.folder / "disk"):
        yield SmallTablespace(server, server.folder / "disk")
        server.stop()


LARGE = 256 * 1024
APPENDS_MAX = 500


async def test_a_full_disk_refuses_appends_until_there_is_room_and_loses_nothing(
    private_postgres: Private,
) -> None:
    with little_room(private_postgres()) as disk:
        async with opened(disk.url) as log:
            acknowledged = await log.write(large("before"))
            disk.fill()
            acknowledged += await until_full(log)
            recorded = [row.global_position for row in await log.all(after=0, limit=APPENDS_MAX)]
            assert recorded == acknowledged
            disk.free()
            acknowledged += await log.write(large("after"))
            assert len(await log.all(after=0, limit=APPENDS_MAX)) == len(acknowledged)


async def until_full(log: PostgresLog) -> list[int]:
    """Append until the disk is full; tell the positions."""
    acknowledged: list[int] = []
    for number in range(APPENDS_MAX):
        try:
            acknowledged += await log.write(large(f"more-{number}"))
        except StorageFull:
            return acknowledged
    pytest.fail("the disk does not fill up")


def large(stream: str) -> Append:
    """Make an append that compression does not make small."""
    return one(stream, text=f'"{os.urandom(LARGE // 2).hex()}"')


# Clocks that are wrong.


def at(hours: int) -> Issued:
    about = issued()
    later = about.metadata.occurred_at + timedelta(hours=hours)
    return replace(about, metadata=replace(about.metadata, occurred_at=later))


async def test_processes_whose_clocks_differ_record_in_order_and_no_stream_goes_back_in_time(
    url: str,
) -> None:
    async with commanding(url) as ahead, commanding(url) as behind:
        ada = (await ahead.register(named("Ada"), at(hours=1))).answer
        await behind.register(named("Bob"), at(hours=-1))
        writing = ((behind, -1), (ahead, 0), (behind, -2), (ahead, 2))
        for agents, hours in writing:
            changes = AgentChanges(description=f"written at {hours}")
            told = await agents.change(
                ChangeAgent(agent_id=ada.agent_id, changes=changes), at(hours)
            )
            ada = told.answer
    stream = AGENT.stream_id(ACME, ada.agent_id)
    recorded = rows(url, f"SELECT stream_version, {HOUR} WHERE stream_id = '{stream}' ORDER BY 1")
    assert [version for version, _ in recorded] == [1, 2, 3, 4, 5]
    assert [hour for _, hour in recorded] == [13, 13, 13, 13, 14]


HOUR: LiteralString = (
    "substring(body -> 'metadata' ->> 'occurred_at' FROM 'T(..)')::int FROM events"
)


# Faults of a statement.

PASSING = {"40001": "serialization", "40P01": "deadlock", "55P03": "lock timeout"}


@pytest.fixture
def url(postgres_url: str) -> str:
    migrate(postgres_url)
    return postgres_url


@pytest.mark.parametrize("code", PASSING, ids=PASSING.values())
async def test_an_append_that_the_server_has_undone_is_tried_again_and_never_called_a_conflict(
    url: str, code: str
) -> None:
    async with commanding(url) as agents:
        failing(url, "stored_events", code, times=TRIES_MAX - 1)
        told = await register(agents, "passes")
    assert told.global_position == 2
    assert rows(url, "SELECT count(*) FROM events") == [(2,)]


async def test_an_append_that_the_server_always_undoes_is_refused_and_can_be_sent_again(
    url: str,
) -> None:
    async with commanding(url) as agents:
        failing(url, "stored_events", "40001", times=TRIES_MAX)
        with pytest.raises(StorageUnavailable):
            await register(agents, "a", "key-of-a")
        assert rows(url, "SELECT count(*) FROM events") == [(0,)]
        assert not (await register(agents, "a", "key-of-a")).replayed
        with pytest.raises(NameIsTaken):
            await register(agents, "a")


async def test_a_caller_who_goes_away_holds_up_nobody_else(url: str) -> None:
    async with opened(url) as log, await psycopg.AsyncConnection.connect(url) as held:
        await held.execute("SELECT pg_advisory_xact_lock(727001)")
        gone, waiting = (asyncio.create_task(log.write(one(name))) for name in ("gone", "waits"))
        await until(url, "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        gone.cancel()
        await held.commit()
        assert await waiting == [2]


async def test_what_no_try_could_record_is_refused_and_the_next_append_is_not(url: str) -> None:
    async with opened(url) as log:
        failing(url, "stored_events", "42501", times=1)
        with pytest.raises(StorageUnavailable):
            await log.write(one("a"))
        assert await log.write(one("a")) == [1]


@pytest.mark.parametrize("code", PASSING, ids=PASSING.values())
async def test_projecting_that_the_server_has_undone_is_tried_again_and_parks_nobody(
    postgres_url: str, code: str
) -> None:
    engine = in_postgres(postgres_url)
    failing(postgres_url, "diary", code, times=2)
    async with opened(postgres_url) as log:
        facts = new_rows(history(20))
        await log.write(Append(facts))
        intake = Intake(log, Codec(Vault()), Applier(engine, [Diary()]), 1)
        await intake.begin(0)
        async with asyncio.timeout(WAIT_MAX_S):
            await intake.catch_up([0], len(facts))
        intake.close()
    assert parked(engine) == []
    engine.dispose()
    assert rows(postgres_url, "SELECT count(*) FROM diary") == [(20,)]
