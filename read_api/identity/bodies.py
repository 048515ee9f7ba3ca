"""What clients send and are answered about identity."""

from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from litestar.params import PathParameter

from commands.identity import KEY_OVERLAP_MAX, Email, KeyName, WorkspaceName
from domain.events import WorkspaceId
from domain.identity import InvitationId, KeyId, Role, Scope, UserId
from read_api.auth import AuthType

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
