"""Workspaces and the keys that open them."""

from datetime import timedelta

from domain.events import PLATFORM_WORKSPACE
from domain.identity import (
    ALL_SCOPES,
    ApiKeyCreated,
    ApiKeyExpirySet,
    ApiKeyRevoked,
    ApiKeyUsed,
    InstallationOpened,
    InvitationAccepted,
    InvitationId,
    InvitationRevoked,
    InvitationSent,
    KeyId,
    MemberAdded,
    MemberRemoved,
    MemberRoleChanged,
    UserId,
    UserRegistered,
    WorkspaceCreated,
    WorkspaceRenamed,
)
from projections.identity import (
    KeyRow,
    UserRow,
    keys,
    memberships,
    open_invitations,
    users_of,
    valid_keys,
    workspace,
    workspace_members,
)
from tests.projections.tables import projected
from tests.strategies import START, WORKSPACES, recorded

ACME, GLOBEX = WORKSPACES
HOUR = timedelta(hours=1)
K1 = KeyId("k1")
CREATED = ApiKeyCreated(key_id=K1, name="laptop", holder="Ada", secret_hash="aa", last_four="wxyz")


def test_a_workspace_is_known_by_name() -> None:
    opened = InstallationOpened(local_workspace_id=ACME)
    created = WorkspaceCreated(workspace_id=ACME, name="Acme")
    with projected(recorded(opened, created)) as connection:
        found = workspace(connection, ACME)
        assert found is not None
        assert found.name == "Acme"
        assert workspace(connection, GLOBEX) is None


def test_a_key_opens_its_own_workspace() -> None:
    with projected(recorded(CREATED, workspace_id=GLOBEX)) as connection:
        assert valid_keys(connection) == [
            KeyRow(
                workspace_id=GLOBEX,
                key_id=K1,
                name="laptop",
                holder="Ada",
                secret_hash="aa",
                last_four="wxyz",
                scopes=ALL_SCOPES,
                created_at=START,
                expires_at=None,
                last_used_at=None,
            )
        ]


def test_a_revoked_key_opens_nothing_and_no_other_workspaces_key_is_touched() -> None:
    both = [*recorded(CREATED), *recorded(CREATED, workspace_id=GLOBEX, after=1)]
    revoked = recorded(ApiKeyRevoked(key_id=K1), after=2)
    with projected([*both, *revoked]) as connection:
        assert [key.workspace_id for key in valid_keys(connection)] == [GLOBEX]


def test_keys_are_listed_newest_first_with_their_end_and_their_last_use() -> None:
    heir = ApiKeyCreated(
        key_id=KeyId("k2"),
        name="laptop",
        holder="Ada",
        secret_hash="bb",
        last_four="abcd",
        scopes=("read",),
        replaces=K1,
    )
    ending = ApiKeyExpirySet(key_id=K1, expires_at=START + HOUR)
    used = ApiKeyUsed(key_id=K1, used_at=START + HOUR / 2)
    with projected(recorded(CREATED, heir, ending, used)) as connection:
        second, first = keys(connection, ACME)
        assert keys(connection, GLOBEX) == []
    assert (second.key_id, second.scopes, second.last_used_at) == ("k2", ("read",), None)
    assert (first.expires_at, first.last_used_at) == (START + HOUR, START + HOUR / 2)


# Users and members.

ADA, BOB = UserId("ada"), UserId("bob")


def test_a_user_belongs_to_personal_workspaces_first_and_then_to_the_newest() -> None:
    shared = recorded(
        WorkspaceCreated(workspace_id=ACME, name="Acme", slug="acme"),
        MemberAdded(user_id=ADA, role="viewer"),
        MemberAdded(user_id=BOB, role="owner"),
        MemberRoleChanged(user_id=ADA, role="admin"),
        WorkspaceRenamed(name="Acme Ltd"),
    )
    own = recorded(
        WorkspaceCreated(workspace_id=GLOBEX, name="Ada's", personal=True),
        MemberAdded(user_id=ADA, role="owner"),
        workspace_id=GLOBEX,
        after=5,
    )
    with projected([*shared, *own]) as connection:
        found = memberships(connection, ADA)
        assert [(row.workspace_id, row.role) for row in found] == [
            (GLOBEX, "owner"),
            (ACME, "admin"),
        ]
        assert found[1].name == "Acme Ltd"
        there = workspace_members(connection, ACME)
        assert [(row.user_id, row.role) for row in there] == [(ADA, "admin"), (BOB, "owner")]


def test_who_is_removed_belongs_to_nothing() -> None:
    there = (
        WorkspaceCreated(workspace_id=ACME, name="Acme"),
        MemberAdded(user_id=ADA, role="viewer"),
    )
    with projected(recorded(*there, MemberRemoved(user_id=ADA))) as connection:
        assert memberships(connection, ADA) == []
        assert workspace_members(connection, ACME) == []


def test_users_are_found_by_their_ids() -> None:
    ada = UserRegistered(user_id=ADA, issuer="i", subject="s", email="a@x", name="Ada")
    with projected(recorded(ada, workspace_id=PLATFORM_WORKSPACE)) as connection:
        assert users_of(connection, [ADA, BOB]) == {
            ADA: UserRow(user_id=ADA, email="a@x", name="Ada")
        }


def test_an_invitation_is_open_until_it_is_accepted_or_revoked() -> None:
    def sent(name: str) -> InvitationSent:
        return InvitationSent(
            invitation_id=InvitationId(name),
            email="e@x",
            role="viewer",
            secret_hash="aa",
            expires_at=START + HOUR,
        )

    accepted = InvitationAccepted(invitation_id=InvitationId("i1"), user_id=ADA)
    revoked = InvitationRevoked(invitation_id=InvitationId("i2"))
    events = recorded(sent("i1"), sent("i2"), sent("i3"), accepted, revoked)
    with projected(events) as connection:
        (left,) = open_invitations(connection, ACME)
    assert (left.invitation_id, left.role, left.expires_at) == ("i3", "viewer", START + HOUR)
