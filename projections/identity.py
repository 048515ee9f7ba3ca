"""Users, workspaces with their members and invitations, and the API keys that open them."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, ClassVar

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Connection, Select, Table, Text, case, select

from domain.catalog import AnyEvent
from domain.events import Event, Recorded, WorkspaceId
from domain.identity import (
    ApiKeyCreated,
    ApiKeyExpirySet,
    ApiKeyRevoked,
    ApiKeyUsed,
    InvitationAccepted,
    InvitationId,
    InvitationRevoked,
    InvitationSent,
    KeyId,
    MemberAdded,
    MemberRemoved,
    MemberRoleChanged,
    Role,
    Scope,
    UserId,
    UserRegistered,
    WorkspaceCreated,
    WorkspaceRenamed,
)
from projections.projector import Batch
from projections.rows import READ_MODELS, Row, micros, moment

users = Table(
    "users",
    READ_MODELS,
    Column("workspace_id", Text, primary_key=True, comment="the platform's"),
    Column("user_id", Text, primary_key=True),
    Column("email", Text, nullable=False, comment="sealed"),
    Column("name", Text, nullable=False, comment="sealed"),
    Column("created_at", BigInteger, nullable=False),
)

workspaces = Table(
    "workspaces",
    READ_MODELS,
    Column("workspace_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("slug", Text, nullable=False),
    Column("personal", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

members = Table(
    "members",
    READ_MODELS,
    Column("workspace_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("joined_at", BigInteger, nullable=False),
)

invitations = Table(
    "invitations",
    READ_MODELS,
    Column("workspace_id", Text, primary_key=True),
    Column("invitation_id", Text, primary_key=True),
    Column("email", Text, nullable=False, comment="sealed"),
    Column("role", Text, nullable=False),
    Column("sent_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
"""Those that were neither accepted nor revoked."""

api_keys = Table(
    "api_keys",
    READ_MODELS,
    Column("workspace_id", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("holder", Text, nullable=False, comment="sealed"),
    Column("secret_hash", Text, nullable=False),
    Column("last_four", Text, nullable=False),
    Column("scopes", Text, nullable=False, comment="separated by spaces"),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
)


class IdentityProjector:
    name: ClassVar[str] = "identity"
    tables: ClassVar[tuple[Table, ...]] = (users, workspaces, members, invitations, api_keys)
    folds: ClassVar[frozenset[type[Event]]] = frozenset(
        {
            UserRegistered,
            WorkspaceCreated,
            WorkspaceRenamed,
            MemberAdded,
            MemberRoleChanged,
            MemberRemoved,
            InvitationSent,
            InvitationAccepted,
            InvitationRevoked,
            ApiKeyCreated,
            ApiKeyExpirySet,
            ApiKeyRevoked,
            ApiKeyUsed,
        }
    )

    def project(self, recorded: Recorded[AnyEvent], batch: Batch) -> None:
        event, at = recorded.event, micros(recorded.metadata.occurred_at)
        workspace_id = recorded.metadata.workspace_id
        _project_users(event, workspace_id, at, batch)
        _project_workspace(event, workspace_id, at, batch)
        _project_invitations(event, workspace_id, at, batch)
        _project_keys(event, workspace_id, at, batch)


def _project_users(event: AnyEvent, workspace_id: WorkspaceId, at: int, batch: Batch) -> None:
    if isinstance(event, UserRegistered):
        batch.rows(users).put(
            {
                "workspace_id": workspace_id,
                "user_id": event.user_id,
                "email": event.email,
                "name": event.name,
                "created_at": at,
            }
        )


def _project_workspace(event: AnyEvent, workspace_id: WorkspaceId, at: int, batch: Batch) -> None:
    match event:
        case WorkspaceCreated():
            batch.rows(workspaces).put(
                {
                    "workspace_id": event.workspace_id,
                    "name": event.name,
                    "slug": event.slug,
                    "personal": event.personal,
                    "created_at": at,
                }
            )
        case WorkspaceRenamed(name=name):
            _change(batch, workspaces, (workspace_id,), name=name)
        case MemberAdded(user_id=user_id, role=role):
            batch.rows(members).put(
                {"workspace_id": workspace_id, "user_id": user_id, "role": role, "joined_at": at}
            )
        case MemberRoleChanged(user_id=user_id, role=role):
            _change(batch, members, (workspace_id, user_id), role=role)
        case MemberRemoved(user_id=user_id):
            batch.rows(members).delete(workspace_id, user_id)
        case _:
            pass


def _project_invitations(event: AnyEvent, workspace_id: WorkspaceId, at: int, batch: Batch) -> None:
    match event:
        case InvitationSent():
            batch.rows(invitations).put(
                {
                    "workspace_id": workspace_id,
                    "invitation_id": event.invitation_id,
                    "email": event.email,
                    "role": event.role,
                    "sent_at": at,
                    "expires_at": micros(event.expires_at),
                }
            )
        case InvitationAccepted(invitation_id=over) | InvitationRevoked(invitation_id=over):
            batch.rows(invitations).delete(workspace_id, over)
        case _:
            pass


def _project_keys(event: AnyEvent, workspace_id: WorkspaceId, at: int, batch: Batch) -> None:
    match event:
        case ApiKeyCreated():
            batch.rows(api_keys).put(_key(event, workspace_id, at))
        case ApiKeyExpirySet(key_id=key_id):
            _change(batch, api_keys, (workspace_id, key_id), expires_at=micros(event.expires_at))
        case ApiKeyRevoked(key_id=key_id):
            _change(batch, api_keys, (workspace_id, key_id), revoked_at=at)
        case ApiKeyUsed(key_id=key_id):
            used_at = micros(event.used_at)
            _change(batch, api_keys, (workspace_id, key_id), last_used_at=used_at)
        case _:
            pass


def _key(event: ApiKeyCreated, workspace_id: WorkspaceId, at: int) -> Row:
    return {
        "workspace_id": workspace_id,
        "key_id": event.key_id,
        "name": event.name,
        "holder": event.holder,
        "secret_hash": event.secret_hash,
        "last_four": event.last_four,
        "scopes": " ".join(event.scopes),
        "created_at": at,
        "expires_at": None if event.expires_at is None else micros(event.expires_at),
        "revoked_at": None,
        "last_used_at": None,
    }


def _change(batch: Batch, table: Table, key: tuple[str, ...], **changes: object) -> None:
    rows = batch.rows(table)
    row = rows.get(*key)
    if row is not None:
        rows.put(row | changes)


# Queries.


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    holder: Sealed.
    """

    workspace_id: WorkspaceId
    key_id: KeyId
    name: str
    holder: str
    secret_hash: str
    last_four: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class MembershipRow(msgspec.Struct, frozen=True, kw_only=True):
    workspace_id: WorkspaceId
    name: str
    slug: str
    personal: bool
    role: Role
    created_at: datetime


class MemberRow(msgspec.Struct, frozen=True, kw_only=True):
    user_id: UserId
    role: Role
    joined_at: datetime


class UserRow(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    email, name: Sealed.
    """

    user_id: UserId
    email: str
    name: str


class InvitationRow(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    email: Sealed.
    """

    invitation_id: InvitationId
    email: str
    role: Role
    sent_at: datetime
    expires_at: datetime


class WorkspaceRow(msgspec.Struct, frozen=True, kw_only=True):
    workspace_id: WorkspaceId
    name: str
    slug: str
    personal: bool
    created_at: datetime


def valid_keys(connection: Connection) -> list[KeyRow]:
    """Select the keys of all workspaces that are not revoked; they may have expired."""
    return _keys(connection, select(api_keys).where(api_keys.c.revoked_at.is_(None)))


def keys(connection: Connection, workspace_id: WorkspaceId) -> list[KeyRow]:
    """Select the keys of a workspace that are not revoked, newest first."""
    of_workspace = (api_keys.c.workspace_id == workspace_id, api_keys.c.revoked_at.is_(None))
    newest_first = (api_keys.c.created_at.desc(), api_keys.c.key_id)
    return _keys(connection, select(api_keys).where(*of_workspace).order_by(*newest_first))


def _keys(connection: Connection, query: Select[Any]) -> list[KeyRow]:
    return [
        KeyRow(
            workspace_id=WorkspaceId(row["workspace_id"]),
            key_id=KeyId(row["key_id"]),
            name=row["name"],
            holder=row["holder"],
            secret_hash=row["secret_hash"],
            last_four=row["last_four"],
            scopes=tuple(row["scopes"].split()),
            created_at=moment(row["created_at"]),
            expires_at=_moment(row["expires_at"]),
            last_used_at=_moment(row["last_used_at"]),
        )
        for row in connection.execute(query).mappings()
    ]


def memberships(connection: Connection, user_id: UserId) -> list[MembershipRow]:
    """Select what a user belongs to: his own personal workspace first, then others' of which he has
    become a member since, then the newest ones.

    He was a member of his own before anybody could invite him, so no invitation comes before it:
    who names no workspace is in the first of these.
    """
    found = connection.execute(
        select(workspaces, members.c.role)
        .join(members, members.c.workspace_id == workspaces.c.workspace_id)
        .where(members.c.user_id == user_id)
        .order_by(
            workspaces.c.personal.desc(),
            case((workspaces.c.personal, members.c.joined_at)),
            workspaces.c.created_at.desc(),
            workspaces.c.workspace_id,
        )
    )
    return [
        MembershipRow(
            workspace_id=WorkspaceId(row["workspace_id"]),
            name=row["name"],
            slug=row["slug"],
            personal=row["personal"],
            role=row["role"],
            created_at=moment(row["created_at"]),
        )
        for row in found.mappings()
    ]


def workspace_members(connection: Connection, workspace_id: WorkspaceId) -> list[MemberRow]:
    """Select the members of a workspace, in the order in which they came."""
    found = connection.execute(
        select(members)
        .where(members.c.workspace_id == workspace_id)
        .order_by(members.c.joined_at, members.c.user_id)
    )
    return [
        MemberRow(user_id=row["user_id"], role=row["role"], joined_at=moment(row["joined_at"]))
        for row in found.mappings()
    ]


def users_of(connection: Connection, user_ids: Collection[UserId]) -> dict[UserId, UserRow]:
    """Select some users, whatever they belong to; the caller has seen that he may know them."""
    found = connection.execute(
        select(users.c.user_id, users.c.email, users.c.name).where(users.c.user_id.in_(user_ids))
    )
    return {
        UserId(row.user_id): UserRow(user_id=row.user_id, email=row.email, name=row.name)
        for row in found
    }


def open_invitations(connection: Connection, workspace_id: WorkspaceId) -> list[InvitationRow]:
    """Select what can be accepted or has expired, newest first."""
    found = connection.execute(
        select(invitations)
        .where(invitations.c.workspace_id == workspace_id)
        .order_by(invitations.c.sent_at.desc(), invitations.c.invitation_id)
    )
    return [
        InvitationRow(
            invitation_id=row["invitation_id"],
            email=row["email"],
            role=row["role"],
            sent_at=moment(row["sent_at"]),
            expires_at=moment(row["expires_at"]),
        )
        for row in found.mappings()
    ]


def workspace(connection: Connection, workspace_id: WorkspaceId) -> WorkspaceRow | None:
    found = connection.execute(
        select(workspaces).where(workspaces.c.workspace_id == workspace_id)
    ).mappings()
    row = found.first()
    if row is None:
        return None
    return WorkspaceRow(
        workspace_id=workspace_id,
        name=row["name"],
        slug=row["slug"],
        personal=row["personal"],
        created_at=moment(row["created_at"]),
    )


def _moment(at: int | None) -> datetime | None:
    return None if at is None else moment(at)
