"""Several API processes on one port: what one records the others tell of, and none is needed."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import quantiles
from time import monotonic
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from domain.events import WorkspaceId
from infra.ids import new_uuid
from tests.api_processes import (
    WAIT_MAX_S,
    Installation,
    Processes,
    agent,
    projected,
    serving,
    until,
)
from tests.servers.fixtures import Private

STOP_MAX_S = 30.0
STREAM = "/api/events/stream"
WORKERS = 2
TICKETS = 12


@pytest.fixture
async def installation(postgres_url: str, tmp_path: Path) -> AsyncIterator[Installation]:
    async with projected(postgres_url, tmp_path) as made:
        yield made


@pytest.fixture
def workspace() -> WorkspaceId:
    return WorkspaceId(new_uuid())


@pytest.fixture
async def key(installation: Installation, workspace: WorkspaceId) -> str:
    return await installation.key(workspace)


@pytest.fixture
async def api(
    installation: Installation, redis_url: str, tmp_path: Path
) -> AsyncIterator[Processes]:
    async with serving(installation, tmp_path, WORKERS, REDIS_URL=redis_url) as processes:
        yield processes


class Follower:
    """A client that reads the live stream.

    Attributes:
        lines: What it has received, with the moment.
        agents: Ids of those that it has been told of, with the moment.
    """

    def __init__(self, answer: httpx.Response) -> None:
        self.lines: list[str] = []
        self.agents: dict[int, float] = {}
        self.task = asyncio.create_task(self._read(answer))

    async def _read(self, answer: httpx.Response) -> None:
        async for line in answer.aiter_lines():
            self.lines.append(line)
            if line.startswith("data: "):
                told = json.loads(line.removeprefix("data: "))["data"]
                self.agents[told.get("agent_id", 0)] = monotonic()


@asynccontextmanager
async def following(api: Processes, key: str) -> AsyncIterator[Follower]:
    async with api.client(key) as client, client.stream("GET", STREAM) as answer:
        follower = Follower(answer)
        try:
            yield follower
        finally:
            follower.task.cancel()


def serving_workers(api: Processes) -> set[int]:
    """Tell which workers have a connection open."""
    port = urlsplit(api.url).port
    return {
        pid
        for pid in api.workers
        for connection in psutil.Process(pid).net_connections("tcp")
        if connection.status == psutil.CONN_ESTABLISHED and connection.laddr[1] == port
    }


async def everywhere(api: Processes, key: str, stack: AsyncExitStack) -> list[Follower]:
    """Open streams until every worker serves one."""
    followers: list[Follower] = []
    async with asyncio.timeout(WAIT_MAX_S):
        while serving_workers(api) != set(api.workers):
            followers.append(await stack.enter_async_context(following(api, key)))
    return followers


async def told(followers: list[Follower], made: Any) -> None:
    async def all_know() -> bool:
        return all(made["id"] in follower.agents for follower in followers)

    await until(all_know, f"all streams have told of {made['name']}")


# Together.


async def test_streams_of_every_process_tell_what_any_process_records(
    api: Processes, key: str, record_property: Callable[[str, object], None]
) -> None:
    delays: list[float] = []
    async with AsyncExitStack() as stack, api.client(key) as client:
        followers = await everywhere(api, key, stack)
        for number in range(50):
            made = await agent(client, f"Agent {number}")
            answered = monotonic()
            await told(followers, made)
            delays += [max(0.0, f.agents[made["id"]] - answered) * 1_000 for f in followers]
    cuts = quantiles(delays, n=100)
    record_property(
        "figure", f"answer -> SSE through {WORKERS} processes: {cuts[49]:.1f} / {cuts[98]:.1f} ms"
    )


async def test_a_write_is_read_through_any_process_that_is_told_its_position(
    api: Processes, key: str
) -> None:
    async with api.client(key) as client:
        for number in range(20):
            made = await client.post("/api/agents", json={"name": f"Agent {number}"})
            position = {"Min-Position": made.headers["X-Event-Position"]}
            path = f"/api/agents/{made.json()['id']}"
            reads = [client.get(path, headers=position) for _ in range(4)]
            for read in await asyncio.gather(*reads):
                assert (read.status_code, read.json()) == (200, made.json())
                assert "X-Stale" not in read.headers


async def test_ids_of_forked_processes_are_their_own(
    api: Processes, key: str, installation: Installation, workspace: WorkspaceId
) -> None:
    async with api.client(key) as client:
        made = await asyncio.gather(*(agent(client, f"Agent {n}") for n in range(100)))
    assert len({each["id"] for each in made}) == 100
    log = await installation.writing.store.read_workspace(workspace)
    assert len({recorded.event_id for recorded in log}) == len(log)


async def test_without_redis_streams_and_commands_go_on_and_readiness_says_so(
    installation: Installation, private_redis: Private, tmp_path: Path, key: str
) -> None:
    redis = private_redis()
    async with (
        serving(installation, tmp_path, WORKERS, REDIS_URL=redis.url) as api,
        AsyncExitStack() as stack,
        api.client(key) as client,
    ):
        followers = await everywhere(api, key, stack)
        assert await degraded(client) == []
        redis.kill()
        await until(is_degraded(client, ["redis"]), "readiness lists Redis")
        for number in range(3):
            await told(followers, await agent(client, f"Without {number}"))
        redis.start()
        await until(is_degraded(client, []), "Redis is back")
        await told(followers, await agent(client, "With"))


async def degraded(client: httpx.AsyncClient) -> Any:
    answer = await client.get("/health/ready")
    assert answer.status_code == 200, answer.text
    return answer.json()["degraded"]


def is_degraded(client: httpx.AsyncClient, wanted: list[str]) -> Callable[[], Awaitable[bool]]:
    """Ask so often that every process has answered."""

    async def everywhere() -> bool:
        told = await asyncio.gather(*(degraded(client) for _ in range(8)))
        return all(each == wanted for each in told)

    return everywhere


async def test_without_redis_a_ticket_of_any_process_opens_one_stream_of_any_process(
    installation: Installation, tmp_path: Path, key: str
) -> None:
    async with (
        serving(installation, tmp_path, WORKERS) as api,
        AsyncExitStack() as stack,
        api.client(key) as client,
        api.client() as stranger,
    ):
        made = [(await client.post("/api/events/ticket", json={})).json() for _ in range(TICKETS)]
        asked = [{"ticket": ticket["ticket"]} for ticket in made]
        opened = [
            await stack.enter_async_context(stranger.stream("GET", STREAM, params=params))
            for params in asked
        ]
        assert serving_workers(api) == set(api.workers)
        again = await asyncio.gather(*(stranger.get(STREAM, params=params) for params in asked))
    assert [answer.status_code for answer in opened] == [200] * TICKETS
    assert [answer.status_code for answer in again] == [401] * TICKETS


# Dying.


class Load:
    """Clients that go on registering agents, each on connections of its own.

    Attributes:
        acknowledged: Ids that were answered.
        cut_off: Requests that got no answer.
    """

    CLIENTS = 8

    def __init__(self, api: Processes, key: str) -> None:
        self.acknowledged: list[int] = []
        self.cut_off = 0
        self.refused: list[httpx.Response] = []
        self._api, self._key = api, key
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._work(n)) for n in range(self.CLIENTS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def more(self, count: int) -> None:
        """Wait for so many more to be acknowledged."""
        wanted = len(self.acknowledged) + count

        async def enough() -> bool:
            return len(self.acknowledged) >= wanted

        await until(enough, f"{count} more commands are acknowledged")

    async def _work(self, number: int) -> None:
        async with self._api.client(self._key) as client:
            count = 0
            while not self._stop.is_set():
                count += 1
                try:
                    answer = await client.post("/api/agents", json={"name": f"{number}/{count}"})
                except httpx.ConnectError:
                    return
                except httpx.TransportError:
                    self.cut_off += 1
                    continue
                if answer.status_code == 201:
                    self.acknowledged.append(answer.json()["id"])
                else:
                    self.refused.append(answer)


async def recorded(installation: Installation, workspace: WorkspaceId) -> set[int]:
    store, after, found = installation.writing.store, 0, set[int]()
    while page := await store.read_workspace(workspace, after=after):
        found |= {getattr(each.event, "agent_id", 0) for each in page}
        after = page[-1].global_position
    return found


async def test_a_killed_worker_is_replaced_and_only_its_own_requests_are_cut_off(
    api: Processes, key: str, installation: Installation, workspace: WorkspaceId
) -> None:
    async with Load(api, key) as load:
        await load.more(50)
        victim = api.workers[0]
        os.kill(victim, signal.SIGKILL)
        await load.more(50)

        async def replaced() -> bool:
            return len(api.workers) == WORKERS and victim not in api.workers

        await until(replaced, "another worker takes its place")
        await load.more(50)
    assert load.cut_off <= Load.CLIENTS
    assert [answer.text for answer in load.refused] == []
    assert set(load.acknowledged) <= await recorded(installation, workspace)


async def test_workers_do_not_outlive_their_supervisor(api: Processes) -> None:
    workers = [psutil.Process(pid) for pid in api.workers]
    api.supervisor.kill()

    async def gone() -> bool:
        return not any(worker.is_running() for worker in workers)

    await until(gone, "the workers have ended")


# Stopping.


async def test_sigterm_under_load_loses_no_acknowledged_command(
    api: Processes,
    key: str,
    installation: Installation,
    workspace: WorkspaceId,
    record_property: Callable[[str, object], None],
) -> None:
    async with Load(api, key) as load:
        await load.more(100)
        begun = monotonic()
        api.terminate()
        assert await api.wait(STOP_MAX_S) == 0, api.output
    record_property("figure", f"SIGTERM under load: ended in {monotonic() - begun:.1f} s")
    assert set(load.acknowledged) <= await recorded(installation, workspace)
    assert [answer.text for answer in load.refused] == []


async def test_a_stopping_process_says_at_once_that_it_is_not_ready(api: Processes) -> None:
    async with api.client() as client:
        assert (await client.get("/health/ready")).status_code == 200
        api.terminate()
        statuses: list[str] = []

        async def refused() -> bool:
            try:
                statuses.append((await client.get("/health/ready")).json()["status"])
            except httpx.TransportError:
                return True
            return False

        await until(refused, "no connection is accepted any more")
    assert "draining" in statuses
    assert await api.wait(STOP_MAX_S) == 0


async def test_streams_are_told_to_come_back_soon_when_the_server_stops(
    api: Processes, key: str
) -> None:
    async with following(api, key) as follower:

        async def connected() -> bool:
            return bool(follower.lines)

        await until(connected, "the stream is open")
        api.terminate()
        await asyncio.wait_for(follower.task, STOP_MAX_S)
        assert [line for line in follower.lines if line][-1] == "retry: 2000"
    assert await api.wait(STOP_MAX_S) == 0


class HalfSent:
    """A request whose body does not come to its end before we say so."""

    def __init__(self, api: Processes, key: str) -> None:
        self._address, self._key = urlsplit(api.url), key

    async def __aenter__(self) -> Self:
        host, port = self._address.hostname, self._address.port
        self._reader, self._writer = await asyncio.open_connection(host, port)
        body = b'{"name": "Slow"}'
        head = f"X-API-Key: {self._key}\r\nContent-Type: application/json\r\nHost: {host}\r\n"
        length = f"Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(f"POST /api/agents HTTP/1.1\r\n{head}{length}".encode() + body[:5])
        await self._writer.drain()
        self._rest = body[5:]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def finished(self) -> bytes:
        """Send the rest, and give the status line."""
        self._writer.write(self._rest)
        return await asyncio.wait_for(self._reader.readline(), WAIT_MAX_S)


async def refusing(api: Processes) -> None:
    """Wait until nobody listens any more."""

    async def refused() -> bool:
        try:
            async with api.client() as client:
                await client.get("/health/live")
        except httpx.TransportError:
            return True
        return False

    await until(refused, "nobody listens")


async def test_a_request_under_way_is_answered_after_the_port_is_closed(
    api: Processes, key: str
) -> None:
    async with HalfSent(api, key) as request:
        api.terminate()
        await refusing(api)
        assert (await request.finished()).startswith(b"HTTP/1.1 201 ")
    assert await api.wait(STOP_MAX_S) == 0


async def test_a_second_sigterm_ends_it_at_once(api: Processes, key: str) -> None:
    workers = [psutil.Process(pid) for pid in api.workers]
    async with HalfSent(api, key):
        api.terminate()
        await refusing(api)
        api.terminate()
        # The request would have 20 s.
        assert await api.wait(10) == 128 + signal.SIGTERM
    assert not any(worker.is_running() for worker in workers)
