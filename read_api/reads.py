"""The ports of the read side: read models, texts, and how far projectors have come."""

from collections.abc import Callable, Mapping
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

from domain.catalog import AnyEvent
from domain.events import Aggregate, Blob, Event, Recorded, StreamId, WorkspaceId

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")
E = TypeVar("E", bound=Event)


class Reads(Protocol):
    async def ask(
        self,
        query: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a query function of `projections` on every workspace's rows."""
        ...

    async def ask_in(
        self,
        workspace_id: WorkspaceId,
        query: Callable[Concatenate[Connection, WorkspaceId, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a query function on one workspace's rows."""
        ...


class EventLog(Protocol):
    """The log, as far as one workspace may see it."""

    async def read_workspace(
        self, workspace_id: WorkspaceId, *, after: int, limit: int
    ) -> list[Recorded[AnyEvent]]: ...
    async def read_stream(
        self, stream_id: StreamId, *, after: int, limit: int
    ) -> list[Recorded[AnyEvent]]: ...
    async def load_at(self, aggregate: Aggregate[S, E], stream_id: StreamId, version: int) -> S:
        """Fold a stream's first events; none of them if it has not so many."""
        ...

    async def head(self) -> int: ...
    @property
    def is_full(self) -> bool:
        """Whether there was lately no room for an append, and none has been made since."""
        ...

    async def changed(self, timeout_s: float) -> None:
        """Wait until something may have been appended; a hint only."""
        ...

    async def text(self, workspace_id: WorkspaceId, blob: Blob) -> str:
        """Open a text that an event refers to."""
        ...

    def opened(self, workspace_id: WorkspaceId, sealed: str) -> str:
        """Read a personal field; whose key is gone reads as erased."""
        ...

    def last_write(self, workspace_id: WorkspaceId) -> int:
        """Tell the workspace's newest position that this process knows of."""
        ...


class Progress(Protocol):
    """How far projectors have come. `failed` names those that stopped, with the reason."""

    failed: dict[str, str]

    def position(self, projector: str) -> int: ...
    def parked_counts(self) -> Mapping[str, int]:
        """Count the workspaces that each projector skips, where it skips any."""
        ...

    async def reach(
        self, projector: str, workspace_id: WorkspaceId, position: int, /, *, timeout_s: float
    ) -> int:
        """Wait until a projector has passed a position of a workspace, within a bound; tell the
        position that it has passed by then.
        """
        ...
