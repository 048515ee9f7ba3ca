"""Following the log: in order, in batches, and past whatever goes wrong."""

import asyncio
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select
from structlog.testing import capture_logs

from domain.events import WorkspaceId
from infra import follower as follower_module
from infra import projecting
from infra.event_store.lane import Append, NewRow
from infra.event_store.sqlite import SqliteLog
from infra.follower import BATCH_MAX, Follower
from projections.identity import IdentityProjector, workspaces
from projections.projector import unpark
from tests.infra.recording import ACME, WAIT_MAX_S, Diary, Folder, until

OTHER = WorkspaceId("globex")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    opened = Folder(tmp_path)
    Diary.table.create(opened.engine)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """Capture the log; its default way of showing a traceback takes seconds."""
    with capture_logs() as captured:
        yield captured


@asynccontextmanager
async def following(follower: Follower) -> AsyncIterator[None]:
    task = asyncio.create_task(follower.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def names(folder: Folder) -> list[str]:
    with folder.engine.begin() as connection:
        return sorted(connection.scalars(select(workspaces.c.name)))


def noted(folder: Folder) -> list[int]:
    with folder.engine.begin() as connection:
        return list(connection.scalars(select(Diary.table.c.position)))


# In order.


async def test_events_are_projected_once_in_the_order_of_the_log(folder: Folder) -> None:
    diary = Diary()
    async with following(follower := folder.follower(diary)):
        for name in "abcdef":
            last = await folder.name_workspaces(name, name)
        assert await follower.wait("diary", last, timeout_s=WAIT_MAX_S)
    assert diary.seen == list(range(1, 13))
    assert noted(folder) == diary.seen


async def test_no_transaction_projects_more_than_a_batch(folder: Folder) -> None:
    last = await folder.name_workspaces(*(["a"] * (2 * BATCH_MAX + 1)))
    diary = Diary()
    assert await folder.follower(diary).catch_up(WAIT_MAX_S)
    sizes = [len(list(group)) for _, group in groupby(diary.batches, key=id)]
    assert sizes == [BATCH_MAX, BATCH_MAX, 1]
    assert len(noted(folder)) == last


async def test_a_new_follower_goes_on_where_the_last_one_was(folder: Folder) -> None:
    await folder.name_workspaces("a", "b")
    await folder.follower(Diary()).catch_up()
    await folder.name_workspaces("c")
    diary = Diary()
    follower = folder.follower(diary)
    assert follower.position("diary") == 2
    await follower.catch_up()
    assert diary.seen == [3]


async def test_a_projector_that_is_behind_does_not_make_the_others_project_twice(
    folder: Folder,
) -> None:
    await folder.name_workspaces("a", "b")
    diary = Diary()
    await folder.follower(diary).catch_up()
    await folder.follower(IdentityProjector(), diary).catch_up()
    assert diary.seen == [1, 2]
    assert names(folder) == ["a", "b"]


async def test_what_another_process_appends_is_noticed(folder: Folder) -> None:
    other = Folder(folder.path)
    async with following(follower := folder.follower(Diary())):
        await until(lambda: folder.store._waiters)
        last = await other.name_workspaces("a")
        assert await follower.wait("diary", last, timeout_s=WAIT_MAX_S)
    other.close()


# Waiting.


async def test_waiting_for_what_is_not_projected_ends_in_time(folder: Folder) -> None:
    async with following(follower := folder.follower(Diary())):
        assert not await follower.wait("diary", 1, timeout_s=0.05)


async def test_waiting_for_a_projector_that_has_stopped_ends_at_once(folder: Folder) -> None:
    Diary.table.drop(folder.engine)
    follower = folder.follower(Diary())
    async with following(follower):
        last = await folder.name_workspaces("a")
        async with asyncio.timeout(WAIT_MAX_S):
            assert not await follower.wait("diary", last, timeout_s=10 * WAIT_MAX_S)


async def test_all_who_wait_are_woken(folder: Folder) -> None:
    async with following(follower := folder.follower(Diary())):
        waiting = [
            asyncio.create_task(follower.wait("diary", 1, timeout_s=WAIT_MAX_S)) for _ in range(50)
        ]
        await folder.name_workspaces("a")
        assert all(await asyncio.gather(*waiting))
    assert follower._waiters == set()


# What goes wrong.


async def test_reads_of_a_parked_workspace_are_told_to_be_older_than_its_event_at_fault(
    folder: Folder,
) -> None:
    follower = folder.follower(Diary(poison="b"))
    async with following(follower):
        last = await folder.name_workspaces("a", "b", "c")
        assert await follower.wait("diary", last, timeout_s=WAIT_MAX_S)
    assert await follower.reach("diary", ACME, last, timeout_s=WAIT_MAX_S) == 1
    assert await follower.reach("diary", OTHER, last, timeout_s=WAIT_MAX_S) == last
    assert follower.failed == {}


async def test_a_follower_notices_that_another_process_has_unparked_a_workspace(
    folder: Folder,
) -> None:
    follower = folder.follower(Diary(poison="a"))
    async with following(follower):
        await folder.name_workspaces("a")
        await until(lambda: follower.parked["diary"] == {ACME: 1})
        with folder.engine.begin() as connection:
            unpark(connection, "diary", ACME)
        await until(lambda: not follower.parked["diary"])


async def test_a_fault_that_passes_needs_nobody_to_unpark_its_workspace(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projecting, "RETRY_AFTER_S", (0.0, 3_600.0, 3_600.0))
    diary = Diary(poison="a")
    follower = folder.follower(diary)
    last = await folder.name_workspaces("a", "b")
    await follower.catch_up()
    assert follower.parked_counts() == {"diary": 1}
    diary.poison = ""
    async with following(follower):
        await until(lambda: not follower.parked_counts())
    assert noted(folder) == [1, 2]
    assert await follower.reach("diary", ACME, last, timeout_s=0) == last


async def test_an_event_that_cannot_be_read_parks_its_workspace_alone(
    folder: Folder, logs: list[MutableMapping[str, Any]]
) -> None:
    await folder.name_workspaces("a")
    lane = SqliteLog(folder.path / "events.db")
    await asyncio.to_thread(
        lane.write, Append([NewRow("agent-acme+1", 1, "agent_moulted", b"{}", ACME)])
    )
    lane.close()
    await folder.name_workspaces("b")
    follower = folder.follower(Diary())
    assert await follower.catch_up()
    assert follower.failed == {}
    assert follower.parked["diary"] == {ACME: 2}
    assert follower.position("diary") == 3
    assert [log["log_level"] for log in logs] == ["error"]


async def test_a_missing_table_stops_the_projector_instead_of_being_tried_for_ever(
    folder: Folder,
) -> None:
    Diary.table.drop(folder.engine)
    follower = folder.follower(Diary(), IdentityProjector())
    await folder.name_workspaces("a")
    assert await follower.catch_up()
    assert "no such table: diary" in follower.failed["diary"]
    assert names(folder) == ["a"]


async def test_a_full_disk_holds_the_read_models_up_until_there_is_room(
    folder: Folder, logs: list[MutableMapping[str, Any]]
) -> None:
    limit = [1]  # A limit below the file's size is that size: it may not grow.

    def on_begin(connection: Any) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {limit[0]}")

    event.listen(folder.engine, "begin", on_begin)
    follower = folder.follower(Diary(), IdentityProjector())
    last = await folder.name_workspaces(*(str(number) * 1_000 for number in range(100)))
    async with following(follower):
        await until(lambda: logs)
        assert not await follower.catch_up(0.01)
        limit[0] = 2**30
        for name in ("diary", "identity"):
            assert await follower.wait(name, last, timeout_s=WAIT_MAX_S)
        await until(lambda: len(logs) == 2)
    assert follower.failed == {}
    assert len(names(folder)) == 100
    assert "disk is full" in logs[0]["error"]
    assert logs[1]["event"] == "read models are written again"


async def test_a_follower_that_has_ended_has_nothing_to_catch_up_with(folder: Folder) -> None:
    follower = folder.follower(Diary())
    async with following(follower):
        await until(lambda: folder.store._waiters)
    await folder.name_workspaces("a")
    assert await follower.catch_up()
    assert noted(folder) == []


async def test_events_are_gathered_until_a_reader_waits_for_them(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "GATHER_S", 3_600)
    diary = Diary()
    async with following(follower := folder.follower(diary)):
        for name in "abcdef":
            last = await folder.name_workspaces(name)
        assert await follower.wait("diary", last, timeout_s=WAIT_MAX_S)
    assert diary.seen == list(range(1, last + 1))
    assert len(set(map(id, diary.batches))) <= 2
