"""Workspaces: what belongs together, who are its members, and who is invited."""

from datetime import datetime
from typing import ClassVar, NewType, TypeAlias, TypeVar, assert_never

import msgspec

from domain.errors import (
    Invalid,
    InvitationIsOver,
    LastOwner,
    NotAllowed,
    NotFound,
    TooMany,
)
from domain.events import Aggregate, Event, Personal, WorkspaceId
from domain.identity.permissions import Role
from domain.identity.users import UserId

K = TypeVar("K")
V = TypeVar("V")

InvitationId = NewType("InvitationId", str)

_NEVER = UserId("")
"""Of nobody: what was not used by anybody, nor revoked."""

MEMBERS_MAX = 1_000
INVITATIONS_MAX = 100
"""Open at once."""


# Events.


class WorkspaceCreated(Event, frozen=True, kw_only=True, tag="workspace_created"):
    """A workspace came into being.

    Attributes:
        slug: For addresses that people read; not unique.
        personal: Made for one user at the first login.
    """

    workspace_id: WorkspaceId
    name: str
    slug: str = ""
    personal: bool = False


class WorkspaceRenamed(Event, frozen=True, kw_only=True, tag="workspace_renamed"):
    """A workspace goes by another name; its slug stays."""

    name: str


class MemberAdded(Event, frozen=True, kw_only=True, tag="member_added"):
    """A user belongs to the workspace."""

    user_id: UserId
    role: Role


class MemberRoleChanged(Event, frozen=True, kw_only=True, tag="member_role_changed"):
    """A member may do other things than before."""

    user_id: UserId
    role: Role


class MemberRemoved(Event, frozen=True, kw_only=True, tag="member_removed"):
    """A user does not belong to the workspace any more."""

    user_id: UserId


class InvitationSent(Event, frozen=True, kw_only=True, tag="invitation_sent"):
    """Whoever presents the invitation's secret in time becomes a member.

    Attributes:
        secret_hash: SHA-256 of the secret, hex; it is told once.
        email: Whom it is meant for, so that members recognise it.
    """

    subject_field: ClassVar[str] = "invitation_id"

    invitation_id: InvitationId
    email: Personal[str]
    role: Role
    secret_hash: str
    expires_at: datetime


class InvitationAccepted(Event, frozen=True, kw_only=True, tag="invitation_accepted"):
    """An invitation was used."""

    invitation_id: InvitationId
    user_id: UserId


class InvitationRevoked(Event, frozen=True, kw_only=True, tag="invitation_revoked"):
    """An invitation is of no use any more."""

    invitation_id: InvitationId


WorkspaceEvent: TypeAlias = (
    WorkspaceCreated
    | WorkspaceRenamed
    | MemberAdded
    | MemberRoleChanged
    | MemberRemoved
    | InvitationSent
    | InvitationAccepted
    | InvitationRevoked
)


# State.


class Invitation(msgspec.Struct, frozen=True):
    role: Role
    secret_hash: str
    expires_at: datetime


class NoWorkspace(msgspec.Struct, frozen=True, tag=True):
    pass


class Workspace(msgspec.Struct, frozen=True, tag=True):
    """Attributes:
    members: Role by user.
    left: Users who were members.
    invitations: Those that can still be accepted, if their time is not over.
    over: The others, with who accepted them; None for a revoked one.
    """

    workspace_id: WorkspaceId
    name: str
    members: dict[UserId, Role] = {}
    left: frozenset[UserId] = frozenset()
    invitations: dict[InvitationId, Invitation] = {}
    over: dict[InvitationId, UserId | None] = {}


WorkspaceState: TypeAlias = NoWorkspace | Workspace


def evolve(state: WorkspaceState, event: WorkspaceEvent) -> WorkspaceState:
    if isinstance(event, WorkspaceCreated):
        return Workspace(event.workspace_id, event.name)
    if isinstance(state, NoWorkspace):
        return state
    match event:
        case WorkspaceRenamed(name=name):
            return msgspec.structs.replace(state, name=name)
        case MemberAdded() | MemberRoleChanged() | MemberRemoved():
            return _with_members(state, event)
        case InvitationSent() | InvitationAccepted() | InvitationRevoked():
            return _with_invitations(state, event)
        case _:
            assert_never(event)


def _with_members(
    state: Workspace, event: MemberAdded | MemberRoleChanged | MemberRemoved
) -> Workspace:
    user_id, there = event.user_id, _without(state.members, event.user_id)
    if isinstance(event, MemberRemoved):
        return msgspec.structs.replace(state, members=there, left=state.left | {user_id})
    there[user_id] = event.role
    return msgspec.structs.replace(state, members=there, left=state.left - {user_id})


def _with_invitations(
    state: Workspace, event: InvitationSent | InvitationAccepted | InvitationRevoked
) -> Workspace:
    left = _without(state.invitations, event.invitation_id)
    if isinstance(event, InvitationSent):
        left[event.invitation_id] = Invitation(event.role, event.secret_hash, event.expires_at)
        return msgspec.structs.replace(state, invitations=left)
    by = event.user_id if isinstance(event, InvitationAccepted) else None
    over = {**state.over, event.invitation_id: by}
    return msgspec.structs.replace(state, invitations=left, over=over)


def _without(known: dict[K, V], key: K) -> dict[K, V]:
    return {each: value for each, value in known.items() if each != key}


WORKSPACE: Aggregate[WorkspaceState, WorkspaceEvent] = Aggregate(
    category="workspace", initial=NoWorkspace(), evolve=evolve
)


# Decisions.


def create_workspace(
    state: WorkspaceState,
    *,
    workspace_id: WorkspaceId,
    name: str,
    slug: str = "",
    personal: bool = False,
    owner: UserId | None = None,
) -> tuple[WorkspaceEvent, ...]:
    """Create once, with its first owner if it is anybody's."""
    if isinstance(state, Workspace):
        return ()
    created = WorkspaceCreated(workspace_id=workspace_id, name=name, slug=slug, personal=personal)
    if owner is None:
        return (created,)
    return (created, MemberAdded(user_id=owner, role="owner"))


def rename_workspace(state: WorkspaceState, *, name: str) -> tuple[WorkspaceEvent, ...]:
    known = existing(state)
    if not name.strip():
        raise Invalid("A workspace has a name.", pointer="/name")
    return () if known.name == name.strip() else (WorkspaceRenamed(name=name.strip()),)


def change_role(
    state: WorkspaceState, *, user_id: UserId, role: Role, by: Role
) -> tuple[WorkspaceEvent, ...]:
    """Give a member another role.

    Raises:
        NotAllowed: Only an owner makes or unmakes owners.
        LastOwner: Nobody would be left who may.
    """
    known = existing(state)
    before = _member(known, user_id)
    if before == role:
        return ()
    _check_owners(by, before, role)
    if before == "owner":
        _check_another_owner(known, user_id)
    return (MemberRoleChanged(user_id=user_id, role=role),)


def remove_member(
    state: WorkspaceState, *, user_id: UserId, by: Role | None
) -> tuple[WorkspaceEvent, ...]:
    """Remove a member; None for one who leaves.

    Raises:
        NotAllowed: Only an owner removes an owner.
        LastOwner: Nobody would be left who may.
    """
    known = existing(state)
    if user_id in known.left:
        return ()
    before = _member(known, user_id)
    if by is not None:
        _check_owners(by, before)
    if before == "owner":
        _check_another_owner(known, user_id)
    return (MemberRemoved(user_id=user_id),)


def invite(state: WorkspaceState, *, sent: InvitationSent, by: Role) -> tuple[WorkspaceEvent, ...]:
    """Invite somebody.

    Raises:
        NotAllowed: Only an owner invites owners.
        TooMany: So many invitations are open, or so many members are there, at most.
    """
    known = existing(state)
    if sent.invitation_id in known.invitations or sent.invitation_id in known.over:
        return ()
    _check_owners(by, sent.role)
    if len(known.invitations) >= INVITATIONS_MAX:
        raise TooMany("open invitations", INVITATIONS_MAX)
    return (sent,)


def accept_invitation(
    state: WorkspaceState,
    *,
    invitation_id: InvitationId,
    secret_hash: str,
    user_id: UserId,
    now: datetime,
) -> tuple[WorkspaceEvent, ...]:
    """Become a member; a member stays what he is.

    Raises:
        NotFound: There is no such invitation, or the secret is not its own. Nor does it tell
            whether there is such a workspace: whoever asks belongs to none yet.
        InvitationIsOver: It came too late.
    """
    if isinstance(state, NoWorkspace):
        raise NotFound("Invitation", invitation_id)
    known = state
    if known.over.get(invitation_id) == user_id:
        return ()
    invitation = known.invitations.get(invitation_id)
    if invitation is None or invitation.secret_hash != secret_hash:
        raise NotFound("Invitation", invitation_id)
    if now >= invitation.expires_at:
        raise InvitationIsOver(invitation_id)
    accepted = InvitationAccepted(invitation_id=invitation_id, user_id=user_id)
    if user_id in known.members:
        return (accepted,)
    if len(known.members) >= MEMBERS_MAX:
        raise TooMany("members", MEMBERS_MAX)
    return (accepted, MemberAdded(user_id=user_id, role=invitation.role))


def revoke_invitation(
    state: WorkspaceState, *, invitation_id: InvitationId
) -> tuple[WorkspaceEvent, ...]:
    known = existing(state)
    if known.over.get(invitation_id, _NEVER) is None:
        return ()
    if invitation_id not in known.invitations:
        raise NotFound("Invitation", invitation_id)
    return (InvitationRevoked(invitation_id=invitation_id),)


def existing(state: WorkspaceState) -> Workspace:
    """Insist on a workspace.

    Raises:
        NotFound: There is none.
    """
    if isinstance(state, NoWorkspace):
        raise NotFound("Workspace", "current")
    return state


def _member(known: Workspace, user_id: UserId) -> Role:
    role = known.members.get(user_id)
    if role is None:
        raise NotFound("Member", user_id)
    return role


def _check_owners(by: Role, *roles: Role) -> None:
    if "owner" in roles and by != "owner":
        raise NotAllowed("Only an owner makes, invites or removes owners.", pointer="/role")


def _check_another_owner(known: Workspace, user_id: UserId) -> None:
    if not any(role == "owner" and each != user_id for each, role in known.members.items()):
        raise LastOwner
