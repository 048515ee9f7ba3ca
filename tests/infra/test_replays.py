"""The same log makes the same rows: in either database, and however many events at a time."""

from collections.abc import AsyncIterator, Iterator
from functools import cache

import pytest
from sqlalchemy import Engine

from infra.event_store.codec import Codec, Stored
from infra.event_store.lane import Append
from infra.event_store.postgres import PostgresLog
from infra.event_store.sqlite import SqliteLog
from infra.event_store.store import EventStore, Log
from infra.projecting import Applier, Slice
from infra.read_store import open_engine
from infra.vault import Vault
from projections.projector import project_all
from tests.projecting import hashes, history, new_rows, opened, pages
from tests.projections.tables import PROJECTORS

AT_ONCE = 1_000
LONG = [pytest.mark.long, pytest.mark.timeout(3_600)]


@cache
def expected(events: int) -> dict[str, str]:
    """Give the hashes of what the events make in memory, of which neither log knows."""
    codec, engine = Codec(Vault()), open_engine(None)
    stored = [Stored(n, *row[:4]) for n, row in enumerate(new_rows(history(events)), start=1)]
    for first in range(0, events, AT_ONCE):
        with engine.begin() as connection:
            page = [codec.decode(row) for row in stored[first : first + AT_ONCE]]
            project_all(connection, PROJECTORS, page)
    found = hashes(engine)
    engine.dispose()
    return found


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(kind: str, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Give read models, and with them the database of the log."""
    engine = opened(kind, request)
    yield engine
    engine.dispose()


@pytest.fixture
async def log(
    kind: str, engine: Engine, request: pytest.FixtureRequest
) -> AsyncIterator[SqliteLog | PostgresLog]:
    if kind == "sqlite":
        in_file = SqliteLog(request.getfixturevalue("tmp_path") / "events.db")
        yield in_file
        in_file.close()
    else:
        in_database = PostgresLog(request.getfixturevalue("postgres_url"))
        yield in_database
        await in_database.close()


async def fill(log: SqliteLog | PostgresLog, events: int) -> None:
    for page in pages(new_rows(history(events)), AT_ONCE):
        if isinstance(log, SqliteLog):
            log.write(Append(page))
        else:
            await log.write(Append(page))


async def replay(log: Log, engine: Engine, size: int) -> None:
    store, applier, after = EventStore(log, Vault()), Applier(engine, PROJECTORS), 0
    while page := await store.read_all(after=after, limit=size):
        applier.apply(Slice(page))
        after = page[-1].global_position


@pytest.mark.parametrize(
    ("size", "events"),
    [
        (1, 500),
        (7, 1_500),
        (500, 5_000),
        *(pytest.param(size, 100_000, marks=LONG) for size in (1, 7, 500)),
    ],
)
async def test_a_log_makes_the_same_rows_in_batches_of_any_size(
    log: SqliteLog | PostgresLog, engine: Engine, size: int, events: int
) -> None:
    await fill(log, events)
    await replay(log, engine, size)
    assert hashes(engine) == expected(events)
