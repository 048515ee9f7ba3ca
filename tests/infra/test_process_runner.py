"""Keeping runs going: which are advanced, when, how many at once, and how it ends."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from commands.transact import StorageFull
from domain.events import StreamId, WorkspaceId
from infra import process_runner
from infra.process_runner import FAULT_PAUSE, RUNS_AT_ONCE_MAX, STORE_PAUSE, ProcessRunner
from infra.read_store import Reads
from projections.runs import DueRunsProjector
from tests.infra.recording import NOON, WAIT_MAX_S, Folder, until

MANY = RUNS_AT_ONCE_MAX + 6


class Process:
    """Advances nothing, but tells what was asked of it. Goes on when it is let.

    Attributes:
        outcome: What comes of advancing a run; it may raise.
    """

    def __init__(self) -> None:
        self.asked: Counter[StreamId] = Counter()
        self.going: Counter[StreamId] = Counter()
        self.let = asyncio.Event()
        self.let.set()
        self.outcome: Callable[[StreamId], datetime | None] = lambda _: None
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True

    async def advance(self, workspace_id: WorkspaceId, stream_id: StreamId) -> datetime | None:
        self.asked[stream_id] += 1
        self.going[stream_id] += 1
        try:
            await self.let.wait()
            return self.outcome(stream_id)
        finally:
            self.going[stream_id] -= 1


class Stage:
    """A runner on a folder, with a clock that only tests move."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.now = NOON
        self.process = Process()
        self.follower = folder.follower(DueRunsProjector())
        self.reads = Reads(folder.path / "read_models.db", folder.engine)
        self.runner = ProcessRunner(self.process, self.follower, self.reads, lambda: self.now)
        self.looks = 0
        event.listen(self.reads._connection, "before_cursor_execute", self._count)

    @asynccontextmanager
    async def going(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.follower.run()), asyncio.create_task(self.runner.run())]
        try:
            yield
        finally:
            self.process.let.set()
            for task in tasks:
                task.cancel()
            with suppress(asyncio.CancelledError, OperationalError):
                await asyncio.gather(*tasks)
            await self.runner.drain()

    async def looked_again(self) -> None:
        """Wait until the runner has looked at all that is due, and done something about it."""
        await until(partial(self._has_looked, self.looks + 2))

    async def head(self) -> int:
        return await self.folder.store.head()

    def _has_looked(self, times: int) -> bool:
        return self.looks >= times

    def _count(self, *_: Any) -> None:
        self.looks += 1


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    with capture_logs() as captured:
        yield captured


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(process_runner, "LOOK_S", 0.02)
    folder = Folder(tmp_path)
    made = Stage(folder)
    yield made
    made.reads.close()
    folder.close()


def tell(stream_id: StreamId, outcome: Callable[[], datetime | None]) -> Any:
    """Let something become of one run, and nothing of the others."""
    return lambda asked: outcome() if asked == stream_id else None


# Which runs, and how many.


async def test_runs_that_a_process_before_left_behind_are_gone_on_with(stage: Stage) -> None:
    left = [await stage.folder.start_run(number) for number in range(3)]
    async with stage.going():
        await until(lambda: all(stage.process.asked[run] for run in left))


async def test_a_run_that_has_ended_is_not_asked_again(stage: Stage) -> None:
    ended = await stage.folder.start_run(1)
    await stage.folder.end_run(1)
    async with stage.going():
        await stage.looked_again()
    assert stage.process.asked[ended] == 0


async def test_a_run_is_never_advanced_twice_at_the_same_time(stage: Stage) -> None:
    stage.process.let.clear()
    run = await stage.folder.start_run(1)
    async with stage.going():
        await stage.looked_again()
        assert stage.process.asked[run] == stage.process.going[run] == 1


async def test_no_more_runs_than_the_bound_go_on_at_once_and_each_gets_its_turn(
    stage: Stage,
) -> None:
    stage.process.let.clear()
    runs = [await stage.folder.start_run(number) for number in range(MANY)]
    stage.process.outcome = lambda _: stage.now + timedelta(hours=1)
    async with stage.going():
        await until(lambda: stage.process.going.total() == RUNS_AT_ONCE_MAX)
        await stage.looked_again()
        assert stage.process.asked.total() == RUNS_AT_ONCE_MAX
        stage.process.let.set()
        await until(lambda: all(stage.process.asked[run] for run in runs))


# Sleeping.


async def test_a_run_sleeps_until_its_time_has_come(stage: Stage) -> None:
    sleeper = await stage.folder.start_run(1)
    stage.process.outcome = tell(sleeper, lambda: NOON + timedelta(minutes=5))
    async with stage.going():
        await until(lambda: stage.process.asked[sleeper])
        stage.now = NOON + timedelta(minutes=4, seconds=59)
        await stage.looked_again()
        assert stage.process.asked[sleeper] == 1
        stage.now = NOON + timedelta(minutes=5)
        await until(lambda: stage.process.asked[sleeper] == 2)


async def test_runs_that_sleep_do_not_hide_one_that_is_due(stage: Stage) -> None:
    sleepers = [await stage.folder.start_run(number) for number in range(3 * RUNS_AT_ONCE_MAX)]
    stage.process.outcome = lambda _: NOON + timedelta(hours=1)
    async with stage.going():
        await until(lambda: all(stage.process.asked[run] for run in sleepers))
        due = await stage.folder.start_run(1_000)
        await until(lambda: stage.process.asked[due])
    assert all(stage.process.asked[run] == 1 for run in sleepers)


async def test_a_run_is_taken_up_as_soon_as_it_is_recorded(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_runner, "LOOK_S", 3_600)
    async with stage.going():
        await until(lambda: stage.looks)
        run = await stage.folder.start_run(1)
        await until(lambda: stage.process.asked[run])
        looked = stage.looks
        await stage.folder.name_workspaces("a")
        assert await stage.follower.wait("due_runs", await stage.head(), timeout_s=WAIT_MAX_S)
        assert stage.looks == looked


# What goes wrong.


async def test_a_run_that_fails_is_left_alone_for_a_while_and_the_others_go_on(
    stage: Stage, logs: list[MutableMapping[str, Any]]
) -> None:
    broken = await stage.folder.start_run(1)

    def fail() -> datetime | None:
        raise RuntimeError("nobody foresaw this")

    stage.process.outcome = tell(broken, fail)
    async with stage.going():
        await until(lambda: stage.process.asked[broken])
        await stage.looked_again()
        assert stage.process.asked[broken] == 1
        assert [(log["log_level"], log["run"]) for log in logs] == [("error", broken)]
        stage.now = NOON + FAULT_PAUSE
        await until(lambda: stage.process.asked[broken] == 2)


async def test_a_run_that_the_store_has_no_room_for_is_tried_again_soon(stage: Stage) -> None:
    waiting = await stage.folder.start_run(1)

    def refuse() -> datetime | None:
        raise StorageFull("full")

    stage.process.outcome = tell(waiting, refuse)
    async with stage.going():
        await until(lambda: stage.process.asked[waiting])
        await stage.looked_again()
        assert stage.process.asked[waiting] == 1
        stage.now = NOON + STORE_PAUSE
        await until(lambda: stage.process.asked[waiting] == 2)


async def test_a_read_model_that_is_gone_ends_the_runner_instead_of_hiding_all_runs(
    stage: Stage,
) -> None:
    with stage.folder.engine.begin() as connection:
        connection.execute(text("DROP TABLE due_runs"))
    with pytest.raises(OperationalError, match="no such table"):
        await stage.runner.run()


# Stopping.


async def test_stopping_waits_for_what_is_going_on(stage: Stage) -> None:
    stage.process.let.clear()
    run = await stage.folder.start_run(1)
    async with stage.going():
        await until(lambda: stage.process.going[run])
        draining = asyncio.create_task(stage.runner.drain())
        await stage.follower.changed("due_runs", stage.follower.touched("due_runs"), timeout_s=0.05)
        assert not draining.done()
        assert stage.process.stopped
        stage.process.let.set()
        await draining
        assert stage.process.going[run] == 0


async def test_stopping_does_not_wait_for_ever(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_runner, "DRAIN_S", 0.01)
    stage.process.let.clear()
    run = await stage.folder.start_run(1)
    async with stage.going():
        await until(lambda: stage.process.going[run])
        await stage.runner.drain()
        assert stage.process.going[run] == 0
