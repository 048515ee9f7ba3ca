"""Projectors, what they park, and read models made anew; each is killed."""

import asyncio
from collections.abc import Sequence

import psycopg
from sqlalchemy import Engine

from domain.agents import AGENT, AgentId, AgentProfile, AgentRegistered
from domain.events import WorkspaceId
from infra.event_store.codec import Codec, Stored
from infra.event_store.lane import Append
from infra.event_store.postgres import PostgresLog
from infra.event_store.sqlite import SqliteLog
from infra.event_store.unreadable import readable
from infra.kafka.records import partition_of
from infra.parking import Parked, Place, bring_back, parked
from infra.postgres import reads
from infra.postgres.migrations import check_schema
from infra.projecting import Applier, Slice
from infra.read_store import open_engine
from infra.vault import Vault
from projections.agents import AgentsProjector
from tests.e2e.failing.nursery import while_alive
from tests.e2e.failing.world import World, part_of, told_to_stop
from tests.projecting import Fact, hashes, history, new_rows, pages
from tests.projections.tables import PROJECTORS
from tests.relaying import PARTITIONS

ACME, GLOBEX = WorkspaceId("acme"), WorkspaceId("globex")


TOO_LARGE = 2**70
"""A number that no column of any database holds."""


FACTS = history(150)


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
    while_alive(lambda: hashes(engine) == hashes(expected), child, "all is projected")
    while_alive(lambda: places(engine) == places(expected), child, "what cannot be is parked")
    assert len(places(engine)) == poisoned
    engine.dispose()


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


def let_leases_run_out(url: str) -> None:
    """Have what a killed process held be free now, rather than some seconds later."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE leases SET expires_at = clock_timestamp()")
