"""The relay, the parent of API processes, and what operators start by hand; each is killed."""

import asyncio
import json
import signal
from collections.abc import Sequence
from uuid import uuid4

import httpx

from domain.agents import AgentRegistered
from infra.event_store.codec import Stored
from infra.event_store.sqlite import SqliteLog
from infra.kafka.relay import lag
from infra.kafka.topic import Topic
from infra.postgres.leases import open_pool
from infra.writing import build_writing
from tests.e2e.failing.nursery import while_alive
from tests.e2e.failing.projecting import FACTS, let_leases_run_out, record
from tests.e2e.failing.recording import Events, read
from tests.e2e.failing.world import World, told_to_stop
from tests.e2e.installation import ROOT
from tests.e2e.installation import until as eventually
from tests.relaying import PARTITIONS, Writer, check_complete, logged, on_topic, opened
from tests.servers.server import free_port


def relaying(world: World) -> None:
    chosen = world.database()
    url = chosen["DATABASE_URL"]
    topic = Topic(world.server("kafka_bootstrap"), world.server("kafka_topic"), PARTITIONS)
    chosen |= {"KAFKA_BOOTSTRAP_SERVERS": topic.servers, "AUTOMATOS_KAFKA_TOPIC": topic.name}
    asyncio.run(written(url))
    world.killed(world.fail("relay", **chosen), lambda: asyncio.run(written(url)))
    let_leases_run_out(url)
    asyncio.run(written(url))
    child = world.start("relay", **chosen)
    while_alive(lambda: asyncio.run(events_behind(url, topic)) == 0, child, "all is relayed")
    check_complete(on_topic(topic.servers, topic.name), asyncio.run(whole_log(url)))


async def written(url: str) -> None:
    async with opened(url) as log:
        await Writer(log, uuid4().hex, 5).write(2)


async def whole_log(url: str) -> Sequence[Stored]:
    async with opened(url) as log:
        return await logged(log)


async def events_behind(url: str, topic: Topic) -> int:
    async with opened(url) as log, open_pool(url, connections_max=1) as pool:
        return (await lag(log, pool, topic)).events


def supervising(world: World) -> None:
    """Kill the parent of API processes: they end, too, and the port is free for the next one."""
    port = free_port()
    chosen = world.database() | {"PORT": str(port)}
    child = world.fail("api", "--workers", "2", **chosen)

    def stop() -> None:
        if lives(port):
            told_to_stop(world, child, "serves")

    world.killed(child, stop)
    eventually(lambda: not lives(port), "the port is free")
    child = world.start("api", "--workers", "2", **chosen)
    while_alive(lambda: lives(port), child, "it serves")
    child.send(signal.SIGTERM)
    assert child.wait() == 0, child.output


def lives(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def importing(world: World) -> None:
    folder = ROOT / "infra" / "demo_agents"
    world.killed(world.fail("agents", "import", str(folder)))
    told = world.run("agents", "import", str(folder))
    events = asyncio.run(events_in(world))
    names = [each.event.profile.name for each in events if isinstance(each.event, AgentRegistered)]
    assert told.startswith(f"{len(names)} agent files")
    assert len(names) == len(set(names)) > 1


async def events_in(world: World) -> Events:
    writing = build_writing(world.settings({}))
    events = await read(writing)
    await writing.aclose()
    return events


def exporting(world: World) -> None:
    world.data.mkdir()
    record(SqliteLog(world.data / "events.db"), FACTS)
    file = world.folder / "events.ndjson"
    world.killed(world.fail("events", "export", "--out", str(file)))
    world.run("events", "export", "--out", str(file))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["position"] for line in lines] == list(range(1, len(FACTS) + 1))


def diagnosing(world: World) -> None:
    world.killed(world.fail("doctor"))
    assert "no server is using the folder" in world.run("doctor")
    assert not (world.data / ".doctor").exists()
