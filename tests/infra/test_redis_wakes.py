"""Wake-ups through Redis: others hear at once; without Redis nobody waits for it, nor fails."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from time import monotonic

import pytest
from redis import Redis

from commands.transact import Write
from domain.agents import AGENT
from domain.events import WorkspaceId
from infra.event_store.memory import MemoryLog
from infra.event_store.store import EventStore
from infra.ids import new_uuid
from infra.redis_wakes import APPENDED, GATHERED_MAX, RedisWakes
from infra.vault import Vault
from tests.contracts.stores import WAIT_MAX_S, append, tagged
from tests.servers.fixtures import Private

LONG_S = WAIT_MAX_S * 10
"""Far longer than a test: who waits so long was woken, and did not just look again."""


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test fails if it never comes true."""
    async with asyncio.timeout(WAIT_MAX_S):
        while not condition():  # noqa: ASYNC110 it is on the other side of Redis
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(wakes: RedisWakes, *, heard: bool = True) -> AsyncIterator[RedisWakes]:
    task = asyncio.create_task(wakes.run())
    try:
        if heard:
            await until(lambda: not wakes.degraded)
        yield wakes
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Process:
    """What a process has: a store of its own over the common log, told of by Redis."""

    def __init__(self, log: MemoryLog, url: str) -> None:
        self.store = EventStore(log, Vault())
        self.wakes = RedisWakes(url, appended=self.store.heard)
        self.store.tell = self.wakes.tell_appended

    async def append(self, workspace_id: WorkspaceId) -> int:
        stream = AGENT.stream_id(workspace_id, new_uuid())
        write = Write(stream, 0, [tagged("x")])
        position = await append(self.store, write, workspace_id=workspace_id)
        assert position is not None
        return position


@pytest.fixture
def workspace() -> WorkspaceId:
    """Give one that no other test appends to: a server's channels are everybody's."""
    return WorkspaceId(new_uuid())


@asynccontextmanager
async def two_processes(url: str, *, heard: bool = True) -> AsyncIterator[tuple[Process, Process]]:
    log = MemoryLog()
    here, there = Process(log, url), Process(log, url)
    async with AsyncExitStack() as stack:
        for process in (here, there):
            await stack.enter_async_context(running(process.wakes, heard=heard))
        yield here, there


# Hearing.


async def test_who_waits_for_changes_hears_of_another_process_s_append_at_once(
    redis_url: str, workspace: WorkspaceId
) -> None:
    async with two_processes(redis_url) as (here, there):
        waiting = asyncio.create_task(there.store.changed(LONG_S))
        await asyncio.sleep(0)
        position = await here.append(workspace)
        async with asyncio.timeout(WAIT_MAX_S):
            await waiting
        await until(lambda: there.store.last_write(workspace) == position)


async def test_heads_only_grow_however_late_they_are_heard(
    redis_url: str, workspace: WorkspaceId
) -> None:
    async with two_processes(redis_url) as (here, there):
        positions = [await here.append(workspace) for _ in range(50)]
        await until(lambda: there.store.last_write(workspace) == positions[-1])
        there.store.heard({workspace: positions[0]})
        assert there.store.last_write(workspace) == positions[-1]


async def test_what_many_appends_move_is_told_all(redis_url: str) -> None:
    workspaces = [WorkspaceId(new_uuid()) for _ in range(200)]
    async with two_processes(redis_url) as (here, there):
        positions = await asyncio.gather(*map(here.append, workspaces))
        await until(lambda: [there.store.last_write(w) for w in workspaces] == positions)


async def test_readers_hear_how_far_a_projector_has_come(redis_url: str) -> None:
    projector, seen = new_uuid(), dict[int, int]()

    def projected(heard: Mapping[str, Mapping[int, int]]) -> None:
        seen.update(heard.get(projector, {}))

    teller, hearer = RedisWakes(redis_url), RedisWakes(redis_url, projected=projected)
    async with running(teller), running(hearer):
        teller.tell_projected(projector, {0: 17, 3: 5})
        teller.tell_projected(projector, {3: 20})
        await until(lambda: seen == {0: 17, 3: 20})


@pytest.mark.parametrize(
    "junk", [b"", b"{", b"[]", b'{"a": "b"}', b'{"a": null}', b"\xff\xfe", b'{"a": 1.5}']
)
async def test_what_is_none_of_our_messages_disturbs_nobody(
    redis_url: str, workspace: WorkspaceId, junk: bytes
) -> None:
    async with two_processes(redis_url) as (here, there):
        with Redis.from_url(redis_url) as client:
            client.publish(APPENDED, junk)
        position = await here.append(workspace)
        await until(lambda: there.store.last_write(workspace) == position)


# Without Redis.


async def test_without_redis_appends_neither_wait_nor_fail(workspace: WorkspaceId) -> None:
    async with two_processes("redis://127.0.0.1:1", heard=False) as (here, there):
        for _ in range(20):
            await here.append(workspace)
        assert here.wakes.degraded
        assert there.store.last_write(workspace) == 0
        assert len(await there.store.read_workspace(workspace)) == 20


async def test_processes_hear_each_other_again_when_redis_is_back(
    private_redis: Private, workspace: WorkspaceId
) -> None:
    server = private_redis()
    async with two_processes(server.url) as (here, there):
        server.kill()
        await until(lambda: here.wakes.degraded and there.wakes.degraded)
        await here.append(workspace)
        server.start()
        await until(lambda: not (here.wakes.degraded or there.wakes.degraded))
        position = await here.append(workspace)
        await until(lambda: there.store.last_write(workspace) == position)


async def test_a_redis_that_hangs_delays_no_append_and_is_noticed(
    private_redis: Private, workspace: WorkspaceId
) -> None:
    server = private_redis()
    async with two_processes(server.url) as (here, there):
        server.pause()
        begun = monotonic()
        for _ in range(20):
            await here.append(workspace)
        assert monotonic() - begun < WAIT_MAX_S / 3
        await until(lambda: here.wakes.degraded and there.wakes.degraded)
        server.resume()
        await until(lambda: not (here.wakes.degraded or there.wakes.degraded))
        position = await here.append(workspace)
        await until(lambda: there.store.last_write(workspace) == position)


async def test_what_gathers_while_redis_is_away_is_bounded() -> None:
    wakes = RedisWakes("redis://127.0.0.1:1")
    for number in range(GATHERED_MAX + 100):
        wakes.tell_appended({WorkspaceId(str(number)): 1})
    assert len(wakes._heads) == GATHERED_MAX
