"""Reading one's own writes: a read waits, within a bound, until its read model has them."""

import re
from typing import Annotated, Any

from litestar import Request, Response
from litestar.params import HeaderParameter

from read_api.auth import Principal
from read_api.errors import BadHeader
from read_api.reads import EventLog, Progress

WAIT_MAX_S = 1.0

POSITION = re.compile(r"^[0-9]{1,18}$")

MinPosition = Annotated[
    str | None,
    HeaderParameter(
        name="Min-Position",
        description="An X-Event-Position: the answer holds everything up to it, or is X-Stale.",
    ),
]


class Freshness:
    """How fresh one answer is.

    Args:
        minimum: Position the caller asks for, if any.
    """

    def __init__(
        self, log: EventLog, progress: Progress, principal: Principal, minimum: int
    ) -> None:
        self._log = log
        self._progress = progress
        self._principal = principal
        self._minimum = minimum
        self._positions: list[int] = []
        self._stale = False

    async def of(self, *projectors: str) -> None:
        """Wait for read models to pass the workspace's newest write and what the caller names."""
        wanted = max(self._log.last_write(self._principal.workspace_id), self._minimum)
        for projector in projectors:
            fresh = self._progress.position(projector) >= wanted or await self._progress.wait(
                projector, wanted, timeout_s=WAIT_MAX_S
            )
            self._stale = self._stale or not fresh
            self._positions.append(self._progress.position(projector))

    @property
    def headers(self) -> dict[str, str]:
        headers = {"X-Event-Position": str(min(self._positions, default=0))}
        return {**headers, "X-Stale": "true"} if self._stale else headers


def provide_freshness(
    request: Request[Any, Any, Any], min_position: MinPosition = None
) -> Freshness:
    """Raises:
    BadHeader: Min-Position is not a position.
    """
    if min_position is not None and not POSITION.match(min_position):
        raise BadHeader("Min-Position is a position: a whole number.")
    state = request.app.state
    return Freshness(state.log, state.progress, request.scope["auth"], int(min_position or 0))


def fresh_response(body: Any, freshness: Freshness, **headers: str) -> Response[Any]:  # noqa: ANN401
    return Response(body, headers={**freshness.headers, **headers})
