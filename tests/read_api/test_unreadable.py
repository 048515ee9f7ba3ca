"""An event that nobody can read: who meets it is told which one it is, and goes on elsewhere."""

import asyncio

import pytest
from structlog.testing import capture_logs

from infra.event_store.lane import Append
from infra.event_store.sqlite import SqliteLog, new_row
from tests.read_api.conftest import Served, Tenant, assert_problem, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def spoil(served: Served, tenant: Tenant, agent_id: int) -> tuple[str, int]:
    """Put an event of an unknown kind on an agent's stream; tell the stream and the position."""
    store = served.installation.writing.store
    stream_id = f"agent-{tenant.workspace_id}+{agent_id}"
    assert isinstance(store.log, SqliteLog)
    known = [event for event in await served.log(tenant) if event.stream_id == stream_id]
    row = new_row(stream_id, len(known) + 1, "agent_exploded", b'{"event": {"type": "boom"}}')
    await asyncio.to_thread(store.log.write, Append([row]))
    store._states.clear()
    return stream_id, await store.head()


async def test_whoever_needs_it_is_told_which_event_cannot_be_read(
    served: Served, tenant: Tenant, other: Tenant
) -> None:
    agent, sound = await tenant.agent("Ada"), await tenant.agent("Bea")
    stream_id, position = await spoil(served, tenant, agent["id"])
    await tenant.agent("Cleo")
    path = f"/api/agents/{agent['id']}"
    with capture_logs() as logged:
        for answer in (
            await tenant.http.put(path, json={"description": "x"}),
            await tenant.http.delete(path),
            await tenant.http.get("/api/events"),
            await tenant.http.get(f"/api/events?cursor={position - 1}&limit=1"),
        ):
            body = assert_problem(answer, 500, "unreadable_event")
            assert body["detail"] == f"Event {position} of the stream {stream_id} cannot be read."
    told = [line for line in logged if line["event"] == "an event cannot be read"]
    assert [(line["stream_id"], line["position"]) for line in told] == [(stream_id, position)]

    after = (await tenant.http.get(f"/api/events?cursor={position}")).json()
    assert [event["type"] for event in after["items"]][-1] == "agent_registered"
    changed = await tenant.http.put(f"/api/agents/{sound['id']}", json={"description": "x"})
    assert changed.status_code == 200
    assert (await other.http.get("/api/events")).status_code == 200


async def test_a_live_stream_names_it_and_goes_on(served: Served, tenant: Tenant) -> None:
    agent = await tenant.agent("Ada")
    _, position = await spoil(served, tenant, agent["id"])
    await tenant.agent("Bea")
    frames: list[str] = []
    async with tenant.http.stream("GET", "/api/events/stream") as answer:
        pieces = answer.aiter_text()

        async def both_seen() -> bool:
            frames.extend((await anext(pieces)).split("\n\n"))
            return sum('"type":"agent_registered"' in frame for frame in frames) == 2

        await until(both_seen)
    (gap,) = (frame for frame in frames if "event: unreadable" in frame)
    assert gap == f'id: {position}\nevent: unreadable\ndata: {{"position": {position}}}'
    ids = [int(frame.split()[1]) for frame in frames if frame.startswith("id: ")]
    assert ids == sorted(set(ids))
    assert position in ids
