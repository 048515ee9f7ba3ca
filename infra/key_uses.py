"""Notes that API keys are used: once in a while, beside the request and never in its way."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

import structlog

from commands.transact import CommandError
from domain.events import WorkspaceId
from domain.identity import USE_NOTED_EVERY, KeyId
from infra.clock import utc_now
from projections.identity import KeyRow

NOTED_MAX = 10_000
"""Keys whose last note is remembered."""

log = structlog.get_logger(__name__)


class KeyUses:
    """Implements `infra.api_keys.KeyRing`'s `used`.

    Args:
        note: Records that a key was used.
    """

    def __init__(
        self,
        note: Callable[[WorkspaceId, KeyId], Awaitable[object]],
        *,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._note = note
        self._now = now
        self._noted: dict[KeyId, datetime] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def used(self, row: KeyRow) -> None:
        now = self._now()
        last = self._noted.get(row.key_id) or row.last_used_at or row.created_at
        if now - last < USE_NOTED_EVERY:
            return
        if len(self._noted) >= NOTED_MAX:
            self._noted.clear()
        self._noted[row.key_id] = now
        task = asyncio.create_task(self._record(row))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _record(self, row: KeyRow) -> None:
        try:
            await self._note(row.workspace_id, row.key_id)
        except CommandError as error:
            # The next use notes it again.
            self._noted.pop(row.key_id, None)
            log.warning("the use of a key is not noted", key=row.key_id, error=str(error))

    async def settle(self) -> None:
        """Wait for what is being noted."""
        await asyncio.gather(*self._tasks)
