"""The one key of the environment, as the original had it: for this machine's own use."""

import hmac
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Protocol

from domain.events import WorkspaceId
from domain.identity import ALL_SCOPES, of_scopes
from read_api.auth import Authenticator, Caller, Principal

ACTOR = "key:env"
"""No made key's id has three letters."""


class Ending(Authenticator, Protocol):
    async def aclose(self) -> None: ...


class LocalKey:
    """Implements `read_api.auth.Authenticator`: the key opens the one workspace that it is for,
    whatever a request names, and all other credentials are another one's affair.

    Args:
        workspace: Finds that workspace, or makes it.
    """

    def __init__(
        self, key: str, workspace: Callable[[], Awaitable[WorkspaceId]], others: Ending
    ) -> None:
        self._digest = sha256(key.encode()).digest()
        self._workspace = workspace
        self._others = others
        self._found: Caller | None = None

    async def caller(self, credential: str, *, from_browser: bool = False) -> Caller | None:
        # Digests are of one length, and which of their bytes differ tells nothing of the key.
        if hmac.compare_digest(sha256(credential.encode()).digest(), self._digest):
            if self._found is None:
                self._found = _caller(await self._workspace())
            return self._found
        return await self._others.caller(credential, from_browser=from_browser)

    async def still(self, principal: Principal) -> Principal | None:
        if principal.auth_type == "env_key":
            return principal
        return await self._others.still(principal)

    async def aclose(self) -> None:
        await self._others.aclose()


def _caller(workspace_id: WorkspaceId) -> Caller:
    principal = Principal(
        workspace_id=workspace_id,
        actor=ACTOR,
        auth_type="env_key",
        permissions=of_scopes(ALL_SCOPES, operates=True),
        role="admin",
    )
    return Caller(home=workspace_id, principals={workspace_id: principal})
