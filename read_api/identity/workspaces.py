"""Who is asking, his workspaces, their members and invitations."""

import hashlib

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.params import JSONBody

from commands.identity import Invite
from commands.transact import Issued
from domain.errors import Invalid, NotAllowed
from domain.events import PLATFORM_WORKSPACE, WorkspaceId
from domain.identity import InvitationId, Role, UserId
from projections.identity import (
    InvitationRow,
    MembershipRow,
    memberships,
    open_invitations,
    users_of,
    workspace,
    workspace_members,
)
from read_api.accepted import accepted
from read_api.asked import ApiRequest
from read_api.auth import ANYBODY, Principal, may
from read_api.errors import missing
from read_api.identity.bodies import (
    Acceptance,
    ChangedMember,
    CreatedWorkspace,
    Done,
    IdText,
    InvitationBody,
    MemberBody,
    NewInvitation,
    NewRole,
    NewWorkspace,
    SentInvitation,
    UserBody,
    WorkspaceBody,
)
from read_api.view import View


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
