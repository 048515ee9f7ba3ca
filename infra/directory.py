"""Who a session token stands for: a user, made at the first login, and what he belongs to."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import NamedTuple

from commands.identity import Login, ProvisionedAnswer
from domain.events import WorkspaceId
from domain.identity import OF_ROLE, Role, UserId, user_id_of
from infra.api_keys import KEY_PREFIX
from infra.clerk_tokens import ClerkTokens, VerifiedToken
from infra.jws import InvalidToken
from projections.identity import memberships
from read_api.auth import Authenticator, Caller, Principal
from read_api.reads import Reads

REMEMBERED_S = 2.0
"""How old what is known of a user may be: a member who was removed comes in no longer."""

REMEMBERED_MAX = 10_000


class _Known(NamedTuple):
    until: float
    roles: dict[WorkspaceId, Role]
    home: WorkspaceId


class Directory:
    """Implements `read_api.auth.Authenticator` for both kinds of credentials.

    Args:
        keys: For API keys, which the others are not.
        tokens: For session tokens; None where nobody logs in.
        provision: Registers who logs in for the first time.
        preferred: The workspace of whoever belongs to it and names none.
    """

    def __init__(
        self,
        keys: Authenticator,
        tokens: ClerkTokens | None,
        reads: Reads,
        provision: Callable[[Login], Awaitable[ProvisionedAnswer]],
        *,
        preferred: WorkspaceId | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._reads = reads
        self._provision = provision
        self._preferred = preferred
        self._clock = clock
        self._known: OrderedDict[UserId, _Known] = OrderedDict()
        self._finding: dict[UserId, asyncio.Task[_Known]] = {}

    async def caller(self, credential: str) -> Caller | None:
        if credential.startswith(KEY_PREFIX) or self._tokens is None:
            return await self._keys.caller(credential)
        try:
            token = await self._tokens.verify(credential)
        except InvalidToken:
            return None
        user_id = user_id_of(token.issuer, token.subject)
        known = self._known.get(user_id)
        if known is None or known.until <= self._clock():
            known = await self._find(user_id, token)
        return self._caller(user_id, token.email or "", known)

    async def aclose(self) -> None:
        if self._tokens is not None:
            await self._tokens.aclose()

    def _caller(self, user_id: UserId, email: str, known: _Known) -> Caller:
        principals = {
            workspace_id: Principal(
                workspace_id=workspace_id,
                actor=f"user:{user_id}",
                auth_type="clerk",
                permissions=OF_ROLE[role],
                role=role,
                user_id=user_id,
                email=email,
            )
            for workspace_id, role in known.roles.items()
        }
        home = self._preferred if self._preferred in principals else known.home
        return Caller(home=home or known.home, principals=principals)

    async def _find(self, user_id: UserId, token: VerifiedToken) -> _Known:
        """Look once for all requests that the user has made at the same time."""
        finding = self._finding.get(user_id)
        if finding is None:
            finding = asyncio.create_task(self._look(user_id, token))
            self._finding[user_id] = finding
            finding.add_done_callback(lambda _: self._finding.pop(user_id, None))
        # One caller who goes away does not take the answer from the others.
        return await asyncio.shield(finding)

    async def _look(self, user_id: UserId, token: VerifiedToken) -> _Known:
        found = await self._reads.ask(memberships, user_id)
        if found:
            roles: dict[WorkspaceId, Role] = {row.workspace_id: row.role for row in found}
            known = _Known(self._clock() + REMEMBERED_S, roles, found[0].workspace_id)
        else:
            known = await self._register(token)
        self._known[user_id] = known
        self._known.move_to_end(user_id)
        if len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)
        return known

    async def _register(self, token: VerifiedToken) -> _Known:
        login = Login(
            issuer=token.issuer,
            subject=token.subject,
            email=token.email or "",
            name=token.name or "",
        )
        provisioned = await self._provision(login)
        own = provisioned.workspace_id
        roles: dict[WorkspaceId, Role] = {own: "owner"}
        return _Known(self._clock() + REMEMBERED_S, roles, own)
