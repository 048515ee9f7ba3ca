"""Processes killed at every named point, and started again: each part keeps its promises.

The points are collected from the source, so that a new one is walked without being told of here.
What comes before the dot names the part, and with it the scenarios that get a process there.
"""

import asyncio
import json
import re
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias
from uuid import uuid4

import httpx
import psycopg
import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from domain.agents import AGENT, AgentId, AgentProfile, AgentRegistered, ModelConfig
from domain.catalog import AnyEvent
from domain.events import Blob, Recorded, WorkspaceId
from domain.identity import ApiKeyCreated
from domain.runs import RunCompleted
from domain.usage import ModelCallCompleted, ModelCallInDoubt, ModelCallRequested
from domain.workflows import WorkflowId
from infra.composition import Writing, build_writing
from infra.event_store.codec import Codec, Stored
from infra.event_store.lane import Append
from infra.event_store.postgres import PostgresLog
from infra.event_store.sqlite import SqliteLog
from infra.failpoints import VARIABLE
from infra.kafka.records import partition_of
from infra.kafka.relay import lag
from infra.kafka.topic import Topic
from infra.parking import Parked, Place, bring_back, parked
from infra.postgres import reads
from infra.postgres.leases import open_pool
from infra.postgres.migrations import check_schema, migrate
from infra.projecting import Applier, Slice, readable
from infra.read_store import open_engine
from infra.settings import Settings
from infra.supervisor import EXIT_AT_ONCE
from infra.vault import Vault
from projections.agents import AgentsProjector
from tests.architecture.test_failpoints import points, sources
from tests.e2e.failing import APPEND, HOLDER, Child, Nursery, published, until
from tests.e2e.installation import WAIT_MAX_S, asking
from tests.e2e.installation import until as eventually
from tests.llm_server import LlmServer
from tests.production import Acknowledged
from tests.projecting import Fact, hashes, history, new_rows, pages
from tests.projections.tables import PROJECTORS
from tests.relaying import PARTITIONS, Writer, check_complete, logged, on_topic, opened
from tests.servers.server import free_port

HITS = (1, *(pytest.param(hit, marks=pytest.mark.long) for hit in range(2, 6)))
PATIENCE_S = 5.0
"""How long a process that serves is given to pass a point more than once; not all are."""

ROUNDS, MANY_ROUNDS = "12", "2000"
"""Of commands; many where something has to happen meanwhile."""

LATER = 10
"""Passages of a point after which commands of every kind are under way."""

AT_STOP = {"lease.before_release", "lease.after_release", "supervisor.stopping"}
"""Points that are passed when a process is told to stop; `AT_ONCE`: when it is told again."""

AT_ONCE = {"supervisor.before_kill"}
IN_DOUBT = {"log.in_doubt", "log.resolved"}
"""Points that are passed when connections to PostgreSQL are cut."""

ACME, GLOBEX = WorkspaceId("acme"), WorkspaceId("globex")
TOO_LARGE = 2**70
"""A number that no column of any database holds."""

FACTS = history(150)
MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-haiku-5-5"}

Events: TypeAlias = Sequence[Recorded[AnyEvent]]


class World:
    """A folder, servers where they are asked for, and a point at which to be killed."""

    def __init__(
        self, nursery: Nursery, folder: Path, request: pytest.FixtureRequest, point: str, hit: int
    ) -> None:
        self.folder, self.point, self.hit = folder, point, hit
        self.data = folder / "data"
        self.acknowledged = folder / "acknowledged"
        self._nursery = nursery
        self._request = request
        self._children: list[Child] = []

    def server(self, fixture: str) -> str:
        return str(self._request.getfixturevalue(fixture))

    def database(self) -> dict[str, str]:
        url = self.server("postgres_url")
        migrate(url)
        return {"DATABASE_URL": url, "AUTOMATOS_KAFKA_PARTITIONS": str(PARTITIONS)}

    def settings(self, chosen: dict[str, str]) -> Settings:
        return Settings.from_env({"DATA_DIR": str(self.data)} | chosen)

    def start(self, *arguments: str, **settings: str) -> Child:
        output = self.folder / f"{len(self._children)}.out"
        self._children.append(self._nursery.start(output, *arguments, **settings))
        return self._children[-1]

    def run(self, *arguments: str, **settings: str) -> str:
        """Have a command do all it has to do; give what it tells."""
        child = self.start(*arguments, **settings)
        assert child.wait() == 0, child.output
        return child.output

    def wanted(self, later: int = 0) -> dict[str, str]:
        """Spell where to be killed: so many passages later than this world's."""
        return {VARIABLE: f"{self.point}:{self.hit + later}:kill"}

    def fail(self, *arguments: str, **settings: str) -> Child:
        return self.start(*arguments, **settings, **self.wanted())

    def killed(
        self,
        child: Child,
        meanwhile: Callable[[], object] = lambda: None,
        *,
        surely: bool = True,
    ) -> None:
        """Do something again and again until a process is killed at the point.

        Not every point is passed more than once: then a process may end, or is killed later.
        """
        surely, began = surely and self.hit == 1, monotonic()
        while not child.has_ended(0.05):
            meanwhile()
            if not surely and monotonic() - began > PATIENCE_S:
                child.kill()
            assert monotonic() - began < WAIT_MAX_S, f"{self.point} in vain: {child.output}"
        expected = {-signal.SIGKILL} if surely else {-signal.SIGKILL, 0, EXIT_AT_ONCE}
        assert child.wait() in expected, child.output

    def end(self) -> None:
        for child in self._children:
            child.kill()


Scenario: TypeAlias = Callable[[World], None]


def all_points() -> list[str]:
    return [name for file in sources() for name in points(file.read_text("utf-8"))]


def cases() -> Iterator[Any]:
    for point in all_points():
        for scenario in SCENARIOS.get(part_of(point), ()):
            yield pytest.param(point, scenario, id=f"{point}-{scenario.__name__}")


def part_of(point: str) -> str:
    return point.partition(".")[0]


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


# Commands are recorded, in a folder and in PostgreSQL.


def appending_to_a_folder(world: World) -> None:
    append(world, {})


def appending_to_postgres(world: World) -> None:
    append(world, world.database())


def append(world: World, chosen: dict[str, str]) -> None:
    # The second time commands of every kind are under way, if the point is passed so often.
    rounds = MANY_ROUNDS if world.point in IN_DOUBT else ROUNDS
    for later, surely in ((0, True), (LATER, False)):
        before = len(acknowledged(world))
        settings = chosen | world.wanted(later)
        child = world.start(APPEND, str(world.acknowledged), rounds, **settings)
        world.killed(child, partial(cut, world, chosen, before), surely=surely)
    world.run(APPEND, str(world.acknowledged), ROUNDS, **chosen)
    asyncio.run(check_log(world.settings(chosen), acknowledged(world)))


def cut(world: World, chosen: dict[str, str], before: int) -> None:
    """End all connections to the database, if that leads to the point, once commands go on."""
    if world.point in IN_DOUBT and len(acknowledged(world)) > before:
        with psycopg.connect(chosen["DATABASE_URL"], autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


def acknowledged(world: World) -> list[dict[str, int]]:
    if not world.acknowledged.exists():
        return []
    return [json.loads(line) for line in world.acknowledged.read_text().splitlines()]


async def check_log(settings: Settings, acks: list[dict[str, int]]) -> Events:
    """See that nothing is lost, twice there, or sealed for ever; give the whole log."""
    writing = build_writing(settings)
    try:
        events = await read(writing)
        texts = [await writing.store.text(*blob) for blob in blobs(events)]
        holders = {writing.vault.open(*sealed) for sealed in sealed_holders(events)}
    finally:
        await writing.aclose()
    assert [event.global_position for event in events] == list(range(1, len(events) + 1))
    versions: Counter[str] = Counter()
    for event in events:
        versions[event.stream_id] += 1
        assert event.stream_version == versions[event.stream_id]
    names = [each.event.profile.name for each in events if isinstance(each.event, AgentRegistered)]
    assert len(names) == len(set(names))
    assert holders == {HOLDER}
    assert all(texts)
    check_acknowledged(events, acks)
    return events


async def read(writing: Writing) -> Events:
    events: list[Recorded[AnyEvent]] = []
    while page := await writing.store.read_all(after=len(events)):
        events += page
    return events


def sealed_holders(events: Events) -> Iterator[tuple[WorkspaceId, str]]:
    for each in events:
        if isinstance(each.event, ApiKeyCreated):
            yield each.metadata.workspace_id, each.event.holder


def blobs(events: Events) -> Iterator[tuple[WorkspaceId, Blob]]:
    for each in events:
        for name in each.event.__struct_fields__:
            value = getattr(each.event, name)
            if isinstance(value, Blob):
                yield each.metadata.workspace_id, value


def check_acknowledged(events: Events, acks: list[dict[str, int]]) -> None:
    """Find the thing that each acknowledged command made, at the position that was told."""
    made: dict[str, set[str]] = defaultdict(set)
    for each in events:
        made[each.metadata.command_id].add(each.stream_id.rpartition("+")[2])
    assert acks
    for ack in acks:
        assert ack["position"] <= len(events), f"lost: {ack}"
        command_id = events[ack["position"] - 1].metadata.command_id
        assert str(ack["id"]) in made[command_id], f"lost: {ack}"


# An installation serves, and runs ask models.


def serving(world: World) -> None:
    with LlmServer() as llm:
        keys = {"AUTOMATOS_ANTHROPIC_BASE_URL": llm.url, "ANTHROPIC_API_KEY": "sk-of-a-test"}
        chosen = asking(llm) | keys
        key, workflow_id = asyncio.run(prepared(world.settings(chosen)))
        acks = Acknowledged(world.acknowledged)
        child = world.fail("serve", **chosen)
        world.killed(child, lambda: ask(child, key, workflow_id, acks))
        child = world.start("serve", **chosen)
        until(lambda: ask(child, key, workflow_id, acks), child, "it serves")
        asyncio.run(runs_ended(world.settings(chosen), child))
        child.send(signal.SIGTERM)
        assert child.wait() == 0, child.output
        events = asyncio.run(check_log(world.settings(chosen), acks.all()))
        received = Counter(call.prompt for call in llm.calls)
        asyncio.run(check_calls(world.settings(chosen), events, received))
    check_rows(open_engine(world.data / "read_models.db"), events)


async def prepared(settings: Settings) -> tuple[str, WorkflowId]:
    """Make a folder with a key, and a workflow that asks every provider."""
    writing = build_writing(settings)
    workspace_id = await writing.local_workspace()
    key = await writing.create_key(workspace_id, "a key", HOLDER)
    agents = [
        AgentProfile(name=provider, model=ModelConfig(provider=provider, model_id=model))
        for provider, model in MODELS.items()
    ]
    workflow_id = await published(writing, workspace_id, tuple(agents))
    await writing.aclose()
    return key, workflow_id


def ask(child: Child, key: str, workflow_id: WorkflowId, acks: Acknowledged) -> bool:
    """Have an agent registered and a run started; tell whether the server has answered."""
    found = re.search(r"serves (\S+)", child.output)
    if found is None:
        return False
    execute = f"/api/workflows/{workflow_id}/execute"
    commands = {
        "/api/agents": {"name": uuid4().hex},
        execute: {"input_data": {"round": uuid4().hex}},
    }
    with suppress(httpx.TransportError):
        with httpx.Client(base_url=found[1], headers={"X-API-Key": key}, timeout=10) as client:
            for path, body in commands.items():
                answer = client.post(path, json=body)
                assert answer.is_success, answer.text
                acks.note(answer)
        return True
    return False


async def runs_ended(settings: Settings, child: Child) -> None:
    """Wait until all runs have ended that ever were started."""
    writing = build_writing(settings)
    deadline = monotonic() + WAIT_MAX_S
    try:
        while True:
            count = Counter(each.event.tag() for each in await read(writing))
            if count["run_started"] == count["run_completed"]:
                return
            assert not child.has_ended(), child.output
            assert monotonic() < deadline, f"runs do not end: {count}"
            await asyncio.sleep(0.02)
    finally:
        await writing.aclose()


async def check_calls(settings: Settings, events: Events, received: Counter[str]) -> None:
    """See that each step has one outcome, and no call was made again that had one."""
    writing = build_writing(settings)
    prompts: dict[str, str] = {}
    told: dict[str, Counter[type]] = defaultdict(Counter)
    for each in events:
        if isinstance(each.event, ModelCallRequested):
            blob = each.event.prompt
            prompts[each.event.call_id] = await writing.store.text(each.metadata.workspace_id, blob)
        if isinstance(each.event, ModelCallRequested | ModelCallInDoubt | ModelCallCompleted):
            told[prompts[each.event.call_id]][type(each.event)] += 1
    await writing.aclose()
    for prompt, facts in told.items():
        assert facts[ModelCallCompleted] == 1
        assert facts[ModelCallRequested] == facts[ModelCallInDoubt] + 1
        assert 1 <= received[prompt] <= facts[ModelCallRequested]
    runs = [each for each in events if isinstance(each.event, RunCompleted)]
    assert len(told) == len(received) == len(runs) * len(MODELS)


def check_rows(engine: Engine, events: Events) -> None:
    """Hold read models against those that the log makes of nothing."""
    expected = open_engine(None)
    Applier(expected, PROJECTORS).apply(Slice(events))
    assert hashes(engine) == hashes(expected)
    engine.dispose()


# The relay.


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
    until(lambda: asyncio.run(events_behind(url, topic)) == 0, child, "all is relayed")
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


def let_leases_run_out(url: str) -> None:
    """Have what a killed process held be free now, rather than some seconds later."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE leases SET expires_at = clock_timestamp()")


# Projectors, and what they park.


def projecting(world: World) -> None:
    chosen, poisoned = world.database(), part_of(world.point) == "park"
    if part_of(world.point) == "wakes":
        chosen["REDIS_URL"] = world.server("redis_url")
    facts = [*FACTS, *poison()] if poisoned else FACTS
    url = chosen["DATABASE_URL"]
    record(PostgresLog(url), facts)
    expected = open_engine(None)
    apply(expected, facts)
    child = world.fail("projector", **chosen)
    world.killed(child, lambda: told_to_stop(world, child, '"projecting"'))
    let_leases_run_out(url)
    child, engine = world.start("projector", **chosen), reads.open_engine(url)
    until(lambda: hashes(engine) == hashes(expected), child, "all is projected")
    until(lambda: places(engine) == places(expected), child, "what cannot be is parked")
    assert len(places(engine)) == poisoned
    engine.dispose()


def told_to_stop(world: World, child: Child, once: str) -> None:
    """Ask a process to end, if that is when it passes the point, once it has said something."""
    if world.point in AT_STOP | AT_ONCE and once in child.output:
        child.send(signal.SIGTERM)


def registered(workspace_id: WorkspaceId, number: int, name: str) -> Fact:
    event = AgentRegistered(agent_id=AgentId(number), profile=AgentProfile(name=name))
    return workspace_id, AGENT.stream_id(workspace_id, number), event


def poison() -> list[Fact]:
    """Tell of two workspaces, one of which cannot be projected from its second event on."""
    return [
        registered(ACME, 1, "a"),
        registered(ACME, TOO_LARGE, "bad"),
        registered(GLOBEX, 3, "b"),
        registered(ACME, 4, "c"),
    ]


def record(log: PostgresLog | SqliteLog, facts: Sequence[Fact]) -> None:
    async def write() -> None:
        for page in pages(new_rows(facts), 100):
            if isinstance(log, SqliteLog):
                await asyncio.to_thread(log.write, Append(page))
            else:
                await log.write(Append(page))
        closing = log.close()
        if closing is not None:
            await closing

    asyncio.run(write())


def apply(engine: Engine, facts: Sequence[Fact], partitions: int = 1) -> None:
    """Project a history, in as many parts as there are partitions."""
    codec, applier = Codec(Vault()), Applier(engine, PROJECTORS)
    events = [readable(codec, row) for row in stored(facts)]
    for n in range(partitions):
        own = [e for e in events if partition_of(e.metadata.workspace_id, partitions) == n]
        applier.apply(Slice(own, n, upto=len(events)))


def stored(facts: Sequence[Fact]) -> list[Stored]:
    return [
        Stored(nth, row.stream_id, row.stream_version, row.tag, row.body)
        for nth, row in enumerate(new_rows(facts), start=1)
    ]


def places(engine: Engine) -> list[Parked]:
    return [each._replace(error="") for each in parked(engine)]


def bringing_back(world: World) -> None:
    world.data.mkdir()
    record(SqliteLog(world.data / "events.db"), poison())
    engine, expected = open_engine(world.data / "read_models.db"), open_engine(None)
    for each in (engine, expected):
        apply(each, poison())
    skip = ("projector", "skip", "agents", ACME, "--reason", "too large")
    world.killed(world.fail(*skip))
    assert world.start(*skip).wait() in {0, 2}
    log = SqliteLog(world.data / "events.db")
    asyncio.run(bring_back(log, expected, Place(AgentsProjector(), ACME, 0), skipped=2))
    assert parked(engine) == parked(expected) == []
    assert hashes(engine) == hashes(expected)
    tags = [row.tag for row in asyncio.run(log.workspace(ACME, after=0, limit=100))]
    assert "parked_event_skipped" in tags
    log.close()
    engine.dispose()


# Read models are made anew.


def rebuilding_in_a_folder(world: World) -> None:
    world.data.mkdir()
    record(SqliteLog(world.data / "events.db"), FACTS)
    engine = open_engine(world.data / "read_models.db")
    apply(engine, FACTS)
    rebuild(world, engine, {})


def rebuilding_in_postgres(world: World) -> None:
    chosen = world.database()
    record(PostgresLog(chosen["DATABASE_URL"]), FACTS)
    engine = reads.open_engine(chosen["DATABASE_URL"])
    apply(engine, FACTS, PARTITIONS)
    rebuild(world, engine, chosen)


def rebuild(world: World, engine: Engine, chosen: dict[str, str]) -> None:
    """Kill a rebuild: who reads sees the whole read model at all times."""
    before = hashes(engine)
    world.killed(world.fail("rebuild", "agents", **chosen))
    assert hashes(engine) == before
    engine.dispose()
    assert "the same rows as before" in world.run("rebuild", "agents", **chosen)
    assert hashes(engine) == before
    engine.dispose()


# The schema.


def migrating(world: World) -> None:
    url = world.server("postgres_url")
    world.killed(world.fail("migrate", DATABASE_URL=url))
    world.run("migrate", DATABASE_URL=url)
    check_schema(url)
    record(PostgresLog(url), FACTS)
    engine, expected = reads.open_engine(url), open_engine(None)
    for each in (engine, expected):
        apply(each, FACTS)
    assert hashes(engine) == hashes(expected)
    engine.dispose()


# API processes.


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
    until(lambda: lives(port), child, "it serves")
    child.send(signal.SIGTERM)
    assert child.wait() == 0, child.output


def lives(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


# On the command line.


def importing(world: World) -> None:
    folder = Path(__file__).resolve().parents[2] / "infra" / "demo_agents"
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


SCENARIOS: dict[str, tuple[Scenario, ...]] = {
    "api": (serving,),
    "checkpoint": (relaying,),
    "doctor": (diagnosing,),
    "export": (exporting,),
    "folder": (appending_to_a_folder,),
    "heartbeat": (projecting,),
    "import": (importing,),
    "keys": (appending_to_a_folder,),
    "lease": (projecting,),
    "llm": (serving,),
    "lock": (diagnosing,),
    "log": (appending_to_postgres,),
    "migrate": (migrating,),
    "park": (projecting,),
    "partitions": (relaying,),
    "projector": (projecting,),
    "read_models": (serving,),
    "rebuild": (rebuilding_in_a_folder, rebuilding_in_postgres),
    "relay": (relaying,),
    "sqlite": (appending_to_a_folder,),
    "supervisor": (supervising,),
    "topic": (relaying,),
    "unpark": (bringing_back,),
    "wakes": (projecting,),
}
"""What gets a process to the points of each part."""


def test_every_point_has_a_scenario() -> None:
    assert {part_of(point) for point in all_points()} == set(SCENARIOS)


@pytest.mark.parametrize("hit", HITS)
@pytest.mark.parametrize(("point", "scenario"), list(cases()))
def test_a_process_killed_at_any_point_keeps_its_promises(
    point: str,
    scenario: Scenario,
    hit: int,
    nursery: Nursery,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    world = World(nursery, tmp_path, request, point, hit)
    try:
        with capture_logs():
            scenario(world)
    finally:
        world.end()
