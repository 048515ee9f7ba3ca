"""The event store that commands, followers and the live stream use."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from time import monotonic
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from commands.transact import Command, Known, Loaded, SealedBlob, StorageFull, Write
from domain.catalog import AnyEvent
from domain.events import (
    Aggregate,
    Blob,
    CommandId,
    Event,
    Metadata,
    Recorded,
    StreamId,
    WorkspaceId,
)
from infra.event_store.codec import CannotDecode, Codec, Stored
from infra.event_store.lane import Append, Deliver, NewRow, Written
from infra.event_store.tail import Tail
from infra.event_store.unreadable import readable
from infra.failpoints import failpoint
from infra.ids import new_uuid
from infra.vault import Vault

S = TypeVar("S")
E = TypeVar("E", bound=Event)

STATES_CACHED_MAX = 10_000
"""Folded states kept in memory per process."""

WORKSPACES_KNOWN_MAX = 100_000
"""Workspaces whose newest position this process remembers."""

PAGE_ROWS_MAX = 1_000
"""Rows read from the log at once."""

VERSION_MAX = 2**63 - 1
"""What a log can count."""

POLL_S = 1.0
"""How soon an append of another process is noticed when nothing tells of it."""

GROUP_MAX = 128
"""Appends of one turn of the loop that a log is given at once. Callers who all waited for one batch
would all prepare their next appends while the log has nothing to do; in groups, one prepares while
another is written."""

FULL_FOR_S = 10.0
"""How long a log is held to be full after it refused, if nothing is written to it: then somebody
has to try."""


class Log(Protocol):
    """Where rows are kept. `submit` may be called in any thread, and delivers in another."""

    def submit(self, appends: Sequence[Append], deliver: Deliver) -> None: ...
    async def stream(self, stream_id: str, *, after: int, limit: int) -> list[Stored]: ...
    async def bodies(self, stream_id: str, *, after: int, limit: int) -> list[bytes]: ...
    async def all(self, *, after: int, limit: int) -> list[Stored]: ...
    async def workspace(self, workspace_id: str, *, after: int, limit: int) -> list[Stored]: ...
    async def head(self) -> int: ...
    async def workspace_head(self, workspace_id: str) -> int: ...
    async def command(self, command_id: CommandId) -> Known | None: ...
    async def blob(self, workspace_id: str, address: str) -> bytes | None: ...
    def close(self) -> Awaitable[None] | None: ...


class _Cached(NamedTuple):
    aggregate: Aggregate[Any, Any]
    loaded: Loaded[Any]


class _Waiting(NamedTuple):
    append: Append
    future: asyncio.Future[list[int]]
    writes: Sequence[Write]
    metadata: Metadata


class EventStore:
    """Implements `commands.transact.EventStore` over any log. Belongs to one event loop."""

    def __init__(self, log: Log, vault: Vault, codec: Codec | None = None) -> None:
        self._log = log
        self._vault = vault
        self.codec = codec or Codec(vault)
        self._states: OrderedDict[StreamId, _Cached] = OrderedDict()
        self._gathering: list[_Waiting] = []
        self._workspace_heads: dict[WorkspaceId, int] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._tail: Tail | None = None
        self._full_until = float("-inf")
        self.tell: Callable[[Mapping[WorkspaceId, int]], None] = lambda _: None
        """Given the newest positions of this process's own appends, for others to hear."""

    def close(self) -> None:
        """Close a log that closes at once; any other one with `aclose`."""
        self._log.close()

    async def aclose(self) -> None:
        closing = self._log.close()
        if closing is not None:
            await closing

    @property
    def is_full(self) -> bool:
        """Whether an append was lately refused for want of room, and none has found any since."""
        return monotonic() < self._full_until

    @property
    def log(self) -> Log:
        """The rows as they are stored."""
        return self._log

    # Folding.

    async def load(
        self, aggregate: Aggregate[S, E], stream_id: StreamId, *, fresh: bool = False
    ) -> Loaded[S]:
        cached = self._states.get(stream_id)
        if cached is None:
            known: Loaded[S] = Loaded(aggregate.initial, 0, None, None)
        else:
            self._states.move_to_end(stream_id)
            known = cached.loaded
            if not fresh:
                return known
        loaded = await self._catch_up(aggregate, stream_id, known)
        if loaded.version:
            self._remember(stream_id, _Cached(aggregate, loaded))
        return loaded

    async def load_at(self, aggregate: Aggregate[S, E], stream_id: StreamId, version: int) -> S:
        """Fold a stream's first events; none of them if it has not so many."""
        nothing: Loaded[S] = Loaded(aggregate.initial, 0, None, None)
        loaded = await self._catch_up(aggregate, stream_id, nothing, until=version)
        return loaded.state if loaded.version == version else aggregate.initial

    def cached(self, aggregate: Aggregate[S, E], stream_id: StreamId) -> Loaded[S] | None:
        """Tell what this process remembers of a stream, which may be old."""
        cached = self._states.get(stream_id)
        return cached.loaded if cached is not None and cached.aggregate is aggregate else None

    async def _catch_up(
        self,
        aggregate: Aggregate[S, E],
        stream_id: StreamId,
        known: Loaded[S],
        *,
        until: int = VERSION_MAX,
    ) -> Loaded[S]:
        version = known.version
        while limit := min(PAGE_ROWS_MAX, until - version):
            bodies = await self._log.bodies(stream_id, after=version, limit=limit)
            if not bodies:
                break
            try:
                known = self._folded(aggregate, known, bodies)
            except CannotDecode:
                # Whole rows tell where the fault is.
                await self.read_stream(stream_id, after=version)
                raise
            version = known.version
            if len(bodies) < limit:
                break
        return known

    def _folded(
        self, aggregate: Aggregate[S, E], known: Loaded[S], bodies: Sequence[bytes]
    ) -> Loaded[S]:
        events: Any = self.codec.events(bodies)
        return Loaded(
            aggregate.fold(events, known.state),
            known.version + len(bodies),
            known.first or self.codec.metadata(bodies[0]),
            self.codec.metadata(bodies[-1]),
        )

    def _remember(self, stream_id: StreamId, cached: _Cached) -> None:
        newer = self._states.get(stream_id)
        if newer is not None and newer.loaded.version > cached.loaded.version:
            return
        self._states[stream_id] = cached
        self._states.move_to_end(stream_id)
        if len(self._states) > STATES_CACHED_MAX:
            self._states.popitem(last=False)

    # Appending.

    async def append(
        self,
        writes: Sequence[Write],
        metadata: Metadata,
        *,
        command: Command,
        blobs: Sequence[SealedBlob] = (),
    ) -> int | None:
        rows = [row for write in writes for row in self._new_rows(write, metadata)]
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(Append(rows, command, blobs), future, writes, metadata)
        if not self._gathering:
            asyncio.get_running_loop().call_soon(self._submit)
        self._gathering.append(waiting)
        positions = await future
        return positions[-1] if positions else None

    def _new_rows(self, write: Write, metadata: Metadata) -> list[NewRow]:
        if write.workspace_id is not None:
            metadata = msgspec.structs.replace(metadata, workspace_id=write.workspace_id)
        return [
            NewRow(
                write.stream_id,
                write.expected_version + n,
                event.tag(),
                self.codec.encode(event, new_uuid(), metadata),
                metadata.workspace_id,
            )
            for n, event in enumerate(write.events, start=1)
        ]

    def _submit(self) -> None:
        """Hand over what one turn of the loop has gathered, in groups of a bounded size."""
        gathered, self._gathering = self._gathering, []
        for begin in range(0, len(gathered), GROUP_MAX):
            self._submit_group(gathered[begin : begin + GROUP_MAX])

    def _submit_group(self, group: list[_Waiting]) -> None:
        loop, rest = asyncio.get_running_loop(), iter(group)

        def deliver(written: list[Written]) -> None:
            told = list(islice(rest, len(written)))
            # The loop may have ended with its callers; what is written stays written.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._delivered, told, written)

        self._log.submit([waiting.append for waiting in group], deliver)

    def _delivered(self, gathered: list[_Waiting], written: list[Written]) -> None:
        failpoint("log.delivered")
        heads: dict[WorkspaceId, int] = {}
        for waiting, fate in zip(gathered, written, strict=True):
            if not isinstance(fate, Exception):
                self._fold_in(waiting)
                if fate:
                    heads.update(_heads(waiting, fate))
                    if self._tail is not None:
                        self._tail.add(fate, waiting.append.rows)
            # A caller who has gone away undoes nothing; it only is not told.
            if waiting.future.done():
                continue
            if isinstance(fate, Exception):
                waiting.future.set_exception(fate)
                # Retrieved here, in case the caller goes away before it is told.
                waiting.future.exception()
            else:
                waiting.future.set_result(fate)
        self._find_room(written)
        self.heard(heads)
        self.tell(heads)

    def _find_room(self, written: Sequence[Written]) -> None:
        if any(isinstance(fate, StorageFull) for fate in written):
            self._full_until = monotonic() + FULL_FOR_S
        elif self.is_full and any(fate for fate in written if not isinstance(fate, Exception)):
            self._full_until = float("-inf")

    def _fold_in(self, waiting: _Waiting) -> None:
        """Bring cached states up to what was just written."""
        for write in waiting.writes:
            cached = self._states.get(write.stream_id)
            if cached is None or cached.loaded.version != write.expected_version:
                continue
            known = cached.loaded
            loaded = Loaded(
                cached.aggregate.fold(write.events, known.state),
                known.version + len(write.events),
                known.first or waiting.metadata,
                waiting.metadata,
            )
            self._remember(write.stream_id, _Cached(cached.aggregate, loaded))

    def heard(self, heads: Mapping[WorkspaceId, int]) -> None:
        """Learn how far workspaces have come, and wake who waits if any of it is news."""
        news = {w: p for w, p in heads.items() if p > self.last_write(w)}
        if not news:
            return
        if len(self._workspace_heads) + len(news) > WORKSPACES_KNOWN_MAX:
            self._workspace_heads.clear()
        self._workspace_heads.update(news)
        self._wake()

    # Reading the log.

    async def read_stream(
        self, stream_id: StreamId, *, after: int = 0, limit: int = PAGE_ROWS_MAX
    ) -> list[Recorded[AnyEvent]]:
        return self._decoded(await self._log.stream(stream_id, after=after, limit=limit))

    async def read_all(
        self, *, after: int = 0, limit: int = PAGE_ROWS_MAX
    ) -> list[Recorded[AnyEvent]]:
        """Read events of all workspaces with positions above `after`, ascending.

        What cannot be decoded is stood for by `infra.event_store.unreadable.Unreadable`.
        """
        rows = await self._log.all(after=after, limit=limit)
        return [readable(self.codec, row) for row in rows]

    def keep_tail(self) -> None:
        """Keep what is appended at hand for the one who calls `rows` to follow the log."""
        self._tail = Tail()

    async def rows(self, *, after: int, limit: int) -> list[Stored]:
        """Read events of all workspaces as they are stored, with positions above `after`."""
        kept = self._tail.take(after=after, limit=limit) if self._tail is not None else []
        return kept or await self._log.all(after=after, limit=limit)

    async def read_workspace(
        self, workspace_id: WorkspaceId, *, after: int = 0, limit: int = PAGE_ROWS_MAX
    ) -> list[Recorded[AnyEvent]]:
        rows = await self._log.workspace(workspace_id, after=after, limit=limit)
        return self._decoded(rows)

    def _decoded(self, rows: list[Stored]) -> list[Recorded[AnyEvent]]:
        return [self.codec.decode(row) for row in rows]

    async def head(self) -> int:
        """Tell the position of the newest event of all."""
        return await self._log.head()

    async def workspace_head(self, workspace_id: WorkspaceId) -> int:
        return await self._log.workspace_head(workspace_id)

    def last_write(self, workspace_id: WorkspaceId) -> int:
        """Tell the workspace's newest position that this process knows of; 0 if it knows none."""
        return self._workspace_heads.get(workspace_id, 0)

    async def find_command(self, command_id: CommandId) -> Known | None:
        return await self._log.command(command_id)

    # Texts.

    def seal(self, workspace_id: WorkspaceId, text: str) -> SealedBlob:
        return self._vault.seal_blob(workspace_id, text)

    def opened(self, workspace_id: WorkspaceId, sealed: str) -> str:
        """Read a personal field; whose key is gone reads as erased."""
        return self._vault.open(workspace_id, sealed)

    async def text(self, workspace_id: WorkspaceId, blob: Blob) -> str:
        content = await self._log.blob(workspace_id, blob.address)
        return self._vault.open_blob(workspace_id, blob, content)

    # Waking those who follow.

    async def changed(self, timeout_s: float = POLL_S) -> None:
        """Wait until something is appended, here or where we hear of it, or the time is over.

        A hint only: what nobody told of is seen by reading again.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _heads(waiting: _Waiting, positions: Sequence[int]) -> dict[WorkspaceId, int]:
    """Tell how far each workspace has come by one append."""
    if all(write.workspace_id is None for write in waiting.writes):
        return {waiting.metadata.workspace_id: positions[-1]}
    rows = waiting.append.rows
    return {WorkspaceId(r.workspace_id): p for r, p in zip(rows, positions, strict=True)}
