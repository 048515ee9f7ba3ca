"""Commands are recorded, and runs ask models; the process that does it is killed."""

import asyncio
import json
import re
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TypeAlias
from uuid import uuid4

import httpx
import psycopg
from sqlalchemy import Engine

from domain.agents import AgentProfile, AgentRegistered, ModelConfig
from domain.catalog import AnyEvent
from domain.events import Blob, Recorded, WorkspaceId
from domain.identity import ApiKeyCreated
from domain.runs import RunCompleted
from domain.usage import ModelCallCompleted, ModelCallInDoubt, ModelCallRequested
from domain.workflows import WorkflowId
from infra.projecting import Applier, Slice
from infra.read_store import open_engine
from infra.settings import Settings
from infra.writing import Writing, build_writing
from tests.e2e.failing.commands import APPEND, HOLDER, published
from tests.e2e.failing.nursery import Child, while_alive
from tests.e2e.failing.world import World
from tests.e2e.installation import WAIT_MAX_S, asking
from tests.llm_server import LlmServer
from tests.production import Acknowledged
from tests.projecting import hashes
from tests.projections.tables import PROJECTORS

ROUNDS, MANY_ROUNDS = "12", "2000"
"""Of commands; many where something has to happen meanwhile."""


LATER = 10
"""Passages of a point after which commands of every kind are under way."""


IN_DOUBT = {"log.in_doubt", "log.resolved"}
"""Points that are passed when connections to PostgreSQL are cut."""


MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-haiku-5-5"}


Events: TypeAlias = Sequence[Recorded[AnyEvent]]


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


def serving(world: World) -> None:
    with LlmServer() as llm:
        keys = {"AUTOMATOS_ANTHROPIC_BASE_URL": llm.url, "ANTHROPIC_API_KEY": "sk-of-a-test"}
        chosen = asking(llm) | keys
        key, workflow_id = asyncio.run(prepared(world.settings(chosen)))
        acks = Acknowledged(world.acknowledged)
        child = world.fail("serve", **chosen)
        world.killed(child, lambda: ask(child, key, workflow_id, acks))
        child = world.start("serve", **chosen)
        while_alive(lambda: ask(child, key, workflow_id, acks), child, "it serves")
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
