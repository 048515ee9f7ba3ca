"""What a query may see: one workspace's read models, as fresh as the caller may expect.

Reading one's own writes: a read waits, within a bound, until its read model has
passed the workspace's newest write.
"""

import re
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

import msgspec
from litestar import Response
from litestar.params import PathParameter, QueryParameter
from sqlalchemy import Connection

from domain.agents import ModelConfig
from domain.catalog import AnyEvent
from domain.events import Aggregate, Blob, Event, Recorded, WorkspaceId
from read_api.auth import Circumstances, Principal
from read_api.defaults import Defaults
from read_api.errors import BadHeader
from read_api.reads import EventLog, Progress, Reads

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")
E = TypeVar("E", bound=Event)

WAIT_MAX_S = 1.0

ID_MAX = 2**53 - 1
"""As large as JavaScript holds whole numbers exactly: our own ids stay below it."""

POSITION = re.compile(r"[0-9]{1,18}")

EntityId = Annotated[int, PathParameter(ge=1, le=ID_MAX)]
Skip = Annotated[int, QueryParameter(ge=0, le=2**53)]
"""Rows to leave out at the front: no more than JavaScript can count."""

MIN_POSITION_HEADER = "Min-Position"


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """What the read side needs, given once by whoever composes the application.

    Attributes:
        defaults: Models of agents that name none.
    """

    reads: Reads
    log: EventLog
    progress: Progress
    circumstances: Circumstances
    defaults: Defaults


def minimum(min_position: str | None) -> int:
    """Read what a caller asks a read model to have passed.

    Raises:
        BadHeader: It is no position.
    """
    if min_position is None:
        return 0
    if not POSITION.fullmatch(min_position):
        raise BadHeader(
            "Min-Position is a position: a whole number.", f"/header/{MIN_POSITION_HEADER}"
        )
    return int(min_position)


class View:
    """The workspace of a verified principal: every query goes through it, and so carries it.

    Args:
        min_position: The position the caller asks for, as the header spells it.

    Raises:
        BadHeader: `min_position` is none.
    """

    def __init__(self, ports: Ports, principal: Principal, min_position: str | None = None) -> None:
        self._ports = ports
        self.workspace_id: WorkspaceId = principal.workspace_id
        self._minimum = minimum(min_position)
        self._positions: list[int] = []
        self._stale = False

    async def fresh(self, *projectors: str) -> None:
        """Wait for read models to pass the workspace's newest write and what the caller names.

        One bound for all of them together.
        """
        progress = self._ports.progress
        wanted = max(self._ports.log.last_write(self.workspace_id), self._minimum)
        deadline = monotonic() + WAIT_MAX_S
        for projector in projectors:
            passed = await progress.reach(
                projector, self.workspace_id, wanted, timeout_s=deadline - monotonic()
            )
            self._stale = self._stale or passed < wanted
            self._positions.append(passed)

    async def ask(
        self,
        query: Callable[Concatenate[Connection, WorkspaceId, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return await self._ports.reads.ask_in(self.workspace_id, query, *args, **kwargs)

    async def ask_all(
        self,
        query: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Ask beyond the workspace: only about the caller himself, or whom he may know."""
        return await self._ports.reads.ask(query, *args, **kwargs)

    def opened(self, workspace_id: WorkspaceId, sealed: str) -> str:
        return self._ports.log.opened(workspace_id, sealed)

    async def text(self, blob: Blob | None) -> str | None:
        return None if blob is None else await self._ports.log.text(self.workspace_id, blob)

    async def stream(
        self, aggregate: Aggregate[S, E], key: int | str, *, after: int, limit: int
    ) -> list[Recorded[AnyEvent]]:
        """Read one of the workspace's streams, oldest first."""
        stream_id = aggregate.stream_id(self.workspace_id, key)
        return await self._ports.log.read_stream(stream_id, after=after, limit=limit)

    async def once(self, aggregate: Aggregate[S, E], key: int | str, version: int) -> S:
        """Give one of the workspace's aggregates as it was at a version; initial if never."""
        stream_id = aggregate.stream_id(self.workspace_id, key)
        return await self._ports.log.load_at(aggregate, stream_id, version)

    def now(self) -> datetime:
        return self._ports.circumstances.now()

    async def model(self, named: ModelConfig | None) -> ModelConfig:
        """Give the model that an agent names, else what holds in the workspace."""
        return named or await self._ports.defaults.model(self.workspace_id)

    def response(self, body: Any, **headers: str) -> Response[Any]:  # noqa: ANN401
        """Answer, and tell how far the read models behind the answer had come."""
        headers["X-Event-Position"] = str(min(self._positions, default=0))
        if self._stale:
            headers["X-Stale"] = "true"
        return Response(body, headers=headers)
