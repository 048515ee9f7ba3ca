"""What the log in a file promises beyond the contract of every store."""

import asyncio
import json
import random
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import pytest

from commands.transact import StorageFull, StorageUnavailable, Write
from domain.agents import AGENT
from domain.catalog import AnyEvent
from domain.errors import StreamConflict
from domain.events import CommandId, Recorded, StreamId
from infra.event_store.lane import LaneIsClosed
from infra.event_store.sqlite import COMMANDS_KEPT_S, PRUNED_MAX, SqliteLog
from infra.event_store.store import PAGE_ROWS_MAX, EventStore
from infra.vault import Vault
from tests.contracts.stores import ACME, ADA, BOB, CYD, a_turn, append, tag, tagged
from tests.contracts.writer import TASKS, Ack, acks, open_store, writing

BIG = "x" * 200_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def failures() -> list[Exception]:
    return []


@pytest.fixture
def log(path: Path, failures: list[Exception]) -> Iterator[SqliteLog]:
    with closing(SqliteLog(path, on_failure=failures.append, busy_timeout_s=0.05)) as log:
        yield log


@pytest.fixture
def store(log: SqliteLog) -> Iterator[EventStore]:
    with closing(Vault()) as vault:
        yield EventStore(log, vault)


@contextmanager
def another_connection(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file as any tool may."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be another process in the middle of a write."""
    with another_connection(path) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def rows(path: Path, table: str = "stored_events") -> list[tuple[object, ...]]:
    with another_connection(path) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


async def everything(store: EventStore) -> list[Recorded[AnyEvent]]:
    events: list[Recorded[AnyEvent]] = []
    while page := await store.read_all(after=len(events)):
        events += page
        if len(page) < PAGE_ROWS_MAX:
            break
    return events


# Append-only.


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stored_events SET state = x'00' WHERE position = 1",
        "UPDATE OR REPLACE stored_events SET position = 2 WHERE position = 1",
        "UPDATE OR IGNORE stored_events SET topic = 'other'",
        "DELETE FROM stored_events WHERE position = 2",
        "DELETE FROM stored_events",
        "INSERT OR REPLACE INTO stored_events VALUES (1, 'agent-acme+eve', 1, 't', x'00', 'acme')",
        f"INSERT OR REPLACE INTO stored_events VALUES (9, '{ADA}', 1, 't', x'00', 'acme')",
        f"INSERT OR REPLACE INTO stored_events VALUES (NULL, '{ADA}', 2, 't', x'00', 'acme')",
        f"REPLACE INTO stored_events VALUES (-1, '{ADA}', 2, 't', x'00', 'acme')",
        "INSERT INTO stored_events SELECT * FROM stored_events WHERE true ON CONFLICT DO NOTHING",
    ],
)
async def test_nobody_changes_what_is_recorded(
    store: EventStore, path: Path, statement: str
) -> None:
    await tag(store, ADA, 0, "a", "b")
    before = rows(path)
    with another_connection(path) as other, pytest.raises(sqlite3.IntegrityError, match="never"):
        other.execute(statement)
    assert rows(path) == before


async def test_nobody_leaves_a_gap_in_a_stream(store: EventStore, path: Path) -> None:
    await tag(store, ADA, 0, "a")
    before = rows(path)
    with another_connection(path) as other, pytest.raises(sqlite3.IntegrityError, match="gap"):
        other.execute("INSERT INTO stored_events VALUES (NULL, ?, 3, 't', x'00', 'acme')", (ADA,))
    assert rows(path) == before


async def test_people_read_events_as_json(store: EventStore, path: Path) -> None:
    await append(store, Write(ADA, 0, [tagged("Ä")]), command_id="c1")
    with another_connection(path) as other:
        cursor = other.execute("SELECT * FROM events")
        (row,) = cursor.fetchall()
    names = [column[0] for column in cursor.description]
    assert names == ["position", "stream_id", "stream_version", "type", "workspace_id", "body"]
    assert row[:5] == (1, ADA, 1, "agent_tagged", ACME)
    body = json.loads(row[5])
    assert body["event"] == {"type": "agent_tagged", "agent_id": 1, "tags": ["Ä"]}
    assert body["metadata"]["command_id"] == "c1"


async def test_equal_texts_are_kept_once(store: EventStore, path: Path) -> None:
    await append(store, blobs=[store.seal(ACME, "hello"), store.seal(ACME, "hello")])
    await append(store, blobs=[store.seal(ACME, "hello")])
    assert len(rows(path, "blobs")) == 1


# What is acknowledged is on the disk.


def test_every_commit_waits_for_the_disk(log: SqliteLog, path: Path) -> None:
    assert log._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    with another_connection(path) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def _check_acknowledged(folder: Path, told: list[Ack]) -> int:
    """Expect all that was told to be there, and at most what was under way beyond it."""
    with closing(open_store(folder)) as store:
        events = await everything(store)
        assert [event.global_position for event in events] == list(range(1, len(events) + 1))
        found = {(event.stream_id, event.stream_version): event for event in events}
        for ack in told:
            event = found[ack.stream_id, ack.version]
            assert (event.global_position, event.event) == (ack.position, tagged(ack.command_id))
        for place, event in found.items():
            await _check_companions(store, Ack(*place, event.global_position))
        return len(events)


async def _check_companions(store: EventStore, ack: Ack) -> None:
    """Expect the command and the text that were appended with an event."""
    known = await store.find_command(CommandId(ack.command_id))
    assert known is not None
    assert known.global_position == ack.position
    blob = store.seal(ACME, ack.command_id).blob
    assert await store.text(ACME, blob) == ack.command_id


def _kill_at_random(folder: Path, kills: int, seed: int) -> None:
    moments, told = random.Random(seed), list[Ack]()
    for _ in range(kills):
        with writing(folder, "w", count=10**9) as process:
            assert process.stdout is not None
            told += islice(acks(process.stdout), moments.randrange(1, 60))
            process.kill()
            told += acks(process.stdout)
    recorded = asyncio.run(_check_acknowledged(folder, told))
    assert len(told) <= recorded <= len(told) + kills * TASKS


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    _kill_at_random(tmp_path, kills=20, seed=20260131)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10))
def test_what_was_acknowledged_survives_many_kills(tmp_path: Path, seed: int) -> None:
    _kill_at_random(tmp_path, kills=20, seed=seed)


async def _write_threes(path: Path) -> None:
    with closing(SqliteLog(path)) as log, closing(Vault()) as vault:
        store = EventStore(log, vault)
        for n in range(20):
            tags = [tagged(str(n))]
            await append(store, Write(ADA, n, tags), Write(BOB, 2 * n, tags * 2))
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{path}.kept{suffix}")


async def _check_threes(path: Path) -> int:
    with closing(SqliteLog(path)) as log:
        events = await log.all(after=0, limit=100)
    assert [event.global_position for event in events] == list(range(1, len(events) + 1))
    assert len(events) % 3 == 0
    return len(events)


def test_a_write_that_was_cut_short_is_absent_as_a_whole(path: Path) -> None:
    asyncio.run(_write_threes(path))
    wal = Path(f"{path}.kept-wal").read_bytes()
    found: list[int] = []
    for size in sorted(random.Random(7).sample(range(len(wal)), 30)):
        cut = path.with_name(f"cut-{size}.db")
        shutil.copy(f"{path}.kept", cut)
        Path(f"{cut}-wal").write_bytes(wal[:size])
        found.append(asyncio.run(_check_threes(cut)))
    assert found == sorted(found)
    assert found[-1] > found[0] == 0


# Several processes.


def test_two_processes_write_one_log_in_one_order(tmp_path: Path) -> None:
    count = 40
    with writing(tmp_path, "one", count) as one, writing(tmp_path, "two", count) as two:
        assert one.stdout is not None
        assert two.stdout is not None
        told = [*acks(one.stdout), *acks(two.stdout)]
        assert (one.wait(), two.wait()) == (0, 0)
    assert len(told) == 2 * TASKS * count
    assert asyncio.run(_check_acknowledged(tmp_path, told)) == len(told)


async def test_a_write_that_another_process_holds_up_too_long_is_unavailable(
    store: EventStore, path: Path, failures: list[Exception]
) -> None:
    await tag(store, ADA, 0, "a")
    with locked(path):
        with pytest.raises(StorageUnavailable):
            await append(store, Write(ADA, 1, [tagged("b")]), command_id="c1")
        assert len(await store.read_all()) == 1
    assert await store.find_command(CommandId("c1")) is None
    assert await append(store, Write(ADA, 1, [tagged("b")]), command_id="c1") == 2
    assert failures == []


def test_what_is_queued_is_written_though_the_event_loop_has_ended(path: Path) -> None:
    async def leave(store: EventStore) -> None:
        calls = []
        for stream_id in (ADA, BOB, CYD):
            calls.append(asyncio.create_task(tag(store, stream_id, 0, "queued")))
            await a_turn()

    with closing(SqliteLog(path)) as log, closing(Vault()) as vault:
        with locked(path):
            asyncio.run(leave(EventStore(log, vault)))
        log.close()
    assert [row[1] for row in rows(path)] == [ADA, BOB, CYD]


# A full disk.


@contextmanager
def full(log: SqliteLog) -> Iterator[None]:
    """Leave no room in the file."""
    (pages,) = log._writer.execute("PRAGMA page_count").fetchone()
    log._writer.execute(f"PRAGMA max_page_count = {pages}")
    yield
    log._writer.execute("PRAGMA max_page_count = 1000000")


async def test_a_full_disk_refuses_appends_until_there_is_room(
    store: EventStore, log: SqliteLog, path: Path, failures: list[Exception]
) -> None:
    await tag(store, ADA, 0, "a")
    tables = ("stored_events", "commands", "blobs")
    before = [rows(path, table) for table in tables]
    with full(log):
        outcomes = await asyncio.gather(
            append(store, Write(BOB, 0, [tagged("b")]), blobs=[store.seal(ACME, BIG)]),
            tag(store, CYD, 0, BIG),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [StorageFull] * 2
        assert [rows(path, table) for table in tables] == before
        assert (await store.load(AGENT, ADA, fresh=True)).version == 1
    assert await tag(store, CYD, 0, BIG) == 2
    assert failures == []


async def test_a_disk_that_is_full_when_a_conflict_is_set_apart_stays_usable(
    store: EventStore, log: SqliteLog, failures: list[Exception]
) -> None:
    await tag(store, ADA, 0, "a")
    with full(log):
        outcomes = await asyncio.gather(
            tag(store, ADA, 0, "stale"),
            append(store, blobs=[store.seal(ACME, BIG)]),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [StorageFull] * 2
    assert await tag(store, BOB, 0, BIG) == 2
    with pytest.raises(StreamConflict):
        await tag(store, ADA, 0, "stale")
    assert failures == []


# A broken disk.


@contextmanager
def failing_writes() -> Iterator[None]:
    """Let the operating system refuse every write at the end of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_failing_disk_closes_the_store_and_says_so_once(
    store: EventStore, log: SqliteLog, path: Path, failures: list[Exception]
) -> None:
    await tag(store, ADA, 0, "a")
    with failing_writes(), pytest.raises(sqlite3.OperationalError, match="disk I/O"):
        await tag(store, ADA, 1, "b")
    for _ in range(3):
        with pytest.raises(LaneIsClosed):
            await tag(store, ADA, 1, "c")
    assert len(await store.read_all()) == 1
    log.close()
    assert [type(failure) for failure in failures] == [sqlite3.OperationalError]
    assert len(rows(path)) == 1


# One append's own fault.


async def test_a_value_that_cannot_be_stored_harms_no_other_append(
    store: EventStore, failures: list[Exception]
) -> None:
    outcomes = await asyncio.gather(
        tag(store, ADA, 0, "a"),
        tag(store, StreamId("agent-acme+\ud800"), 0, "half a character"),
        tag(store, BOB, 2**70, "too far"),
        tag(store, CYD, 0, "c"),
        return_exceptions=True,
    )
    assert [outcomes[0], outcomes[3]] == [1, 2]
    assert [type(outcome) for outcome in outcomes[1:3]] == [UnicodeEncodeError, OverflowError]
    assert [event.stream_id for event in await store.read_all()] == [ADA, CYD]
    assert failures == []


# Forgetting.


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


async def _remembered(store: EventStore, *command_ids: str) -> list[str]:
    return [each for each in command_ids if await store.find_command(CommandId(each))]


async def test_a_command_is_forgotten_after_a_day(path: Path) -> None:
    clock = Clock()
    with closing(SqliteLog(path, now=clock)) as log, closing(Vault()) as vault:
        store = EventStore(log, vault)
        await append(store, Write(ADA, 0, [tagged("a")]), command_id="old")
        clock.now_s += 2
        await append(store, command_id="young")
        clock.now_s += COMMANDS_KEPT_S - 1
        await append(store, command_id="new")
        assert await _remembered(store, "old", "young", "new") == ["young", "new"]
        assert await append(store, Write(ADA, 1, [tagged("b")]), command_id="old") == 2


async def test_forgetting_never_takes_long(path: Path) -> None:
    clock = Clock()
    with closing(SqliteLog(path, now=clock)) as log, closing(Vault()) as vault:
        store = EventStore(log, vault)
        old = [str(n) for n in range(PRUNED_MAX + 10)]
        await asyncio.gather(*(append(store, command_id=each) for each in old))
        clock.now_s += COMMANDS_KEPT_S + 1
        await append(store)
        assert len(await _remembered(store, *old)) == 10
        await append(store)
        assert await _remembered(store, *old) == []
