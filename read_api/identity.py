"""Who is asking, his workspaces, their members and invitations, and their API keys."""

import hashlib
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.params import JSONBody, PathParameter

from commands.identity import (
    KEY_LASTS,
    KEY_LASTS_MAX,
    KEY_OVERLAP_MAX,
    CreateApiKey,
    Email,
    Invite,
    KeyName,
    WorkspaceName,
)
from commands.transact import Issued
from domain.errors import Invalid, NotAllowed, NotFound
from domain.events import PLATFORM_WORKSPACE, WorkspaceId
from domain.identity import InvitationId, KeyId, Role, Scope, UserId, of_scopes
from projections.identity import (
    InvitationRow,
    KeyRow,
    MembershipRow,
    keys,
    memberships,
    open_invitations,
    users_of,
    workspace,
    workspace_members,
)
from read_api.accepted import accepted
from read_api.asked import ApiRequest
from read_api.auth import ANYBODY, AuthType, Principal, may
from read_api.errors import missing
from read_api.view import View

SECRET_MAX = 200
ID_TEXT_MAX = 64

IdText = Annotated[str, PathParameter(min_length=1, max_length=ID_TEXT_MAX)]


class UserBody(msgspec.Struct, frozen=True, kw_only=True):
    """The original's request context, as far as a client may know its own.

    Attributes:
        id: The user's, or the key's.
        workspace_id: The one that this request is in.
    """

    id: str
    email: str
    auth_type: AuthType
    workspace_id: WorkspaceId
    role: Role | None
    permissions: list[str]


class WorkspaceBody(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    plan, plan_limits: Nothing is limited by plan; the fields are the original's.
    role: The caller's; null for a key without administration.
    is_new_workspace, webhook_url, webhook_key: The original's fields; nothing fills them yet.
    """

    id: WorkspaceId
    name: str
    slug: str
    is_personal: bool
    role: Role | None
    created_at: datetime
    plan: str = "self_hosted"
    plan_limits: dict[str, int] = {}
    is_new_workspace: bool = False
    webhook_url: str | None = None
    webhook_key: str | None = None
    settings: dict[str, object] = {}


class NewWorkspace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: WorkspaceName


class CreatedWorkspace(msgspec.Struct, frozen=True, kw_only=True):
    id: WorkspaceId
    name: str


class MemberBody(msgspec.Struct, frozen=True, kw_only=True):
    user_id: UserId
    email: str
    name: str
    role: Role
    joined_at: datetime


class NewRole(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    role: Role


class ChangedMember(msgspec.Struct, frozen=True, kw_only=True):
    user_id: UserId
    role: Role | None


class NewInvitation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    email: Email
    role: Role


class InvitationBody(msgspec.Struct, frozen=True, kw_only=True):
    id: InvitationId
    email: str
    role: Role
    sent_at: datetime
    expires_at: datetime


class SentInvitation(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    token: Makes whoever presents it a member; shown once, so null where a request is answered
        again. Hand it over yourself: nothing is mailed.
    """

    id: InvitationId
    role: Role
    expires_at: datetime
    token: str | None


class Acceptance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    token: Annotated[str, msgspec.Meta(min_length=1, max_length=SECRET_MAX)]


class NewApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: KeyName
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1, max_length=4)] = ("read",)
    expires_at: datetime | None = None


class Overlap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Attributes:
    overlap_hours: How long the old key goes on.
    """

    overlap_hours: Annotated[int, msgspec.Meta(ge=0, le=KEY_OVERLAP_MAX // timedelta(hours=1))] = 24


class ApiKeyBody(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    masked: Enough to recognise the key by.
    last_used_at: Exact to the hour; null until the key is used after its first hour.
    """

    id: KeyId
    name: str
    masked: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class MadeApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    key: The key itself; shown once, so null where a request is answered again.
    """

    id: KeyId
    name: str
    key: str | None
    scopes: tuple[Scope, ...]
    expires_at: datetime | None


class Done(msgspec.Struct, frozen=True, kw_only=True):
    message: str


class UserController(Controller):
    path = "/api/users"
    tags = ("identity",)

    @get("/me", summary="Tell who is asking", opt=may(ANYBODY))
    async def me(self, request: ApiRequest) -> UserBody:
        principal = request.principal
        return UserBody(
            id=principal.user_id or principal.key_id or principal.actor,
            email=principal.email,
            auth_type=principal.auth_type,
            workspace_id=principal.workspace_id,
            role=principal.role,
            permissions=sorted(principal.permissions),
        )


class WorkspaceController(Controller):
    path = "/api/workspaces"
    tags = ("identity",)

    @get("/", summary="List the caller's workspaces", opt=may(ANYBODY))
    async def mine(self, request: ApiRequest) -> Response[list[WorkspaceBody]]:
        view, principal = request.view, request.principal
        await view.fresh("identity")
        if principal.user_id is None:
            return view.response([await _current(view, principal)])
        rows = await view.ask_all(memberships, principal.user_id)
        return view.response([_membership(row) for row in rows])

    @post("/", summary="Make a workspace that is the caller's", opt=may(ANYBODY))
    async def create(
        self, data: JSONBody[NewWorkspace], request: ApiRequest
    ) -> Response[CreatedWorkspace]:
        user_id = _user(request.principal)
        issued = await request.issued()
        workspace_id = WorkspaceId(request.ports.circumstances.new_uuid())
        identity = request.commands.identity
        outcome = await identity.create_organisation(
            data.name.strip(), user_id, _within(issued, workspace_id)
        )
        body = CreatedWorkspace(id=outcome.answer.workspace_id, name=data.name.strip())
        return accepted(outcome, body, 1, 201)

    @get("/current", summary="Read this workspace", opt=may("workspace:read"))
    async def current(self, request: ApiRequest) -> Response[WorkspaceBody]:
        view = request.view
        await view.fresh("identity")
        return view.response(await _current(view, request.principal))

    @put("/current", summary="Rename this workspace", opt=may("workspace:manage"))
    async def rename(
        self, data: JSONBody[NewWorkspace], request: ApiRequest
    ) -> Response[CreatedWorkspace]:
        outcome = await request.commands.identity.rename_workspace(
            data.name, await request.issued()
        )
        answer = outcome.answer
        body = CreatedWorkspace(id=answer.workspace_id, name=answer.name)
        return accepted(outcome, body, answer.version, 200)

    @get("/current/members", summary="List the members", opt=may("members:read"))
    async def members(self, request: ApiRequest) -> Response[list[MemberBody]]:
        view = request.view
        await view.fresh("identity")
        rows = await view.ask(workspace_members)
        known = await view.ask_all(users_of, [row.user_id for row in rows])
        bodies = [
            MemberBody(
                user_id=row.user_id,
                email=view.opened(PLATFORM_WORKSPACE, known[row.user_id].email),
                name=view.opened(PLATFORM_WORKSPACE, known[row.user_id].name),
                role=row.role,
                joined_at=row.joined_at,
            )
            for row in rows
            if row.user_id in known
        ]
        return view.response(bodies)

    @put(
        "/current/members/{user_id:str}",
        summary="Give a member another role",
        opt=may("members:manage"),
    )
    async def change_role(
        self, user_id: IdText, data: JSONBody[NewRole], request: ApiRequest
    ) -> Response[ChangedMember]:
        outcome = await request.commands.identity.change_role(
            UserId(user_id), data.role, _role(request.principal), await request.issued()
        )
        body = ChangedMember(user_id=outcome.answer.user_id, role=outcome.answer.role)
        return accepted(outcome, body, 1, 200)

    @delete(
        "/current/members/{user_id:str}",
        status_code=200,
        summary="Remove a member; everybody may leave",
        opt=may(ANYBODY),
    )
    async def remove_member(self, user_id: IdText, request: ApiRequest) -> Response[ChangedMember]:
        principal = request.principal
        leaves = principal.user_id == user_id
        if not leaves and "members:manage" not in principal.permissions:
            raise NotAllowed("Only an owner or an admin removes others.")
        by = None if leaves else _role(principal)
        outcome = await request.commands.identity.remove_member(
            UserId(user_id), by, await request.issued()
        )
        return accepted(outcome, ChangedMember(user_id=UserId(user_id), role=None), 1, 200)

    @get(
        "/current/invitations",
        summary="List the open invitations",
        opt=may("members:read"),
    )
    async def invitations(self, request: ApiRequest) -> Response[list[InvitationBody]]:
        view = request.view
        await view.fresh("identity")
        rows = await view.ask(open_invitations)
        return view.response([_invitation(row, view) for row in rows])

    @post(
        "/current/invitations",
        summary="Invite somebody",
        opt=may("members:manage"),
    )
    async def invite(
        self, data: JSONBody[NewInvitation], request: ApiRequest
    ) -> Response[SentInvitation]:
        circumstances, issued = request.ports.circumstances, await request.issued()
        secret, invitation_id = circumstances.new_secret(), InvitationId(circumstances.new_uuid())
        command = Invite(
            invitation_id=invitation_id,
            email=data.email,
            role=data.role,
            secret_hash=_hashed(secret),
        )
        outcome = await request.commands.identity.invite(command, _role(request.principal), issued)
        answer = outcome.answer
        body = SentInvitation(
            id=answer.invitation_id,
            role=answer.role,
            expires_at=answer.expires_at,
            token=None
            if outcome.replayed
            else f"{issued.workspace_id}.{answer.invitation_id}.{secret}",
        )
        return accepted(outcome, body, 1, 201)

    @delete(
        "/current/invitations/{invitation_id:str}",
        status_code=200,
        summary="Take an invitation back",
        opt=may("members:manage"),
    )
    async def revoke_invitation(self, invitation_id: IdText, request: ApiRequest) -> Response[Done]:
        outcome = await request.commands.identity.revoke_invitation(
            InvitationId(invitation_id), await request.issued()
        )
        return accepted(outcome, Done(message="The invitation is revoked"), 1, 200)


class InvitationController(Controller):
    path = "/api/invitations"
    tags = ("identity",)

    @post(
        "/accept",
        status_code=200,
        summary="Become a member by an invitation",
        opt=may(ANYBODY),
    )
    async def accept(
        self, data: JSONBody[Acceptance], request: ApiRequest
    ) -> Response[ChangedMember]:
        user_id = _user(request.principal)
        workspace_id, invitation_id, secret = _parts(data.token)
        # Who is no member yet knows no version, and is told none: not even that there is one.
        issued = msgspec.structs.replace(await request.issued(), if_version=None)
        issued = _within(issued, workspace_id)
        outcome = await request.commands.identity.accept_invitation(
            invitation_id, _hashed(secret), user_id, issued
        )
        body = ChangedMember(user_id=user_id, role=outcome.answer.role)
        return accepted(outcome, body, 1, 200)


class ApiKeyController(Controller):
    path = "/api/api-keys"
    tags = ("identity",)

    @get("/", summary="List the workspace's API keys", opt=may("keys:read"))
    async def list_keys(self, request: ApiRequest) -> Response[list[ApiKeyBody]]:
        view = request.view
        await view.fresh("identity")
        return view.response([_key(row) for row in await view.ask(keys)])

    @post("/", summary="Make an API key", opt=may("keys:manage"))
    async def create(self, data: JSONBody[NewApiKey], request: ApiRequest) -> Response[MadeApiKey]:
        issued = await request.issued()
        now = issued.metadata.occurred_at
        expires_at = data.expires_at or now + KEY_LASTS
        _check_grant(request.principal, data.scopes, expires_at, now)
        made = request.commands.make_key()
        command = CreateApiKey(
            key_id=made.key_id,
            name=data.name,
            holder=request.principal.email,
            secret_hash=made.secret_hash,
            last_four=made.last_four,
            scopes=data.scopes,
            expires_at=expires_at,
        )
        outcome = await request.commands.identity.create_key(command, issued)
        body = MadeApiKey(
            id=outcome.answer.key_id,
            name=data.name,
            key=None if outcome.replayed else made.text,
            scopes=data.scopes,
            expires_at=expires_at,
        )
        return accepted(outcome, body, 1, 201)

    @post(
        "/{key_id:str}/rotate",
        summary="Make a key instead of this one, which goes on for a while",
        opt=may("keys:manage"),
    )
    async def rotate(
        self, key_id: IdText, data: JSONBody[Overlap], request: ApiRequest
    ) -> Response[MadeApiKey]:
        view, issued = request.view, await request.issued()
        await view.fresh("identity")
        old = next((row for row in await view.ask(keys) if row.key_id == key_id), None)
        if old is None:
            raise NotFound("API key", key_id)
        made, expires_at = request.commands.make_key(), issued.metadata.occurred_at + KEY_LASTS
        command = CreateApiKey(
            key_id=made.key_id,
            name=old.name,
            holder=request.principal.email,
            secret_hash=made.secret_hash,
            last_four=made.last_four,
            scopes=old.scopes,
            expires_at=expires_at,
            replaces=old.key_id,
        )
        overlap = timedelta(hours=data.overlap_hours)
        outcome = await request.commands.identity.rotate_key(command, overlap, issued)
        body = MadeApiKey(
            id=outcome.answer.key_id,
            name=old.name,
            key=None if outcome.replayed else made.text,
            scopes=old.scopes,
            expires_at=expires_at,
        )
        return accepted(outcome, body, 1, 201)

    @delete(
        "/{key_id:str}",
        status_code=200,
        summary="Make a key open nothing any more",
        opt=may("keys:manage"),
    )
    async def revoke(self, key_id: IdText, request: ApiRequest) -> Response[Done]:
        outcome = await request.commands.identity.revoke_key(KeyId(key_id), await request.issued())
        return accepted(outcome, Done(message="The API key is revoked"), 1, 200)


async def _current(view: View, principal: Principal) -> WorkspaceBody:
    row = await view.ask(workspace)
    if row is None:
        raise missing("Workspace")
    return WorkspaceBody(
        id=row.workspace_id,
        name=row.name,
        slug=row.slug,
        is_personal=row.personal,
        role=principal.role,
        created_at=row.created_at,
    )


def _membership(row: MembershipRow) -> WorkspaceBody:
    return WorkspaceBody(
        id=row.workspace_id,
        name=row.name,
        slug=row.slug,
        is_personal=row.personal,
        role=row.role,
        created_at=row.created_at,
    )


def _invitation(row: InvitationRow, view: View) -> InvitationBody:
    return InvitationBody(
        id=row.invitation_id,
        email=view.opened(view.workspace_id, row.email),
        role=row.role,
        sent_at=row.sent_at,
        expires_at=row.expires_at,
    )


def _key(row: KeyRow) -> ApiKeyBody:
    return ApiKeyBody(
        id=row.key_id,
        name=row.name,
        masked=f"atk_live_{row.key_id}_…{row.last_four}",
        scopes=row.scopes,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )


def _check_grant(
    principal: Principal, scopes: tuple[Scope, ...], expires_at: datetime, now: datetime
) -> None:
    """Nobody makes a key that may do more than himself, or that lasts for ever.

    Raises:
        NotAllowed, Invalid: It would.
    """
    if not of_scopes(scopes) <= principal.permissions:
        raise NotAllowed("A key may do no more than who makes it.", pointer="/scopes")
    if expires_at.tzinfo is None:
        raise Invalid("A time has an offset, or Z.", pointer="/expires_at")
    if expires_at > now + KEY_LASTS_MAX:
        days = KEY_LASTS_MAX // timedelta(days=1)
        raise Invalid(f"A key lasts {days} days at most.", pointer="/expires_at")


def _user(principal: Principal) -> UserId:
    if principal.user_id is None:
        raise NotAllowed("Only somebody who has logged in, not an API key, can do this.")
    return principal.user_id


def _role(principal: Principal) -> Role:
    """Tell on whose behalf members are managed; a key that may is as good as an admin."""
    return principal.role or "admin"


def _within(issued: Issued, workspace_id: WorkspaceId) -> Issued:
    metadata = msgspec.structs.replace(issued.metadata, workspace_id=workspace_id)
    return msgspec.structs.replace(issued, metadata=metadata)


def _parts(token: str) -> tuple[WorkspaceId, InvitationId, str]:
    workspace_id, _, rest = token.partition(".")
    invitation_id, _, secret = rest.partition(".")
    if not (workspace_id and invitation_id and secret):
        raise Invalid("This is no invitation's token.", pointer="/token")
    return WorkspaceId(workspace_id), InvitationId(invitation_id), secret


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
