"""Load, decide, append: the one write path of the platform."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from domain.errors import DomainError, StreamConflict, VersionMismatch
from domain.events import Aggregate, Blob, CommandId, Event, Metadata, StreamId, WorkspaceId

S = TypeVar("S")
E = TypeVar("E", bound=Event)
R = TypeVar("R", bound=msgspec.Struct)

TRIES_MAX = 5
"""Times a decision is retaken after losing a race, before the caller is told."""

KEY_WAIT_MAX_S = 10.0
"""How long a request waits for an earlier one with its idempotency key."""


class CommandError(Exception):
    """A command that could not be carried out, for a reason that no rule names."""

    code: ClassVar[str] = "command_error"


class Congested(CommandError):
    """Every try lost its race against other writers; later one may win."""

    code = "congested"


class KeyInFlight(CommandError):
    """An earlier request with the same idempotency key has not ended."""

    code = "idempotency_key_in_flight"


class KeyReused(CommandError):
    """The idempotency key was used before, for another request."""

    code = "idempotency_key_reused"


class StorageFull(CommandError):
    """The disk under the store is full. Nothing was recorded; reads go on."""

    code = "storage_full"


class StorageUnavailable(CommandError):
    """The store did not answer in time, or not at all.

    Nothing was recorded, or nobody knows: whoever asks again with the same command id is told.
    """

    code = "storage_unavailable"


class UnreadableEvent(Exception):
    """An event of the log cannot be read, until the program or the log is mended.

    Attributes:
        stream_id, position: Where it is; empty and 0 where that is not known.
    """

    code: ClassVar[str] = "unreadable_event"

    def __init__(self, message: str, stream_id: str = "", position: int = 0) -> None:
        super().__init__(message)
        self.stream_id = stream_id
        self.position = position


class DuplicateCommand(Exception):
    """A command with this id is recorded already; `EventStore.find_command` tells its outcome."""


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A command's circumstances.

    Attributes:
        fingerprint: Digest of the request, when it carries an idempotency key:
            then `metadata.command_id` is derived from that key, and the answer is kept.
        if_version: The version the caller saw, from If-Match.
    """

    metadata: Metadata
    fingerprint: str | None = None
    if_version: int | None = None

    @property
    def workspace_id(self) -> WorkspaceId:
        return self.metadata.workspace_id


class Loaded(NamedTuple, Generic[S]):
    """A stream as it is now.

    Attributes:
        version: Number of its events; 0 if there are none.
        first, last: Metadata of its outermost events.
    """

    state: S
    version: int
    first: Metadata | None
    last: Metadata | None


class Write(NamedTuple):
    """Attributes:
    workspace_id: The stream's, where it is another one than the command's.
    """

    stream_id: StreamId
    expected_version: int
    events: Sequence[Event]
    workspace_id: WorkspaceId | None = None


class SealedBlob(NamedTuple):
    workspace_id: WorkspaceId
    blob: Blob
    content: bytes


class Command(NamedTuple):
    """What is kept of a command beside its events.

    Attributes:
        answer: JSON of what the caller was told; None without an idempotency key.
    """

    command_id: CommandId
    workspace_id: WorkspaceId
    fingerprint: str | None
    answer: bytes | None


class Known(NamedTuple):
    """A command that was recorded before, and where its last event is."""

    fingerprint: str | None
    answer: bytes | None
    global_position: int | None


class EventStore(Protocol):
    """The port the write side needs. `infra.event_store` implements it."""

    async def load(
        self, aggregate: Aggregate[S, E], stream_id: StreamId, *, fresh: bool = False
    ) -> Loaded[S]:
        """Fold a stream.

        Args:
            fresh: Look for events of other processes too, rather than trust the cache.
        """
        ...

    async def load_at(self, aggregate: Aggregate[S, E], stream_id: StreamId, version: int) -> S:
        """Fold a stream's first events; none of them if it has not so many."""
        ...

    def cached(self, aggregate: Aggregate[S, E], stream_id: StreamId) -> Loaded[S] | None:
        """Tell what is known of a stream without asking the log."""
        ...

    async def append(
        self,
        writes: Sequence[Write],
        metadata: Metadata,
        *,
        command: Command,
        blobs: Sequence[SealedBlob] = (),
    ) -> int | None:
        """Record events on all streams, or on none; tell the position of the last one.

        Raises:
            StreamConflict: A stream is not at its expected version.
            DuplicateCommand: The command id is recorded already.
            StorageFull: Nothing was recorded.
            StorageUnavailable: Nothing was recorded, or nobody knows.
        """
        ...

    async def find_command(self, command_id: CommandId) -> Known | None: ...

    def seal(self, workspace_id: WorkspaceId, text: str) -> SealedBlob:
        """Prepare a text to be appended beside the events that refer to it."""
        ...

    async def text(self, workspace_id: WorkspaceId, blob: Blob) -> str: ...


class Outcome(NamedTuple, Generic[R]):
    """Attributes:
    global_position: Of the command's last event; None if it recorded none.
    replayed: Told from an earlier request with the same idempotency key.
    """

    answer: R
    global_position: int | None
    replayed: bool = False


class Transaction:
    """The streams one decision reads and writes: recorded together, or not at all."""

    def __init__(self, store: EventStore, issued: Issued, *, fresh: bool) -> None:
        self._store = store
        self._issued = issued
        self._fresh = fresh
        self._loaded: dict[StreamId, Loaded[Any]] = {}
        self._events: dict[StreamId, list[Event]] = {}
        self._elsewhere: dict[StreamId, WorkspaceId] = {}
        self._latest: datetime | None = None
        self.blobs: list[SealedBlob] = []

    async def load(self, aggregate: Aggregate[S, E], stream_id: StreamId) -> Loaded[S]:
        """Load a stream, once: whoever asks again is told the same.

        A stream that moved between two looks would be written at the second
        one's version, although decisions were taken on the first one's state.
        """
        known = self._loaded.get(stream_id)
        if known is not None:
            return known
        loaded = await self._store.load(aggregate, stream_id, fresh=self._fresh)
        self._loaded[stream_id] = loaded
        return loaded

    async def load_at(self, aggregate: Aggregate[S, E], stream_id: StreamId, version: int) -> S:
        """Load what a stream once was: no decision is at risk, since that does not move."""
        return await self._store.load_at(aggregate, stream_id, version)

    def load_new(self, aggregate: Aggregate[S, E], stream_id: StreamId) -> Loaded[S]:
        """Take a stream to be empty without looking; the append finds out if it is not."""
        loaded: Loaded[S] = Loaded(aggregate.initial, 0, None, None)
        self._loaded[stream_id] = loaded
        return loaded

    async def load_likely_new(self, aggregate: Aggregate[S, E], stream_id: StreamId) -> Loaded[S]:
        """Load a stream that is probably empty, without asking the log at the first try.

        If it is not empty the append finds out, and the next try looks.
        """
        known = self._store.cached(aggregate, stream_id)
        if self._fresh or known is not None or stream_id in self._loaded:
            return await self.load(aggregate, stream_id)
        return self.load_new(aggregate, stream_id)

    async def load_matching(self, aggregate: Aggregate[S, E], stream_id: StreamId) -> Loaded[S]:
        """Load the stream the command is about, at the version the caller named, if any.

        Raises:
            VersionMismatch: The caller saw an older one.
        """
        loaded = await self.load(aggregate, stream_id)
        wanted = self._issued.if_version
        if wanted is not None and wanted != loaded.version:
            raise VersionMismatch(wanted, loaded.version)
        return loaded

    def record(
        self,
        stream_id: StreamId,
        events: Sequence[Event],
        *,
        workspace_id: WorkspaceId | None = None,
    ) -> int:
        """Note events for a loaded stream; tell the version it will then have.

        Args:
            workspace_id: The stream's, where it is another one than the command's.
        """
        if workspace_id is not None:
            self._elsewhere[stream_id] = workspace_id
        loaded = self._loaded[stream_id]
        noted = self._events.setdefault(stream_id, [])
        noted.extend(events)
        if noted and loaded.last is not None:
            self._latest = max(self._latest or loaded.last.occurred_at, loaded.last.occurred_at)
        return loaded.version + len(noted)

    def keep(self, text: str) -> Blob:
        """Note a text for the blob store; events refer to it by what is returned."""
        sealed = self._store.seal(self._issued.workspace_id, text)
        self.blobs.append(sealed)
        return sealed.blob

    @property
    def writes(self) -> list[Write]:
        return [
            Write(
                stream_id,
                self._loaded[stream_id].version,
                events,
                self._elsewhere.get(stream_id),
            )
            for stream_id, events in self._events.items()
            if events
        ]

    @property
    def metadata(self) -> Metadata:
        """The command's, moved forward to no earlier than what its streams hold already."""
        metadata = self._issued.metadata
        if self._latest is None or self._latest <= metadata.occurred_at:
            return metadata
        return msgspec.structs.replace(metadata, occurred_at=self._latest)


class Transactions:
    """Carries out decisions. One per process: it knows which idempotency keys are in flight.

    Args:
        key_wait_s: How long a request waits for an earlier one with its idempotency key.
    """

    def __init__(self, store: EventStore, *, key_wait_s: float = KEY_WAIT_MAX_S) -> None:
        self.store = store
        self._key_wait_s = key_wait_s
        self._gates: dict[CommandId, _Gate] = {}

    async def run(
        self,
        decide: Callable[[Transaction], Awaitable[R]],
        issued: Issued,
        answer_type: type[R],
    ) -> Outcome[R]:
        """Decide on the current state of some streams and record the outcome.

        A lost race is retried, because a decision may be taken again on the
        newer state. With an idempotency key the first request decides, and
        every other one is told the same.

        Raises:
            DomainError: Whatever `decide` refuses.
            CommandError: It could not be carried out.
        """
        if issued.fingerprint is None:
            return await self._decided(decide, issued, answer_type)
        async with self._turn(issued.metadata.command_id):
            known = await self._replay(issued, answer_type)
            return known or await self._decided_once(decide, issued, answer_type)

    async def _decided_once(
        self,
        decide: Callable[[Transaction], Awaitable[R]],
        issued: Issued,
        answer_type: type[R],
    ) -> Outcome[R]:
        try:
            return await self._decided(decide, issued, answer_type)
        except (DomainError, Congested):
            # Another process may have carried out this very request meanwhile,
            # and be what is in its own way.
            known = await self._replay(issued, answer_type)
            if known is None:
                raise
            return known

    async def _decided(
        self,
        decide: Callable[[Transaction], Awaitable[R]],
        issued: Issued,
        answer_type: type[R],
    ) -> Outcome[R]:
        for attempt in range(TRIES_MAX):
            try:
                return await self._attempt(decide, issued, fresh=attempt > 0)
            except StreamConflict:
                continue
            except DuplicateCommand:
                known = await self._replay(issued, answer_type)
                assert known is not None
                return known
        raise Congested(f"{TRIES_MAX} tries lost their race against other writers.")

    async def _attempt(
        self, decide: Callable[[Transaction], Awaitable[R]], issued: Issued, *, fresh: bool
    ) -> Outcome[R]:
        transaction = Transaction(self.store, issued, fresh=fresh)
        try:
            answer = await decide(transaction)
        except DomainError:
            # The cache may be behind another process: refuse only what is fresh.
            if fresh:
                raise
            return await self._attempt(decide, issued, fresh=True)
        writes = transaction.writes
        if not writes and issued.fingerprint is None:
            return Outcome(answer, None)
        position = await self.store.append(
            writes,
            transaction.metadata,
            command=_command(issued, answer),
            blobs=transaction.blobs,
        )
        return Outcome(answer, position)

    async def _replay(self, issued: Issued, answer_type: type[R]) -> Outcome[R] | None:
        known = await self.store.find_command(issued.metadata.command_id)
        if known is None:
            return None
        if known.fingerprint != issued.fingerprint or known.answer is None:
            raise KeyReused("This idempotency key was used for another request.")
        answer = msgspec.json.decode(known.answer, type=answer_type)
        return Outcome(answer, known.global_position, replayed=True)

    @asynccontextmanager
    async def _turn(self, command_id: CommandId) -> AsyncGenerator[None]:
        gate = self._gates.setdefault(command_id, _Gate())
        gate.users += 1
        try:
            try:
                async with asyncio.timeout(self._key_wait_s):
                    await gate.lock.acquire()
            except TimeoutError:
                raise KeyInFlight("An earlier request with this key has not ended.") from None
            try:
                yield
            finally:
                gate.lock.release()
        finally:
            gate.users -= 1
            if gate.users == 0:
                del self._gates[command_id]


class _Gate:
    """Lets requests with one idempotency key pass one by one."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


def _command(issued: Issued, answer: msgspec.Struct) -> Command:
    kept = None if issued.fingerprint is None else msgspec.json.encode(answer)
    metadata = issued.metadata
    return Command(metadata.command_id, metadata.workspace_id, issued.fingerprint, kept)
