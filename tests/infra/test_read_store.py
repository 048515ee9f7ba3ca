"""Read models are made again from the log, beside the live ones, and nobody notices."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Self

import pytest
from sqlalchemy import Connection, create_engine, delete, func, inspect, select, text
from sqlalchemy.exc import OperationalError

from infra.composition import PROJECTORS
from infra.read_store import (
    LAST_LAP_MAX,
    SHADOW,
    Reads,
    digest,
    open_engine,
    positions,
    rebuild,
    will_pass,
)
from projections.identity import IdentityProjector, workspaces
from projections.projector import Projector
from projections.rows import READ_MODELS
from projections.runs import DueRunsProjector, due, due_runs
from tests.infra.recording import WAIT_MAX_S, Folder, until

IDENTITY = IdentityProjector()
DUE_RUNS = DueRunsProjector()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    opened = Folder(tmp_path)
    yield opened
    opened.close()


def hashed(folder: Folder, projector: Projector) -> str:
    with folder.engine.begin() as connection:
        return digest(connection, projector)


def indexes(folder: Folder) -> dict[str, list[str]]:
    found = inspect(folder.engine)
    return {
        table: sorted(str(index["name"]) for index in found.get_indexes(table))
        for table in found.get_table_names()
    }


async def some_history(folder: Folder) -> None:
    """Fill two read models with more than one batch, so that there is a first and a last lap."""
    await folder.name_workspaces(*(f"w{number}" for number in range(10 * LAST_LAP_MAX + 50)))
    for number in range(20):
        await folder.start_run(number)
    for number in range(0, 20, 2):
        await folder.end_run(number)


@pytest.mark.parametrize("projector", PROJECTORS, ids=lambda projector: projector.name)
async def test_a_rebuild_gives_the_same_rows_position_and_indexes(
    folder: Folder, projector: Projector
) -> None:
    await some_history(folder)
    await folder.follower(*PROJECTORS).catch_up(WAIT_MAX_S)
    before = (hashed(folder, projector), positions(folder.engine, PROJECTORS), indexes(folder))
    position = await rebuild(folder.store, folder.engine, projector)
    assert position == await folder.store.head()
    after = (hashed(folder, projector), positions(folder.engine, PROJECTORS), indexes(folder))
    assert after == before


async def test_a_rebuild_mends_rows_that_are_wrong(folder: Folder) -> None:
    await some_history(folder)
    await folder.follower(DUE_RUNS).catch_up(WAIT_MAX_S)
    right = hashed(folder, DUE_RUNS)
    with folder.engine.begin() as connection:
        connection.execute(delete(due_runs))
    assert hashed(folder, DUE_RUNS) != right
    await rebuild(folder.store, folder.engine, DUE_RUNS)
    assert hashed(folder, DUE_RUNS) == right


async def test_a_rebuild_that_was_broken_off_leaves_nothing_behind_for_the_next_one(
    folder: Folder,
) -> None:
    await some_history(folder)
    await folder.follower(IDENTITY).catch_up(WAIT_MAX_S)

    def break_off(done: int, _: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await rebuild(folder.store, folder.engine, IDENTITY, break_off)
    right = hashed(folder, IDENTITY)
    assert workspaces.name + SHADOW in indexes(folder)
    await rebuild(folder.store, folder.engine, IDENTITY)
    assert hashed(folder, IDENTITY) == right
    assert set(indexes(folder)) == set(READ_MODELS.tables)


class Reader:
    """Reads all the time, in a thread and over a connection of its own."""

    def __init__(self, path: Path) -> None:
        self.counts: list[int] = []
        self.failures: list[Exception] = []
        self._enough = Event()
        self._engine = create_engine(f"sqlite:///file:{path}?mode=ro&uri=true")
        self._thread = Thread(target=self._read)

    def _read(self) -> None:
        with self._engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            while not self._enough.is_set():
                try:
                    found = connection.scalar(select(func.count()).select_from(workspaces))
                    self.counts.append(found or 0)
                except OperationalError as error:
                    self.failures.append(error)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()
        self._engine.dispose()


async def test_readers_and_the_follower_go_on_while_a_read_model_is_rebuilt(
    folder: Folder,
) -> None:
    await some_history(folder)
    other = Folder(folder.path)
    follower = folder.follower(IDENTITY)
    await follower.catch_up(WAIT_MAX_S)
    following = asyncio.create_task(follower.run())
    with Reader(folder.path / "read_models.db") as reader:
        await until(lambda: reader.counts)
        rebuilding = asyncio.create_task(
            asyncio.to_thread(lambda: asyncio.run(rebuilt_five_times(other)))
        )
        appended = 0
        while not rebuilding.done():
            appended += 1
            last = await folder.name_workspaces(f"new {appended}")
        await rebuilding
        assert await follower.wait("identity", last, timeout_s=WAIT_MAX_S)
        await until(lambda: reader.counts[-1] == 10 * LAST_LAP_MAX + 50 + appended)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    other.close()
    assert follower.failed == {}
    assert reader.failures == []
    assert reader.counts == sorted(reader.counts)
    live = hashed(folder, IDENTITY)
    await rebuild(folder.store, folder.engine, IDENTITY)
    assert hashed(folder, IDENTITY) == live


async def rebuilt_five_times(folder: Folder) -> None:
    for _ in range(5):
        await rebuild(folder.store, folder.engine, IDENTITY)


async def test_the_reads_of_a_server_survive_a_rebuild(folder: Folder) -> None:
    await some_history(folder)
    await folder.follower(DUE_RUNS).catch_up(WAIT_MAX_S)
    reads = Reads(folder.path / "read_models.db", folder.engine)
    before = await reads.ask(due, limit=100)
    await rebuild(folder.store, folder.engine, DUE_RUNS)
    assert await reads.ask(due, limit=100) == before
    assert len(before) == 10
    reads.close()


async def test_reads_cannot_write(folder: Folder) -> None:
    reads = Reads(folder.path / "read_models.db", folder.engine)

    def write(connection: Connection) -> None:
        connection.execute(delete(workspaces))

    with pytest.raises(OperationalError, match="readonly"):
        await reads.ask(write)
    reads.close()


def test_a_digest_depends_on_every_value_and_not_on_the_order_of_writing(folder: Folder) -> None:
    first = {"workspace_id": "a", "name": "A", "slug": "", "personal": False, "created_at": 1}
    second = first | {"workspace_id": "b", "name": "B", "created_at": 2}
    digests = set()
    for rows in ([first, second], [second, first], [first, second | {"created_at": 3}], [first]):
        with folder.engine.begin() as connection:
            connection.execute(delete(workspaces))
            connection.execute(workspaces.insert(), rows)
            digests.add(digest(connection, IDENTITY))
    assert len(digests) == 3


def test_a_locked_database_is_a_fault_that_passes_and_a_wrong_statement_is_not(
    folder: Folder,
) -> None:
    impatient = create_engine(
        f"sqlite:///{folder.path / 'read_models.db'}", connect_args={"timeout": 0}
    )
    with folder.engine.begin(), impatient.connect() as connection:
        with pytest.raises(OperationalError) as locked:
            connection.execute(delete(workspaces))
        with pytest.raises(OperationalError) as wrong:
            connection.execute(text("SELECT nothing FROM nowhere"))
    impatient.dispose()
    assert will_pass(locked.value)
    assert not will_pass(wrong.value)
    assert not will_pass(ValueError())


def test_opening_makes_what_tables_are_missing_and_keeps_the_others(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "read_models.db")
    with engine.begin() as connection:
        row = {"workspace_id": "a", "name": "A", "slug": "", "personal": False, "created_at": 1}
        connection.execute(workspaces.insert(), row)
        due_runs.drop(connection)
    engine.dispose()
    engine = open_engine(tmp_path / "read_models.db")
    with engine.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(workspaces)) == 1
        assert connection.scalar(select(func.count()).select_from(due_runs)) == 0
    engine.dispose()
