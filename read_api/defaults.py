"""The model of agents that name none: one for each workspace, told with every such agent."""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import NamedTuple

from domain.agents import ModelConfig
from domain.events import WorkspaceId

KEPT_S = 1.0
"""How long another process's change of it may go unseen in answers; runs look at every step."""

KEPT_MAX = 10_000
"""Workspaces of which it is kept."""


class _Kept(NamedTuple):
    model: ModelConfig
    until: float


class Defaults:
    """Keeps what was looked up for a moment, because every new agent's answer tells it.

    Args:
        look: Tells what holds in a workspace now.
    """

    def __init__(
        self,
        look: Callable[[WorkspaceId], Awaitable[ModelConfig]],
        *,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._look = look
        self._now = now
        self._kept: dict[WorkspaceId, _Kept] = {}
        self._forgotten = 0

    async def model(self, workspace_id: WorkspaceId) -> ModelConfig:
        kept = self._kept.get(workspace_id)
        if kept is not None and self._now() < kept.until:
            return kept.model
        forgotten, until = self._forgotten, self._now() + KEPT_S
        model = await self._look(workspace_id)
        if forgotten == self._forgotten:
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            self._kept[workspace_id] = _Kept(model, until)
        return model

    def forget(self, workspace_id: WorkspaceId) -> None:
        """Look again, also where somebody is looking at this moment: it was changed here."""
        self._forgotten += 1
        self._kept.pop(workspace_id, None)
