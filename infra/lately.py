"""What was taken away lately, read from the log itself while the read model does not follow it.

A revoked key is to open nothing within seconds, also when the relay, Kafka or the projector is
away: what only adds may wait for them, what takes away may not.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from time import monotonic
from typing import Protocol

import msgspec
import structlog

from commands.transact import CommandError
from domain.catalog import AnyEvent
from domain.events import Recorded, WorkspaceId
from domain.identity import (
    ApiKeyExpirySet,
    ApiKeyRevoked,
    KeyId,
    MemberAdded,
    MemberRemoved,
    MemberRoleChanged,
    Role,
    UserId,
)
from projections.identity import KeyRow

LOOK_EVERY_S = 1.0


PAGE = 1_000
PAGES_MAX = 10
"""Read at one look; the next one goes on there."""

log = structlog.get_logger(__name__)


class Log(Protocol):
    async def head(self) -> int: ...
    async def read_all(self, *, after: int, limit: int) -> list[Recorded[AnyEvent]]: ...


class Lately:
    """Follows the log from where the read model is, as long as that lags behind.

    Args:
        position: How far the identity read model is.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, event_log: Log, position: Callable[[], int], *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._log = event_log
        self._position = position
        self._clock = clock
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()
        self._head_then = 0
        self._scanned = 0
        self._ends: dict[KeyId, datetime | None] = {}
        self._roles: dict[UserId, dict[WorkspaceId, Role | None]] = {}

    async def look(self) -> None:
        """Look at most once a second, whoever asks."""
        async with self._looking:
            if self._clock() - self._looked_at < LOOK_EVERY_S:
                return
            self._looked_at = self._clock()
            try:
                await self._look()
            except CommandError as error:
                # The read model is right as far as it goes, and the next look is soon.
                log.warning("the log cannot be read for revocations", error=str(error))

    def keys_of(self, rows: Iterable[KeyRow]) -> list[KeyRow]:
        """Tell what is left of keys: not those that were revoked, and others with their new end."""
        return [
            msgspec.structs.replace(row, expires_at=self._ends.get(row.key_id, row.expires_at))
            for row in rows
            if self._ends.get(row.key_id, row) is not None
        ]

    def roles_of(self, user_id: UserId, roles: dict[WorkspaceId, Role]) -> dict[WorkspaceId, Role]:
        """Tell what is left of a user's roles. Nobody is given one here."""
        lately, left = self._roles.get(user_id, {}), dict[WorkspaceId, Role]()
        for workspace_id, role in roles.items():
            now = lately.get(workspace_id, role)
            if now is not None:
                left[workspace_id] = now
        return left

    async def _look(self) -> None:
        position, head = self._position(), await self._log.head()
        # What was the log's end at the last look, a second ago, is projected since.
        follows = position >= self._head_then
        self._head_then = head
        if position >= self._scanned:
            self._ends.clear()
            self._roles.clear()
            self._scanned = position
        if follows:
            return
        for _ in range(PAGES_MAX):
            page = await self._log.read_all(after=self._scanned, limit=PAGE)
            self._apply(page)
            if len(page) < PAGE:
                return

    def _apply(self, page: Iterable[Recorded[AnyEvent]]) -> None:
        for recorded in page:
            self._scanned = recorded.global_position
            workspace_id = recorded.metadata.workspace_id
            match recorded.event:
                case ApiKeyRevoked(key_id=key_id):
                    self._ends[key_id] = None
                case ApiKeyExpirySet(key_id=key_id, expires_at=expires_at):
                    self._ends[key_id] = expires_at
                case MemberRemoved(user_id=user_id):
                    self._roles.setdefault(user_id, {})[workspace_id] = None
                case (
                    MemberRoleChanged(user_id=user_id, role=role)
                    | MemberAdded(user_id=user_id, role=role)
                ):
                    self._roles.setdefault(user_id, {})[workspace_id] = role
                case _:
                    pass
