"""Event stores in memory and in a file agree with a model, and with each other after crashes."""

import asyncio
import shutil
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from commands.transact import DuplicateCommand, Known, Loaded, SealedBlob, Write
from domain.agents import AGENT, AgentEvent, AgentState
from domain.catalog import AnyEvent
from domain.errors import StreamConflict
from domain.events import CommandId, Metadata, Recorded, StreamId, WorkspaceId
from infra.event_store.memory import MemoryLog
from infra.event_store.sqlite import SqliteLog
from infra.event_store.store import EventStore
from infra.vault import BlobIsMissing, Vault
from tests.contracts.stores import ACME, GLOBEX, command, metadata
from tests.strategies import events_of

T = TypeVar("T")

WORKSPACES = (ACME, GLOBEX)
AGENTS = ("1", "2", "3")
COMMANDS = tuple(map(CommandId, ("c1", "c2", "c3")))
TEXTS = ("", "one", "two")


class Planned(NamedTuple):
    """An append yet to be made; versions are told as their distance from the right one."""

    workspace_id: WorkspaceId
    writes: list[tuple[str, int, list[AgentEvent]]]
    command_id: str
    fingerprint: str | None
    text: str | None


plans = st.builds(
    Planned,
    st.sampled_from(WORKSPACES),
    st.lists(
        st.tuples(
            st.sampled_from(AGENTS),
            st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1]),
            st.lists(events_of(AgentEvent), min_size=1, max_size=3),
        ),
        max_size=3,
        unique_by=lambda write: write[0],
    ),
    st.sampled_from(["", "", "", *COMMANDS]),
    st.sampled_from([None, "f", "g"]),
    st.none() | st.sampled_from(TEXTS),
)


class Ready(NamedTuple):
    """An append as a store takes it."""

    writes: list[Write]
    metadata: Metadata
    fingerprint: str | None
    text: str | None


class Model:
    """What a store is, in a few lines."""

    def __init__(self) -> None:
        self.log: list[tuple[StreamId, int, AnyEvent, Metadata]] = []
        self.commands: dict[CommandId, Known] = {}
        self.texts: set[tuple[WorkspaceId, str]] = set()

    def version(self, stream_id: StreamId) -> int:
        return sum(1 for entry in self.log if entry[0] == stream_id)

    def head(self, workspace_id: WorkspaceId) -> int:
        ours = (n for n, e in enumerate(self.log, 1) if e[3].workspace_id == workspace_id)
        return max(ours, default=0)

    def ready(self, plan: Planned) -> Ready:
        named = [
            (AGENT.stream_id(plan.workspace_id, agent), off, events)
            for agent, off, events in plan.writes
        ]
        writes = [Write(name, max(0, self.version(name) + off), list(e)) for name, off, e in named]
        about = metadata(plan.workspace_id, plan.command_id)
        return Ready(writes, about, plan.fingerprint, plan.text)

    def append(self, ready: Ready) -> object:
        writes, about, fingerprint, text = ready
        if about.command_id in self.commands:
            return "duplicate"
        for stream_id, expected, *_ in writes:
            if expected != self.version(stream_id):
                return ("conflict", stream_id, expected)
        for stream_id, expected, events, _ in writes:
            for version, event in enumerate(events, start=expected + 1):
                self.log.append((stream_id, version, event, about))  # type: ignore[arg-type]
        if text is not None:
            self.texts.add((about.workspace_id, text))
        position = len(self.log) if writes else None
        self.commands[about.command_id] = Known(fingerprint, _answer(fingerprint), position)
        return position

    def loaded(self, stream_id: StreamId) -> Loaded[AgentState]:
        entries = [entry for entry in self.log if entry[0] == stream_id]
        events: Any = [entry[2] for entry in entries]
        first, last = (entries[0][3], entries[-1][3]) if entries else (None, None)
        return Loaded(AGENT.fold(events), len(entries), first, last)


def _answer(fingerprint: str | None) -> bytes | None:
    return None if fingerprint is None else fingerprint.encode()


class Stores(RuleBasedStateMachine):
    """Does the same to every store, and expects of each what the model says."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._folder = TemporaryDirectory()
        self._vault = Vault()
        self._files = 0
        self._model = Model()
        self._memory = EventStore(MemoryLog(), self._vault)
        self._sqlite = self._opened()
        self._abandoned: list[EventStore] = []

    def teardown(self) -> None:
        for store in (self._memory, self._sqlite, *self._abandoned):
            store.close()
        self._vault.close()
        self._runner.close()
        self._folder.cleanup()

    # What is done.

    @rule(plan=plans)
    def append(self, plan: Planned) -> None:
        ready = self._model.ready(plan)
        expected = self._model.append(ready)
        for store in self._stores:
            assert self._run(_outcome(store, ready)) == expected

    @rule(batch=st.lists(plans, min_size=2, max_size=5))
    def append_at_once(self, batch: list[Planned]) -> None:
        readied = [self._model.ready(plan) for plan in batch]
        expected = [self._model.append(ready) for ready in readied]
        for store in self._stores:
            assert self._run(_outcomes(store, readied)) == expected

    @rule(workspace_id=st.sampled_from(WORKSPACES), agent=st.sampled_from(AGENTS))
    def load(self, workspace_id: WorkspaceId, agent: str) -> None:
        stream_id = AGENT.stream_id(workspace_id, agent)
        expected = self._model.loaded(stream_id)
        for store in self._stores:
            assert self._run(store.load(AGENT, stream_id)) == expected
            assert self._run(store.load(AGENT, stream_id, fresh=True)) == expected

    @rule(after=st.integers(0, 30), limit=st.integers(1, 10))
    def read(self, after: int, limit: int) -> None:
        places = list(enumerate(self._model.log, start=1))
        self._read_alike("read_all", after, limit, [p for p in places if p[0] > after])
        for workspace_id in WORKSPACES:
            ours = [p for p in places if p[1][3].workspace_id == workspace_id and p[0] > after]
            self._read_alike("read_workspace", after, limit, ours, workspace_id)
        stream_id = AGENT.stream_id(ACME, AGENTS[0])
        stream = [p for p in places if p[1][0] == stream_id and p[1][1] > after]
        self._read_alike("read_stream", after, limit, stream, stream_id)

    @rule()
    def open_texts(self) -> None:
        for store in self._stores:
            assert self._run(_texts(store)) == self._model.texts

    @rule()
    def reopen(self) -> None:
        self._sqlite.close()
        self._sqlite = self._opened()

    @rule()
    def crash(self) -> None:
        """Go on from what is on the disk while the store is open: as after a crash."""
        before, self._files = self._path, self._files + 1
        for suffix in ("", "-wal"):
            shutil.copy(f"{before}{suffix}", f"{self._path}{suffix}")
        self._abandoned.append(self._sqlite)
        self._sqlite = self._opened()

    # What holds after each step.

    @invariant()
    def the_heads_and_commands_agree(self) -> None:
        heads = [len(self._model.log), *map(self._model.head, WORKSPACES)]
        commands = [self._model.commands.get(command_id) for command_id in COMMANDS]
        for store in self._stores:
            assert self._run(_seen(store)) == (heads, commands)

    # How.

    @property
    def _stores(self) -> tuple[EventStore, EventStore]:
        return (self._memory, self._sqlite)

    @property
    def _path(self) -> Path:
        return Path(self._folder.name) / f"events-{self._files}.db"

    def _opened(self) -> EventStore:
        return EventStore(SqliteLog(self._path), self._vault)

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(call)

    def _read_alike(
        self, how: str, after: int, limit: int, expected: Iterable[Any], *which: str
    ) -> None:
        wanted = [(place, *entry) for place, entry in expected][:limit]
        for store in self._stores:
            read = self._run(getattr(store, how)(*which, after=after, limit=limit))
            assert [_entry(event) for event in read] == wanted


def _entry(recorded: Recorded[AnyEvent]) -> tuple[int, StreamId, int, AnyEvent, Metadata]:
    event = recorded.event
    place, version = recorded.global_position, recorded.stream_version
    return (place, recorded.stream_id, version, event, recorded.metadata)


async def _outcome(store: EventStore, ready: Ready) -> object:
    writes, about, fingerprint, text = ready
    kept = command(about, fingerprint=fingerprint, answer=_answer(fingerprint))
    blobs: list[SealedBlob] = []
    if text is not None:
        blobs.append(store.seal(about.workspace_id, text))
    try:
        return await store.append(writes, about, command=kept, blobs=blobs)
    except DuplicateCommand:
        return "duplicate"
    except StreamConflict as conflict:
        return ("conflict", conflict.stream_id, conflict.expected_version)


async def _outcomes(store: EventStore, readied: list[Ready]) -> list[object]:
    return await asyncio.gather(*(_outcome(store, ready) for ready in readied))


async def _seen(store: EventStore) -> tuple[list[int], list[Known | None]]:
    heads = [await store.head(), *[await store.workspace_head(each) for each in WORKSPACES]]
    return heads, [await store.find_command(command_id) for command_id in COMMANDS]


async def _texts(store: EventStore) -> set[tuple[WorkspaceId, str]]:
    held: set[tuple[WorkspaceId, str]] = set()
    for workspace_id, text in product(WORKSPACES, TEXTS):
        with suppress(BlobIsMissing):
            opened = await store.text(workspace_id, store.seal(workspace_id, text).blob)
            assert opened == text
            held.add((workspace_id, text))
    return held


def test_every_store_does_what_the_model_does() -> None:
    run_state_machine_as_test(Stores, settings=settings(max_examples=60, stateful_step_count=30))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_store_does_what_the_model_does_for_long() -> None:
    run_state_machine_as_test(Stores, settings=settings(max_examples=1_000, stateful_step_count=50))
