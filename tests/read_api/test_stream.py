"""The live stream: however often a client drops it, it ends with exactly its workspace's log."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from random import Random
from typing import Any

import httpx
import pytest

from infra.settings import Settings
from read_api.auth import Principal
from read_api.events import EventFilter, follow
from read_api.tickets import TICKET_LIFE_S
from tests.read_api.conftest import WAIT_MAX_S, Served, Tenant, assert_problem, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAM = "/api/events/stream"
DROPS = 100
SEED = 20_261_122


class Frame(dict[str, str]):
    """One SSE frame's fields; a comment is the field with no name."""

    @property
    def position(self) -> int:
        return int(self["id"])


@asynccontextmanager
async def streaming(
    client: httpx.AsyncClient, query: str = "", last_event_id: str | None = None
) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[Frame]]]:
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    async with client.stream("GET", STREAM + query, headers=headers) as answer:
        yield answer, frames(answer)


async def frames(answer: httpx.Response) -> AsyncIterator[Frame]:
    """Parse as a browser's EventSource does: what has no blank line after it does not count."""
    frame = Frame()
    async for line in answer.aiter_lines():
        if not line:
            yield frame
            frame = Frame()
            continue
        name, _, value = line.partition(":")
        frame[name] = value.removeprefix(" ")


async def first(count: int, found: AsyncIterator[Frame]) -> list[Frame]:
    """Take so many frames that are events."""
    taken: list[Frame] = []
    async with asyncio.timeout(WAIT_MAX_S):
        while len(taken) < count:
            frame = await anext(found)
            if "id" in frame:
                taken.append(frame)
    return taken


async def positions(served: Served, tenant: Tenant) -> list[int]:
    return [recorded.global_position for recorded in await served.log(tenant)]


async def working(tenant: Tenant, other: Tenant, stop: asyncio.Event) -> None:
    """Go on recording in both workspaces."""
    number = 0
    while not stop.is_set():
        number += 1
        await asyncio.gather(
            tenant.agent(f"Agent {number}"), other.agent(f"Agent {number}"), return_exceptions=False
        )


async def read_until_dropped(
    tenant: Tenant, seen: list[int], last_event_id: str | None, patience: int
) -> None:
    """Read some frames, then hang up wherever the connection happens to be."""
    async with streaming(tenant.http, last_event_id=last_event_id) as (_, found):
        for frame in await first(patience, found):
            assert json.loads(frame["data"])["position"] == frame.position
            seen.append(frame.position)


async def test_a_client_that_drops_100_times_misses_nothing_and_sees_nothing_twice(
    served: Served, tenant: Tenant, other: Tenant
) -> None:
    random = Random(SEED)
    stop = asyncio.Event()
    work = asyncio.create_task(working(tenant, other, stop))
    seen: list[int] = []
    for _ in range(DROPS):
        last = str(seen[-1]) if seen else None
        await read_until_dropped(tenant, seen, last, random.choice((0, 1, 1, 2, 3, 5)))
    stop.set()
    await work
    log = await positions(served, tenant)
    async with streaming(tenant.http, last_event_id=str(seen[-1])) as (_, found):
        seen += [frame.position for frame in await first(len(log) - len(seen), found)]
    assert seen == log
    assert not set(seen) & set(await positions(served, other))


async def test_a_client_that_is_cut_off_at_any_byte_misses_nothing(
    served: Served, tenant: Tenant
) -> None:
    for number in range(10):
        await tenant.agent(f"Agent {number}")
    log = await positions(served, tenant)
    random = Random(SEED)
    seen: list[int] = []
    while len(seen) < len(log):
        last = {"Last-Event-ID": str(seen[-1])} if seen else {}
        received = await cut_off(
            tenant.http, last, random.randrange(1, 3_000), len(log) - len(seen)
        )
        seen += ids(received)
    assert seen == log


async def cut_off(client: httpx.AsyncClient, last: dict[str, str], cut: int, count: int) -> bytes:
    """Read so many bytes, or so many events when they come before."""
    received = b""
    async with asyncio.timeout(WAIT_MAX_S):
        async with client.stream("GET", STREAM, headers=last) as answer:
            async for chunk in answer.aiter_raw():
                received += chunk
                if len(received) >= cut or len(ids(received)) == count:
                    break
    return received[:cut]


def ids(received: bytes) -> list[int]:
    whole = received.decode().split("\n\n")[:-1]
    return [int(part[4:].partition("\n")[0]) for part in whole if part.startswith("id: ")]


async def test_the_first_frame_says_when_to_come_back(tenant: Tenant) -> None:
    async with streaming(tenant.http) as (answer, found):
        assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"
        assert await anext(found) == {"retry": "3000"}


async def test_a_stream_tells_the_event_as_a_page_does(tenant: Tenant) -> None:
    await tenant.agent()
    items = (await tenant.http.get("/api/events")).json()["items"]
    async with streaming(tenant.http) as (_, found):
        assert [json.loads(frame["data"]) for frame in await first(len(items), found)] == items


async def test_new_events_come_as_they_are_recorded(served: Served, tenant: Tenant) -> None:
    end = (await positions(served, tenant))[-1]
    async with streaming(tenant.http, f"?after={end}") as (_, found):
        assert "retry" in await anext(found)
        agent = await tenant.agent()
        (*_, frame) = await first(2, found)
        assert f"+{agent['id']}" in frame["data"]


async def test_after_begins_behind_a_position_and_last_event_id_beats_it(
    served: Served, tenant: Tenant
) -> None:
    await tenant.agent()
    one, two, three = await positions(served, tenant)
    for query, last_event_id, expected in (
        ("", None, one),
        (f"?after={one}", None, two),
        (f"?after={one}", str(two), three),
        (f"?after={two}", str(one), two),
        (f"?after={two}", "", three),
    ):
        async with streaming(tenant.http, query, last_event_id) as (_, found):
            (frame,) = await first(1, found)
        assert frame.position == expected, (query, last_event_id)


async def test_a_filtered_stream_gives_what_was_asked_for(served: Served, tenant: Tenant) -> None:
    await tenant.agent("Ada")
    await tenant.workflow()
    await tenant.agent("Grace")
    async with streaming(tenant.http, "?type=agent_registered") as (_, found):
        names = [
            json.loads(frame["data"])["data"]["profile"]["name"] for frame in await first(2, found)
        ]
    assert names == ["Ada", "Grace"]


async def test_a_position_beyond_the_end_resets_the_client(served: Served, tenant: Tenant) -> None:
    log = await positions(served, tenant)
    async with streaming(tenant.http, last_event_id="9" * 18) as (_, found):
        assert "retry" in await anext(found)
        reset = await anext(found)
        assert reset["event"] == "reset"
        assert json.loads(reset["data"])["reason"]
        assert "id" not in reset
        assert [frame.position for frame in await first(len(log), found)] == log


@pytest.mark.parametrize("junk", ["x", "-1", "1.5", "9" * 19])
async def test_a_position_that_is_none_is_refused(served: Served, junk: str) -> None:
    client = served.tenants[0].http
    by_header = await client.get(STREAM, headers={"Last-Event-ID": junk})
    body = assert_problem(by_header, 400, "bad_cursor")
    assert body["errors"][0]["pointer"] == "/header/Last-Event-ID"
    by_query = await client.get(STREAM, params={"after": junk})
    body = assert_problem(by_query, 400, "bad_cursor")
    assert body["errors"][0]["pointer"] == "/query/after"


async def test_a_stream_needs_a_key_and_its_workspace(tenant: Tenant, other: Tenant) -> None:
    assert_problem(
        await tenant.http.get(STREAM, headers={"X-API-Key": "x"}), 401, "not_authenticated"
    )
    foreign = await tenant.http.get(STREAM, headers={"X-Workspace-ID": other.workspace_id})
    assert_problem(foreign, 403, "foreign_workspace")


async def test_a_key_that_has_too_many_streams_gets_another_one_when_one_has_ended(
    tenant: Tenant,
) -> None:
    async with AsyncExitStack() as stack:
        # All are kept: one that nobody holds any more is closed.
        opened = [
            await stack.enter_async_context(streaming(tenant.http))
            for _ in range(Settings().streams_per_key)
        ]
        refused = await tenant.http.get(STREAM)
        assert {answer.status_code for answer, _ in opened} == {200}
        assert_problem(refused, 429, "too_many_streams")
        assert refused.headers["retry-after"] == "2"

    async def there_is_a_place() -> bool:
        async with streaming(tenant.http) as (answer, _):
            return answer.status_code == 200

    await until(there_is_a_place)


async def test_another_workspace_s_stream_gives_nothing_of_it(
    served: Served, tenant: Tenant, other: Tenant
) -> None:
    agent = await other.agent()
    stream = f"agent-{other.workspace_id}+{agent['id']}"
    given = following(served, tenant, EventFilter(stream=stream), heartbeat_s=0.01)
    async with aclosing(given):
        assert [await anext(given) for _ in range(3)][1:] == [b": heartbeat\n\n"] * 2


async def test_a_quiet_stream_sends_heartbeats(served: Served, tenant: Tenant) -> None:
    end = (await positions(served, tenant))[-1]
    given = following(served, tenant, EventFilter(), after=end, heartbeat_s=0.01)
    async with aclosing(given):
        assert await anext(given) == b"retry: 3000\n\n"
        assert [await anext(given) for _ in range(3)] == [b": heartbeat\n\n"] * 3
        await tenant.agent()
        async with asyncio.timeout(WAIT_MAX_S):
            while (frame := await anext(given)) == b": heartbeat\n\n":
                pass
        assert frame.startswith(b"id: ")


def following(
    served: Served, tenant: Tenant, wanted: EventFilter, *, heartbeat_s: float, after: int = 0
) -> Any:
    principal = Principal(workspace_id=tenant.workspace_id, actor="key:test")
    return follow(
        served.installation.writing.store,
        principal,
        wanted,
        after=after,
        closing=lambda: False,
        heartbeat_s=heartbeat_s,
    )


async def test_a_stream_ends_when_the_server_is_closing_and_asks_to_come_back_soon(
    alone: Served,
) -> None:
    tenant = alone.tenants.pop()
    async with streaming(tenant.http) as (_, found):
        await first(1, found)
        alone.closing = True
        async with asyncio.timeout(WAIT_MAX_S):
            assert [frame async for frame in found] == [{"retry": "2000"}]


async def test_a_client_that_went_away_leaves_nothing_behind(tenant: Tenant) -> None:
    before = len(asyncio.all_tasks())
    for _ in range(20):
        async with streaming(tenant.http) as (_, found):
            await first(1, found)

    async def as_before() -> bool:
        return len(asyncio.all_tasks()) <= before

    await until(as_before)


async def ticket_of(tenant: Tenant, **wanted: str) -> str:
    answer = await tenant.http.post("/api/events/ticket", json=wanted)
    assert answer.status_code == 200, answer.text
    assert answer.json()["expires_in"] == TICKET_LIFE_S
    given: str = answer.json()["ticket"]
    return given


async def test_a_ticket_opens_the_stream_without_a_header_once(
    served: Served, tenant: Tenant
) -> None:
    await tenant.agent()
    browser, ticket = served.client(), {"ticket": await ticket_of(tenant)}
    async with browser.stream("GET", STREAM, params=ticket) as answer:
        assert answer.status_code == 200
        seen = [line async for line in _until_first_id(answer)]
    assert seen[-1] == f"id: {(await positions(served, tenant))[0]}"
    assert_problem(await browser.get(STREAM, params=ticket), 401, "not_authenticated")


async def _until_first_id(answer: httpx.Response) -> AsyncIterator[str]:
    async for line in answer.aiter_lines():
        yield line
        if line.startswith("id:"):
            return


async def test_a_ticket_opens_nothing_but_the_stream_it_was_given_for(
    served: Served, tenant: Tenant
) -> None:
    browser = served.client()
    for path in ("/api/events", "/api/agents"):
        ticket = {"ticket": await ticket_of(tenant)}
        assert_problem(await browser.get(path, params=ticket), 401, "not_authenticated")
    elsewhere = {"ticket": await ticket_of(tenant, path="/api/other")}
    assert_problem(await browser.get(STREAM, params=elsewhere), 401, "not_authenticated")
