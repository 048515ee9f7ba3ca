"""Loading an aggregate of a thousand events: folded from the file, and from memory."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from uuid import UUID

import uvloop
from eventsourcing.domain import Aggregate, event

from benchmarks.append import sqlite_application
from benchmarks.events import WORKSPACE, metadata
from benchmarks.measure import Row, Sample, Size, Timer, alternate
from commands.transact import Command, Write
from domain.agents import (
    AGENT,
    AgentChanged,
    AgentChanges,
    AgentEvent,
    AgentId,
    AgentProfile,
    AgentRegistered,
)
from infra.event_store.codec import Codec
from infra.event_store.sqlite import SqliteLog
from infra.event_store.store import EventStore
from infra.vault import Vault

EVENTS = 1_000
AGENT_ID = AgentId(7_340_112_955_021_313)
STREAM_ID = AGENT.stream_id(WORKSPACE, AGENT_ID)
PROMPT = "Name the likeliest cause and the evidence for it. " * 6
CACHED_AT_ONCE = 1_000
TARGET_COLD = 10.0
TARGET_CACHED = 1_000.0


def rows(size: Size) -> Iterator[Row]:
    systems = {
        "cold": partial(cold, seconds=size.seconds),
        "cached": partial(cached, seconds=size.seconds),
        "repository.get": partial(package, seconds=size.seconds),
        "its cache on": partial(package_cached, seconds=size.seconds),
    }
    found, what = alternate(size.rounds, systems), f"load {EVENTS:,} events"
    yield found.row(f"{what}, cold", "cold", "repository.get", target=TARGET_COLD)
    yield found.row(f"{what}, cached", "cached", "repository.get", target=TARGET_CACHED)
    yield found.row(f"{what}, both cached", "cached", "its cache on")


def cold(folder: Path, *, seconds: float) -> Sample:
    return _on_loop(_cold, folder, seconds)


def cached(folder: Path, *, seconds: float) -> Sample:
    return _on_loop(_cached, folder, seconds)


async def _cold(folder: Path, seconds: float) -> Sample:
    log, vault = await _written(folder)
    codec = Codec(vault)
    timer, deadline, count = Timer(), perf_counter() + seconds, 0
    while perf_counter() < deadline:
        # A store of its own each time: nothing is cached yet.
        loaded = await EventStore(log, vault, codec).load(AGENT, STREAM_ID)
        count += 1
    assert loaded.version == EVENTS
    sample = timer.sample(count)
    log.close()
    return sample


async def _cached(folder: Path, seconds: float) -> Sample:
    log, vault = await _written(folder)
    store = EventStore(log, vault)
    await store.load(AGENT, STREAM_ID)
    timer, deadline, count = Timer(), perf_counter() + seconds, 0
    while perf_counter() < deadline:
        for _ in range(CACHED_AT_ONCE):
            await store.load(AGENT, STREAM_ID)
        count += CACHED_AT_ONCE
    sample = timer.sample(count)
    log.close()
    return sample


async def _written(folder: Path) -> tuple[SqliteLog, Vault]:
    log, vault = SqliteLog(folder / "events.db"), Vault(folder / "keys.db")
    profile = AgentProfile(name="investigator", system_prompt=PROMPT)
    events: list[AgentEvent] = [AgentRegistered(agent_id=AGENT_ID, profile=profile)]
    events += [
        AgentChanged(
            agent_id=AGENT_ID,
            changes=AgentChanges(description=f"version {n}", system_prompt=PROMPT),
        )
        for n in range(1, EVENTS)
    ]
    issued = metadata()
    command = Command(issued.command_id, WORKSPACE, None, None)
    store = EventStore(log, vault)
    await store.append([Write(STREAM_ID, 0, events)], issued, command=command)
    return log, vault


class Agent(Aggregate):
    @event("Registered")
    def __init__(self, name: str, system_prompt: str) -> None:
        self.name = name
        self.description = ""
        self.system_prompt = system_prompt

    @event("Changed")
    def change(self, description: str, system_prompt: str) -> None:
        self.description = description
        self.system_prompt = system_prompt


def package(folder: Path, *, seconds: float) -> Sample:
    """The package as it comes: nothing is cached."""
    return _package(folder, seconds, {})


def package_cached(folder: Path, *, seconds: float) -> Sample:
    return _package(folder, seconds, {"AGGREGATE_CACHE_MAXSIZE": "100"})


def _package(folder: Path, seconds: float, env: dict[str, str]) -> Sample:
    application = sqlite_application(folder, **env)
    agent_id = _their_agent(application.save)
    application.repository.get(agent_id)
    timer, deadline, count = Timer(), perf_counter() + seconds, 0
    while perf_counter() < deadline:
        loaded: Agent = application.repository.get(agent_id)
        count += 1
    assert loaded.version == EVENTS
    sample = timer.sample(count)
    application.close()
    return sample


def _their_agent(save: Callable[[Agent], object]) -> UUID:
    agent = Agent(name="investigator", system_prompt=PROMPT)
    for n in range(1, EVENTS):
        agent.change(description=f"version {n}", system_prompt=PROMPT)
    save(agent)
    return agent.id


def _on_loop(work: Callable[[Path, float], object], folder: Path, seconds: float) -> Sample:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work(folder, seconds))  # type: ignore[arg-type]
