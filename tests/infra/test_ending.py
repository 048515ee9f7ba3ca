"""The end of tasks that go on for ever."""

import asyncio
from contextlib import suppress

import pytest
from psycopg_pool import AsyncConnectionPool
from structlog.testing import capture_logs

from infra import ending
from infra.ending import end

WITHIN_S = 30.0
TURNS_MAX = 8
"""Of the loop, in which a connection is handed from one to the next."""


async def waiting_for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_task_that_loses_a_cancellation_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ending, "AGAIN_S", 0.01)
    lost = 0

    async def losing_one() -> None:
        nonlocal lost
        try:
            await waiting_for_ever()
        except asyncio.CancelledError:
            lost += 1
        await waiting_for_ever()

    tasks = [asyncio.create_task(losing_one()), asyncio.create_task(waiting_for_ever())]
    await asyncio.sleep(0)
    async with asyncio.timeout(WITHIN_S):
        await end(tasks)
    assert lost == 1
    assert all(task.cancelled() for task in tasks)


async def test_a_task_may_tidy_up_before_its_end() -> None:
    tidy = asyncio.Event()

    async def tidying() -> None:
        try:
            await waiting_for_ever()
        finally:
            await asyncio.sleep(0)
            tidy.set()

    task = asyncio.create_task(tidying())
    await asyncio.sleep(0)
    await end([task])
    assert tidy.is_set()


async def test_the_fault_of_a_task_is_not_its_ender_s() -> None:
    async def failing() -> None:
        raise ValueError

    task = asyncio.create_task(failing())
    await asyncio.sleep(0)
    await end([task])
    assert isinstance(task.exception(), ValueError)
    await end([])


async def test_a_task_that_never_ends_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "AGAIN_S", 0.01)
    over = False

    async def stubborn() -> None:
        while not over:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(WITHIN_S)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    with capture_logs() as logs:
        await end([task])
    assert [log["log_level"] for log in logs] == ["error"]
    assert not task.done()
    over = True
    await end([task])
    assert task.done()


async def test_who_waits_for_the_driver_s_pool_ends_in_whatever_moment_he_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    monkeypatch.setattr(ending, "AGAIN_S", 0.05)

    async def using(pool: AsyncConnectionPool) -> None:
        async with pool.connection():
            await waiting_for_ever()

    async with AsyncConnectionPool(postgres_url, min_size=1, max_size=1, open=False) as pool:
        for turns in range(TURNS_MAX):
            held = await pool.getconn()
            task = asyncio.create_task(using(pool))
            for _ in range(TURNS_MAX):
                await asyncio.sleep(0)
            await pool.putconn(held)
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(WITHIN_S):
                await end([task])
            assert task.done()
