"""Whether somebody who was let in once still may: for what lasts longer than a request."""

import asyncio
from time import monotonic
from typing import Final

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolIsBusy

from commands.transact import CommandError
from read_api.auth import Authenticator, Principal

LOOK_EVERY_S: Final = 1.0

UNCONFIRMED_MAX_S: Final = 4.0
"""How long somebody goes on when it cannot be looked up: a database that does not answer must not
keep a revoked key alive."""

FAULTS = (OperationalError, PoolIsBusy, CommandError, OSError, TimeoutError)

log = structlog.get_logger(__name__)


class Standing:
    """Looks, every second, whether a principal may still do what he was let in for.

    What is looked up belongs to the authenticator, which does it once for all who ask about one
    principal: many streams cost it no more than one.

    Attributes:
        over: Whether he may not any more.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        principal: Principal,
        permission: str,
        *,
        every_s: float = LOOK_EVERY_S,
        unconfirmed_max_s: float = UNCONFIRMED_MAX_S,
    ) -> None:
        self._authenticator = authenticator
        self._principal = principal
        self._permission = permission
        self._every_s = every_s
        self._unconfirmed_max_s = unconfirmed_max_s
        self.over = False

    async def end(self) -> None:
        """Return when it is over."""
        confirmed_at = monotonic()
        while not self.over:
            await asyncio.sleep(self._every_s)
            left_s = confirmed_at + self._unconfirmed_max_s - monotonic()
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    self.over = not await self._may()
                confirmed_at = monotonic()
            except FAULTS as error:
                self.over = monotonic() - confirmed_at >= self._unconfirmed_max_s
                log.info("a principal cannot be looked up", error=type(error).__name__)

    async def _may(self) -> bool:
        now = await self._authenticator.still(self._principal)
        return now is not None and self._permission in now.permissions
