"""A read model in PostgreSQL is made again beside the live one; readers and projectors go on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from threading import Event, Thread
from typing import Any, Self
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, create_engine, delete, func, inspect, select
from structlog.testing import capture_logs

from infra.event_store.codec import Codec
from infra.event_store.lane import Append
from infra.event_store.postgres import PostgresLog
from infra.event_store.store import EventStore
from infra.kafka.topic import Topic
from infra.parking import parked
from infra.postgres.connections import sqlalchemy_url
from infra.postgres.leases import open_pool
from infra.postgres.reads import PostgresReads
from infra.postgres.rebuilding import REBUILD_LOCK, RebuildIsUnderWay, rebuild_in_database
from infra.projecting import Applier, Slice
from infra.projector_process import ProjectorProcess, Source
from infra.vault import Vault
from projections.agents import AgentsProjector, agents
from projections.projector import checkpoint
from projections.runs import RunsProjector
from tests.projecting import Diary, hashes, history, in_postgres, new_rows, pages, passed, until
from tests.projections.tables import PROJECTORS

PARTITIONS = 3
AGENTS, RUNS = AgentsProjector(), RunsProjector()
ROWS = new_rows(history(1_500))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    engine = in_postgres(postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture
async def log(engine: Engine, postgres_url: str) -> AsyncIterator[PostgresLog]:
    log = PostgresLog(postgres_url)
    yield log
    await log.close()


@pytest.fixture
async def store(log: PostgresLog) -> EventStore:
    """Give a store whose first thousand events are there, and projected."""
    await append(log, 0, 1_000)
    return EventStore(log, Vault())


async def append(log: PostgresLog, first: int, last: int) -> None:
    for page in pages(ROWS[first:last], 100):
        await log.write(Append(page))


async def project(store: EventStore, engine: Engine) -> None:
    events = await store.read_all(limit=2_000)
    Applier(engine, [*PROJECTORS, Diary()]).apply(Slice(events))


def shape(engine: Engine, name: str) -> tuple[list[Any], Any]:
    found = inspect(engine)
    indexes = sorted(str(index["name"]) for index in found.get_indexes(name))
    return indexes, found.get_pk_constraint(name)["name"]


@pytest.mark.parametrize("projector", [AGENTS, RUNS], ids=lambda each: each.name)
async def test_a_rebuild_gives_the_same_rows_under_the_same_names_as_often_as_it_is_done(
    store: EventStore, engine: Engine, postgres_url: str, projector: Any
) -> None:
    await project(store, engine)
    tables = [table.name for table in projector.tables]
    before = hashes(engine), [shape(engine, name) for name in tables]
    with engine.begin() as connection:
        connection.execute(delete(projector.tables[0]))
    for _ in range(2):
        await rebuild_in_database(store, postgres_url, projector, PARTITIONS)
    assert (hashes(engine), [shape(engine, name) for name in tables]) == before
    with engine.begin() as connection:
        passed = [checkpoint(connection, projector.name, n) for n in range(PARTITIONS)]
    assert passed == [1_000] * PARTITIONS


def count(connection: Connection, *_: object) -> int:
    return connection.scalar(select(func.count()).select_from(agents)) or 0


async def test_a_rebuilt_read_model_is_shown_to_its_workspace_alone(
    store: EventStore, engine: Engine, postgres_url: str
) -> None:
    await rebuild_in_database(store, postgres_url, AGENTS, PARTITIONS)
    reads = PostgresReads(postgres_url, pool_size=1)
    workspace_id = (await store.read_all(limit=1))[0].metadata.workspace_id
    of_one, of_all = await reads.ask_in(workspace_id, count), await reads.ask(count)
    reads.close()
    assert 0 < of_one < of_all


async def test_a_rebuild_parks_whom_it_must_and_nobody_else(
    store: EventStore, engine: Engine, postgres_url: str
) -> None:
    events = await store.read_all(limit=2_000)
    names = [e.event.profile.name for e in events if e.event.tag() == "agent_registered"]  # type: ignore[union-attr]
    Applier(engine, [Diary(poison=names[0])]).apply(Slice(events))
    mended, other = Diary(poison=names[1]), parked(engine)[0].workspace_id
    await rebuild_in_database(store, postgres_url, mended, PARTITIONS)
    [found] = parked(engine)
    assert found.workspace_id != other
    await rebuild_in_database(store, postgres_url, Diary(), PARTITIONS)
    assert parked(engine) == []
    with engine.begin() as connection:
        assert len(connection.execute(select(Diary.table)).all()) == 1_000


async def test_one_rebuild_at_a_time(store: EventStore, postgres_url: str) -> None:
    other = create_engine(sqlalchemy_url(postgres_url))
    with other.connect() as connection:
        connection.exec_driver_sql("SELECT pg_advisory_lock(%s)", (REBUILD_LOCK,))
        with pytest.raises(RebuildIsUnderWay):
            await rebuild_in_database(store, postgres_url, AGENTS, PARTITIONS)
    other.dispose()


class Reader:
    """Counts agents all the time, in a thread of its own."""

    def __init__(self, engine: Engine) -> None:
        self.counts: list[int] = []
        self.failures: list[Exception] = []
        self._engine = engine
        self._enough = Event()
        self._thread = Thread(target=self._read)

    def _read(self) -> None:
        while not self._enough.is_set():
            try:
                with self._engine.begin() as connection:
                    self.counts.append(count(connection))
            except Exception as error:  # noqa: BLE001 any failure is what is looked for
                self.failures.append(error)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()


async def test_readers_and_projectors_go_on_while_read_models_are_rebuilt(
    store: EventStore, log: PostgresLog, engine: Engine, postgres_url: str
) -> None:
    async with open_pool(postgres_url, connections_max=8) as pool:
        source = Source(log, pool, Codec(Vault()), Topic("", "none", PARTITIONS))
        process = ProjectorProcess(source, engine, PROJECTORS, instance=uuid4().hex)
        projecting = asyncio.create_task(process.run())
        with Reader(engine) as reader:
            await until(lambda: reader.counts and reader.counts[-1], "there is something to read")
            for nth in range(5):
                rebuilding = rebuild_in_database(store, postgres_url, AGENTS, PARTITIONS)
                more = append(log, 1_000 + 100 * nth, 1_100 + 100 * nth)
                await asyncio.gather(rebuilding, more)
            await until(lambda: _all_passed(engine, 1_500), "all is projected")
            seen = len(reader.counts)
            await until(lambda: len(reader.counts) > seen, "it was read to the end")
        process.stop()
        await projecting
    assert reader.failures == []
    assert reader.counts == sorted(reader.counts)
    live = hashes(engine)
    await rebuild_in_database(store, postgres_url, AGENTS, PARTITIONS)
    assert hashes(engine) == live


def _all_passed(engine: Engine, position: int) -> bool:
    return all(there >= position for n in range(PARTITIONS) for there in passed(engine, n))
