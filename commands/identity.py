"""Commands on users, workspaces with their members, and API keys."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated
from uuid import NAMESPACE_URL, uuid5

import msgspec

from commands.names import Names
from commands.transact import Issued, Outcome, Transaction, Transactions
from domain import identity
from domain.events import PLATFORM_WORKSPACE, WorkspaceId
from domain.identity import (
    ALL_SCOPES,
    INSTALLATION,
    KEY_RING,
    USER,
    USER_KIND,
    WORKSPACE,
    ApiKeyCreated,
    InvitationId,
    InvitationSent,
    KeyEvent,
    KeyId,
    KeyRing,
    Opened,
    Role,
    Scope,
    UserId,
    Workspace,
    WorkspaceEvent,
    WorkspaceState,
)

KEY_NAME_MAX = 100
WORKSPACE_NAME_MAX = 100
EMAIL_MAX = 320
"""Octets of the longest address (RFC 3696, erratum 1690)."""

SLUG_MAX = 50

INVITATION_LASTS = timedelta(days=7)
KEY_OVERLAP_MAX = timedelta(days=30)
KEY_LASTS = timedelta(days=90)
KEY_LASTS_MAX = timedelta(days=365)

KeyName = Annotated[str, msgspec.Meta(min_length=1, max_length=KEY_NAME_MAX)]
WorkspaceName = Annotated[str, msgspec.Meta(min_length=1, max_length=WORKSPACE_NAME_MAX)]
Email = Annotated[
    str, msgspec.Meta(min_length=3, max_length=EMAIL_MAX, pattern=r"^[^@\s]+@[^@\s]+\Z")
]


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Who logged in, as a verified token tells it.

    Attributes:
        email, name: Empty when the token tells none.
    """

    issuer: str
    subject: str
    email: str = ""
    name: str = ""


class CreateApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    secret_hash: HMAC-SHA-256 of the whole key, hex. The key itself never comes here.
    expires_at: None for a key that lasts.
    replaces: The key that this one comes instead of, for `rotate_key`.
    """

    key_id: KeyId
    name: KeyName
    holder: str
    secret_hash: str
    last_four: str
    scopes: tuple[Scope, ...] = ALL_SCOPES
    expires_at: datetime | None = None
    replaces: KeyId | None = None

    def made(self) -> ApiKeyCreated:
        return ApiKeyCreated(
            key_id=self.key_id,
            name=self.name,
            holder=self.holder,
            secret_hash=self.secret_hash,
            last_four=self.last_four,
            scopes=self.scopes,
            expires_at=self.expires_at,
            replaces=self.replaces,
        )


class Invite(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    secret_hash: SHA-256 of the secret, hex. The secret itself never comes here.
    """

    invitation_id: InvitationId
    email: Email
    role: Role
    secret_hash: str


class OpenedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    workspace_id: WorkspaceId


class WorkspaceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    workspace_id: WorkspaceId
    name: str
    version: int


class ProvisionedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    workspace_id: The user's personal workspace.
    """

    user_id: UserId
    workspace_id: WorkspaceId


class KeyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    key_id: KeyId


class InvitationAnswer(msgspec.Struct, frozen=True, kw_only=True):
    invitation_id: InvitationId
    role: Role
    expires_at: datetime


class MemberAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    role: None for one who is no member any more.
    """

    user_id: UserId
    role: Role | None


class IdentityCommands:
    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def open_installation(
        self, workspace_id: WorkspaceId, issued: Issued
    ) -> Outcome[OpenedAnswer]:
        """Settle which workspace is the local one: this, or the one settled before."""

        async def decide(transaction: Transaction) -> OpenedAnswer:
            stream_id = INSTALLATION.stream_id(PLATFORM_WORKSPACE, "local")
            loaded = await transaction.load(INSTALLATION, stream_id)
            if isinstance(loaded.state, Opened):
                found = loaded.state.local_workspace_id
                return OpenedAnswer(workspace_id=found)
            opened = identity.open_installation(loaded.state, local_workspace_id=workspace_id)
            transaction.record(stream_id, opened)
            return OpenedAnswer(workspace_id=workspace_id)

        return await self._transactions.run(decide, issued, OpenedAnswer)

    # Users.

    async def provision(self, login: Login, issued: Issued) -> Outcome[ProvisionedAnswer]:
        """Register who logs in for the first time, with a workspace of their own.

        All of it or nothing, and once: whoever comes at the same time finds it done.

        Args:
            issued: In the platform workspace.
        """

        async def decide(transaction: Transaction) -> ProvisionedAnswer:
            user_id = identity.user_id_of(login.issuer, login.subject)
            answer = ProvisionedAnswer(user_id=user_id, workspace_id=personal_workspace(user_id))
            stream_id = USER.stream_id(PLATFORM_WORKSPACE, user_id)
            loaded = await transaction.load(USER, stream_id)
            registered = identity.register_user(
                loaded.state,
                issuer=login.issuer,
                subject=login.subject,
                email=login.email,
                name=login.name,
            )
            if registered:
                transaction.record(stream_id, registered)
                names = Names(transaction, PLATFORM_WORKSPACE, USER_KIND)
                await names.claim(identity.login_of(login.issuer, login.subject), user_id)
                await _open_personal(transaction, login, answer)
            return answer

        return await self._transactions.run(decide, issued, ProvisionedAnswer)

    # Workspaces.

    async def create_workspace(self, name: str, issued: Issued) -> Outcome[OpenedAnswer]:
        """Create the workspace the command is issued in, unless it is there; it is nobody's."""
        return await self._create(name, None, issued)

    async def create_organisation(
        self, name: WorkspaceName, owner: UserId, issued: Issued
    ) -> Outcome[OpenedAnswer]:
        """Create the workspace the command is issued in, with its first owner."""
        return await self._create(name, owner, issued)

    async def _create(
        self, name: str, owner: UserId | None, issued: Issued
    ) -> Outcome[OpenedAnswer]:
        async def decide(transaction: Transaction) -> OpenedAnswer:
            create = partial(
                identity.create_workspace,
                workspace_id=issued.workspace_id,
                name=name,
                slug=slug_of(name),
                owner=owner,
            )
            await _change(transaction, issued, create)
            return OpenedAnswer(workspace_id=issued.workspace_id)

        return await self._transactions.run(decide, issued, OpenedAnswer)

    async def rename_workspace(
        self, name: WorkspaceName, issued: Issued
    ) -> Outcome[WorkspaceAnswer]:
        async def decide(transaction: Transaction) -> WorkspaceAnswer:
            _, version = await _change(
                transaction, issued, partial(identity.rename_workspace, name=name)
            )
            return WorkspaceAnswer(
                workspace_id=issued.workspace_id, name=name.strip(), version=version
            )

        return await self._transactions.run(decide, issued, WorkspaceAnswer)

    # Members.

    async def change_role(
        self, user_id: UserId, role: Role, by: Role, issued: Issued
    ) -> Outcome[MemberAnswer]:
        async def decide(transaction: Transaction) -> MemberAnswer:
            change = partial(identity.change_role, user_id=user_id, role=role, by=by)
            await _change(transaction, issued, change)
            return MemberAnswer(user_id=user_id, role=role)

        return await self._transactions.run(decide, issued, MemberAnswer)

    async def remove_member(
        self, user_id: UserId, by: Role | None, issued: Issued
    ) -> Outcome[MemberAnswer]:
        """Remove a member; `by` is None for one who leaves."""

        async def decide(transaction: Transaction) -> MemberAnswer:
            remove = partial(identity.remove_member, user_id=user_id, by=by)
            await _change(transaction, issued, remove)
            return MemberAnswer(user_id=user_id, role=None)

        return await self._transactions.run(decide, issued, MemberAnswer)

    async def invite(self, command: Invite, by: Role, issued: Issued) -> Outcome[InvitationAnswer]:
        sent = InvitationSent(
            invitation_id=command.invitation_id,
            email=command.email,
            role=command.role,
            secret_hash=command.secret_hash,
            expires_at=issued.metadata.occurred_at + INVITATION_LASTS,
        )

        async def decide(transaction: Transaction) -> InvitationAnswer:
            await _change(transaction, issued, partial(identity.invite, sent=sent, by=by))
            return InvitationAnswer(
                invitation_id=sent.invitation_id, role=sent.role, expires_at=sent.expires_at
            )

        return await self._transactions.run(decide, issued, InvitationAnswer)

    async def accept_invitation(
        self, invitation_id: InvitationId, secret_hash: str, user_id: UserId, issued: Issued
    ) -> Outcome[MemberAnswer]:
        """Make a user a member of the workspace the command is issued in."""

        async def decide(transaction: Transaction) -> MemberAnswer:
            accept = partial(
                identity.accept_invitation,
                invitation_id=invitation_id,
                secret_hash=secret_hash,
                user_id=user_id,
                now=issued.metadata.occurred_at,
            )
            state, _ = await _change(transaction, issued, accept)
            assert isinstance(state, Workspace)
            return MemberAnswer(user_id=user_id, role=state.members[user_id])

        return await self._transactions.run(decide, issued, MemberAnswer)

    async def revoke_invitation(
        self, invitation_id: InvitationId, issued: Issued
    ) -> Outcome[OpenedAnswer]:
        async def decide(transaction: Transaction) -> OpenedAnswer:
            revoke = partial(identity.revoke_invitation, invitation_id=invitation_id)
            await _change(transaction, issued, revoke)
            return OpenedAnswer(workspace_id=issued.workspace_id)

        return await self._transactions.run(decide, issued, OpenedAnswer)

    # API keys.

    async def create_key(self, command: CreateApiKey, issued: Issued) -> Outcome[KeyAnswer]:
        now = issued.metadata.occurred_at
        create = partial(identity.create_key, created=command.made(), now=now)
        return await self._with_key(command.key_id, create, issued)

    async def rotate_key(
        self, command: CreateApiKey, overlap: timedelta, issued: Issued
    ) -> Outcome[KeyAnswer]:
        """Make a key with another one's name and scopes; that one goes on for the overlap."""
        now = issued.metadata.occurred_at
        made = command.made()
        rotate = partial(identity.rotate_key, created=made, old_until=now + overlap, now=now)
        return await self._with_key(command.key_id, rotate, issued)

    async def revoke_key(self, key_id: KeyId, issued: Issued) -> Outcome[KeyAnswer]:
        return await self._with_key(key_id, partial(identity.revoke_key, key_id=key_id), issued)

    async def note_key_use(self, key_id: KeyId, issued: Issued) -> Outcome[KeyAnswer]:
        note = partial(identity.note_use, key_id=key_id, now=issued.metadata.occurred_at)
        return await self._with_key(key_id, note, issued)

    async def _with_key(
        self, key_id: KeyId, change: Callable[[KeyRing], Sequence[KeyEvent]], issued: Issued
    ) -> Outcome[KeyAnswer]:
        async def decide(transaction: Transaction) -> KeyAnswer:
            stream_id = KEY_RING.stream_id(issued.workspace_id, "all")
            loaded = await transaction.load(KEY_RING, stream_id)
            transaction.record(stream_id, change(loaded.state))
            return KeyAnswer(key_id=key_id)

        return await self._transactions.run(decide, issued, KeyAnswer)


async def _change(
    transaction: Transaction,
    issued: Issued,
    decide: Callable[[WorkspaceState], Sequence[WorkspaceEvent]],
) -> tuple[WorkspaceState, int]:
    """Decide on the workspace the command is issued in; tell its state and version then."""
    stream_id = WORKSPACE.stream_id(issued.workspace_id, issued.workspace_id)
    loaded = await transaction.load_matching(WORKSPACE, stream_id)
    decided = decide(loaded.state)
    version = transaction.record(stream_id, decided)
    return WORKSPACE.fold(decided, loaded.state), version


def personal_workspace(user_id: UserId) -> WorkspaceId:
    """Name a user's personal workspace: the same for every process."""
    return WorkspaceId(str(uuid5(NAMESPACE_URL, f"personal|{user_id}")))


async def _open_personal(transaction: Transaction, login: Login, answer: ProvisionedAnswer) -> None:
    workspace_id = answer.workspace_id
    stream_id = WORKSPACE.stream_id(workspace_id, workspace_id)
    loaded = await transaction.load(WORKSPACE, stream_id)
    owner = login.name or login.email.partition("@")[0]
    created = identity.create_workspace(
        loaded.state,
        workspace_id=workspace_id,
        name=f"{owner}'s Workspace"[:WORKSPACE_NAME_MAX] if owner else "My Workspace",
        slug=slug_of(login.email.partition("@")[0] or owner or "my-workspace"),
        personal=True,
        owner=answer.user_id,
    )
    transaction.record(stream_id, created, workspace_id=workspace_id)


def slug_of(text: str) -> str:
    """Spell a name for an address: lower-case ASCII letters and digits, joined by `-`."""
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in text.lower()).split()
    return "-".join(words)[:SLUG_MAX].strip("-") or "workspace"
