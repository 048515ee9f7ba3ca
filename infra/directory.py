"""Who a session token stands for: a user, made at the first login, and what he belongs to."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import timedelta
from time import monotonic
from typing import NamedTuple

import msgspec

from commands.identity import Login, ProvisionedAnswer
from domain.events import PLATFORM_WORKSPACE, WorkspaceId
from domain.identity import Permission, Role, UserId, of_role, user_id_of
from infra.api_keys import KEY_PREFIX
from infra.clerk_tokens import LEEWAY_S, ClerkTokens, VerifiedToken
from infra.clock import utc_now
from infra.jws import InvalidToken
from infra.lately import Lately
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


_NOWHERE = _Known(0.0, {}, WorkspaceId(""))


class Directory:
    """Implements `read_api.auth.Authenticator` for both kinds of credentials.

    Args:
        keys: For API keys, which the others are not.
        tokens: For session tokens; None where nobody logs in.
        provision: Registers who logs in for the first time.
        lately: What was taken away and is not in the read model yet.
        preferred: The workspace of whoever belongs to it and names none.
        clock: Seconds, monotonic.
    """

    def __init__(  # noqa: PLR0913 ports, and what tests set
        self,
        keys: Authenticator,
        tokens: ClerkTokens | None,
        reads: Reads,
        provision: Callable[[Login], Awaitable[ProvisionedAnswer]],
        *,
        lately: Lately,
        preferred: WorkspaceId | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._reads = reads
        self._provision = provision
        self._preferred = preferred
        self._lately = lately
        self._clock = clock
        self._known: OrderedDict[UserId, _Known] = OrderedDict()
        self._finding: dict[tuple[UserId, bool], asyncio.Task[_Known]] = {}

    async def caller(self, credential: str, *, from_browser: bool = False) -> Caller | None:
        if credential.startswith(KEY_PREFIX) or self._tokens is None:
            return await self._keys.caller(credential)
        try:
            token = await self._tokens.verify(credential, from_browser=from_browser)
        except InvalidToken:
            return None
        user_id = user_id_of(token.issuer, token.subject)
        return self._caller(user_id, token, await self._belonging(user_id, token))

    async def still(self, principal: Principal) -> Principal | None:
        user_id, ends_at = principal.user_id, principal.expires_at
        if user_id is None:
            return await self._keys.still(principal)
        if ends_at is not None and ends_at + timedelta(seconds=LEEWAY_S) <= utc_now():
            return None
        known = await self._belonging(user_id, None)
        role = known.roles.get(principal.workspace_id)
        if role is None:
            return None
        permissions = _permissions(role, principal.workspace_id)
        return msgspec.structs.replace(principal, role=role, permissions=permissions)

    async def aclose(self) -> None:
        if self._tokens is not None:
            await self._tokens.aclose()

    def _caller(self, user_id: UserId, token: VerifiedToken, known: _Known) -> Caller:
        principals = {
            workspace_id: Principal(
                workspace_id=workspace_id,
                actor=f"user:{user_id}",
                auth_type="clerk",
                permissions=_permissions(role, workspace_id),
                role=role,
                user_id=user_id,
                email=token.email or "",
                expires_at=token.expires_at,
            )
            for workspace_id, role in known.roles.items()
        }
        home = self._preferred if self._preferred in principals else known.home
        return Caller(home=home or known.home, principals=principals)

    async def _belonging(self, user_id: UserId, token: VerifiedToken | None) -> _Known:
        """Tell what a user belongs to; who has no token is not registered for it."""
        known = self._known.get(user_id)
        if known is None or known.until <= self._clock():
            known = await self._find(user_id, token)
        return known

    async def _find(self, user_id: UserId, token: VerifiedToken | None) -> _Known:
        """Look once for all requests that the user has made at the same time."""
        # Who logs in is registered, so he shares no look of those who only ask.
        key = user_id, token is None
        finding = self._finding.get(key)
        if finding is None:
            finding = asyncio.create_task(self._look(user_id, token))
            self._finding[key] = finding
            finding.add_done_callback(lambda _: self._finding.pop(key, None))
        # One caller who goes away does not take the answer from the others.
        return await asyncio.shield(finding)

    async def _look(self, user_id: UserId, token: VerifiedToken | None) -> _Known:
        await self._lately.look()
        found = await self._reads.ask(memberships, user_id)
        if found:
            rows: dict[WorkspaceId, Role] = {row.workspace_id: row.role for row in found}
            roles = self._lately.roles_of(user_id, rows)
            home = next(iter(roles), found[0].workspace_id)
            known = _Known(self._clock() + REMEMBERED_S, roles, home)
        elif token is None:
            return _NOWHERE
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


def _permissions(role: Role, workspace_id: WorkspaceId) -> frozenset[Permission]:
    return of_role(role, operates=workspace_id == PLATFORM_WORKSPACE)
