"""The rules of users, workspaces with members, and API keys."""

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from domain import identity
from domain.errors import (
    DomainError,
    Invalid,
    InvitationIsOver,
    LastOwner,
    NotAllowed,
    NotFound,
    TooMany,
)
from domain.events import WorkspaceId
from domain.identity import (
    ALL_SCOPES,
    INSTALLATION,
    INVITATIONS_MAX,
    KEY_RING,
    KEYS_MAX,
    MEMBERS_MAX,
    OF_ROLE,
    OPERATE,
    USE_NOTED_EVERY,
    USER,
    WORKSPACE,
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
    Role,
    UserId,
    UserRegistered,
    WorkspaceCreated,
    WorkspaceRenamed,
    of_role,
    of_scopes,
    user_id_of,
)
from tests.given import given

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ACME, GLOBEX = WorkspaceId("acme"), WorkspaceId("globex")
ADA, BOB, EVE = UserId("ada"), UserId("bob"), UserId("eve")
OPENED = InstallationOpened(local_workspace_id=ACME)
CREATED = WorkspaceCreated(workspace_id=ACME, name="Acme")
ADA_OWNS = (CREATED, MemberAdded(user_id=ADA, role="owner"))
WITH_BOB = (*ADA_OWNS, MemberAdded(user_id=BOB, role="editor"))
I1 = InvitationId("i1")
SENT = InvitationSent(
    invitation_id=I1, email="eve@x.org", role="viewer", secret_hash="aa", expires_at=NOON + HOUR
)


def test_an_installation_opens_once_whoever_comes_second() -> None:
    given(INSTALLATION).when(identity.open_installation, local_workspace_id=ACME).then(OPENED)
    given(INSTALLATION, OPENED).when(
        identity.open_installation, local_workspace_id=GLOBEX
    ).then_nothing()


# Users.


def test_a_user_is_registered_at_the_first_login_alone() -> None:
    login = {"issuer": "clerk", "subject": "user_1", "email": "ada@x.org", "name": "Ada"}
    registered = UserRegistered(user_id=user_id_of("clerk", "user_1"), **login)
    given(USER).when(identity.register_user, **login).then(registered)
    given(USER, registered).when(identity.register_user, **login).then_nothing()


def test_the_same_subject_of_another_issuer_is_another_user() -> None:
    assert user_id_of("a", "1") != user_id_of("b", "1")
    assert user_id_of("a", "1") == user_id_of("a", "1")


# Workspaces.


def test_a_workspace_is_created_once_with_its_owner() -> None:
    arguments = {"workspace_id": ACME, "name": "Acme", "owner": ADA}
    given(WORKSPACE).when(identity.create_workspace, **arguments).then(*ADA_OWNS)
    given(WORKSPACE, CREATED).when(identity.create_workspace, **arguments).then_nothing()


def test_a_workspace_may_be_nobodys() -> None:
    given(WORKSPACE).when(identity.create_workspace, workspace_id=ACME, name="Acme").then(CREATED)


def test_a_workspace_is_renamed() -> None:
    given(WORKSPACE, CREATED).when(identity.rename_workspace, name=" Globex ").then(
        WorkspaceRenamed(name="Globex")
    )
    given(WORKSPACE, CREATED).when(identity.rename_workspace, name="Acme").then_nothing()
    given(WORKSPACE, CREATED).when(identity.rename_workspace, name="  ").then_refused(
        Invalid, pointer="/name"
    )
    given(WORKSPACE).when(identity.rename_workspace, name="Globex").then_refused(NotFound)


def test_an_admin_gives_members_other_roles() -> None:
    given(WORKSPACE, *WITH_BOB).when(
        identity.change_role, user_id=BOB, role="auditor", by="admin"
    ).then(MemberRoleChanged(user_id=BOB, role="auditor"))
    given(WORKSPACE, *WITH_BOB).when(
        identity.change_role, user_id=BOB, role="editor", by="admin"
    ).then_nothing()


@pytest.mark.parametrize(("user_id", "role"), [(BOB, "owner"), (ADA, "viewer")])
def test_only_an_owner_makes_and_unmakes_owners(user_id: UserId, role: Role) -> None:
    given(WORKSPACE, *WITH_BOB).when(
        identity.change_role, user_id=user_id, role=role, by="admin"
    ).then_refused(NotAllowed, pointer="/role")


def test_the_last_owner_stays_one() -> None:
    given(WORKSPACE, *WITH_BOB).when(
        identity.change_role, user_id=ADA, role="admin", by="owner"
    ).then_refused(LastOwner)
    given(WORKSPACE, *WITH_BOB).when(identity.remove_member, user_id=ADA, by=None).then_refused(
        LastOwner
    )
    second = MemberRoleChanged(user_id=BOB, role="owner")
    given(WORKSPACE, *WITH_BOB, second).when(identity.remove_member, user_id=ADA, by=None).then(
        MemberRemoved(user_id=ADA)
    )


def test_an_admin_removes_members_but_no_owner() -> None:
    given(WORKSPACE, *WITH_BOB).when(identity.remove_member, user_id=BOB, by="admin").then(
        MemberRemoved(user_id=BOB)
    )
    given(WORKSPACE, *WITH_BOB).when(identity.remove_member, user_id=ADA, by="admin").then_refused(
        NotAllowed, pointer="/role"
    )
    given(WORKSPACE, *WITH_BOB, MemberRemoved(user_id=BOB)).when(
        identity.remove_member, user_id=BOB, by="admin"
    ).then_nothing()
    given(WORKSPACE, *ADA_OWNS).when(identity.remove_member, user_id=BOB, by="admin").then_refused(
        NotFound
    )


def test_an_invitation_makes_a_member_once() -> None:
    given(WORKSPACE, *ADA_OWNS).when(identity.invite, sent=SENT, by="admin").then(SENT)
    accept = {"invitation_id": I1, "secret_hash": "aa", "user_id": EVE, "now": NOON}
    accepted = InvitationAccepted(invitation_id=I1, user_id=EVE)
    given(WORKSPACE, *ADA_OWNS, SENT).when(identity.accept_invitation, **accept).then(
        accepted, MemberAdded(user_id=EVE, role="viewer")
    )
    before = (*ADA_OWNS, SENT, accepted)
    given(WORKSPACE, *before).when(identity.accept_invitation, **accept).then_nothing()
    given(WORKSPACE, *before).when(
        identity.accept_invitation, **{**accept, "user_id": BOB}
    ).then_refused(NotFound)


def test_who_is_a_member_keeps_the_role_and_uses_the_invitation_up() -> None:
    given(WORKSPACE, *WITH_BOB, SENT).when(
        identity.accept_invitation, invitation_id=I1, secret_hash="aa", user_id=BOB, now=NOON
    ).then(InvitationAccepted(invitation_id=I1, user_id=BOB))


@pytest.mark.parametrize(
    ("given_hash", "now", "refusal"),
    [("bb", NOON, NotFound), ("aa", NOON + HOUR, InvitationIsOver)],
    ids=["another secret", "too late"],
)
def test_an_invitation_wants_its_secret_and_its_time(
    given_hash: str, now: datetime, refusal: type[DomainError]
) -> None:
    given(WORKSPACE, *ADA_OWNS, SENT).when(
        identity.accept_invitation,
        invitation_id=I1,
        secret_hash=given_hash,
        user_id=EVE,
        now=now,
    ).then_refused(refusal)


def test_an_admin_invites_no_owner() -> None:
    to_own = InvitationSent(
        invitation_id=I1, email="e@x.org", role="owner", secret_hash="aa", expires_at=NOON
    )
    given(WORKSPACE, *ADA_OWNS).when(identity.invite, sent=to_own, by="admin").then_refused(
        NotAllowed, pointer="/role"
    )
    given(WORKSPACE, *ADA_OWNS).when(identity.invite, sent=to_own, by="owner").then(to_own)


def test_a_revoked_invitation_is_of_no_use() -> None:
    revoked = InvitationRevoked(invitation_id=I1)
    given(WORKSPACE, CREATED, SENT).when(identity.revoke_invitation, invitation_id=I1).then(revoked)
    given(WORKSPACE, CREATED, SENT, revoked).when(
        identity.revoke_invitation, invitation_id=I1
    ).then_nothing()
    given(WORKSPACE, CREATED, SENT, revoked).when(
        identity.accept_invitation, invitation_id=I1, secret_hash="aa", user_id=EVE, now=NOON
    ).then_refused(NotFound)
    given(WORKSPACE, CREATED).when(identity.revoke_invitation, invitation_id=I1).then_refused(
        NotFound
    )


def test_open_invitations_and_members_are_bounded() -> None:
    open_now = [
        InvitationSent(
            invitation_id=InvitationId(f"x{n}"),
            email="e@x.org",
            role="viewer",
            secret_hash="aa",
            expires_at=NOON + HOUR,
        )
        for n in range(INVITATIONS_MAX)
    ]
    given(WORKSPACE, CREATED, *open_now).when(identity.invite, sent=SENT, by="owner").then_refused(
        TooMany
    )
    many = [MemberAdded(user_id=UserId(f"m{n}"), role="viewer") for n in range(MEMBERS_MAX)]
    given(WORKSPACE, CREATED, *many, SENT).when(
        identity.accept_invitation, invitation_id=I1, secret_hash="aa", user_id=EVE, now=NOON
    ).then_refused(TooMany)


# API keys.


def key(key_id: str = "k1", **changed: object) -> ApiKeyCreated:
    fields: dict[str, object] = {
        "key_id": KeyId(key_id),
        "name": "laptop",
        "holder": "Ada",
        "secret_hash": "aa",
        "last_four": "wxyz",
        "scopes": ("read",),
        "expires_at": NOON + 10 * HOUR,
    }
    return ApiKeyCreated(**{**fields, **changed})  # type: ignore[arg-type]


K1 = KeyId("k1")
REVOKED = ApiKeyRevoked(key_id=K1)


def test_a_key_is_created_once_and_not_again_after_it_was_revoked() -> None:
    given(KEY_RING).when(identity.create_key, created=key(), now=NOON).then(key())
    for before in ((key(),), (key(), REVOKED)):
        given(KEY_RING, *before).when(identity.create_key, created=key(), now=NOON).then_nothing()


def test_a_key_opens_something_and_ends_in_the_future() -> None:
    given(KEY_RING).when(identity.create_key, created=key(scopes=()), now=NOON).then_refused(
        Invalid, pointer="/scopes"
    )
    given(KEY_RING).when(identity.create_key, created=key(expires_at=NOON), now=NOON).then_refused(
        Invalid, pointer="/expires_at"
    )


def test_so_many_keys_and_no_more_open_a_workspace_at_a_time() -> None:
    full = [key(f"x{n}") for n in range(KEYS_MAX)]
    given(KEY_RING, *full).when(identity.create_key, created=key(), now=NOON).then_refused(TooMany)
    over = ApiKeyExpirySet(key_id=KeyId("x0"), expires_at=NOON)
    given(KEY_RING, *full, over).when(identity.create_key, created=key(), now=NOON).then(key())


def test_a_rotated_key_goes_on_for_the_overlap_and_its_heir_may_do_the_same() -> None:
    heir = key("k2", name="other", scopes=("admin",), replaces=K1, expires_at=NOON + HOUR)
    given(KEY_RING, key()).when(
        identity.rotate_key, created=heir, old_until=NOON + HOUR, now=NOON
    ).then(
        key("k2", replaces=K1, expires_at=NOON + HOUR),
        ApiKeyExpirySet(key_id=K1, expires_at=NOON + HOUR),
    )


def test_the_overlap_lets_no_key_last_longer_than_it_would() -> None:
    heir = key("k2", replaces=K1)
    given(KEY_RING, key()).when(
        identity.rotate_key, created=heir, old_until=NOON + 99 * HOUR, now=NOON
    ).then(heir, ApiKeyExpirySet(key_id=K1, expires_at=NOON + 10 * HOUR))
    given(KEY_RING, key(expires_at=None)).when(
        identity.rotate_key, created=heir, old_until=NOON + 99 * HOUR, now=NOON
    ).then(heir, ApiKeyExpirySet(key_id=K1, expires_at=NOON + 99 * HOUR))


@pytest.mark.parametrize(
    "before", [(), (key(expires_at=NOON),), (key(), REVOKED)], ids=["none", "over", "revoked"]
)
def test_a_key_that_opens_nothing_cannot_be_rotated(before: tuple[ApiKeyCreated, ...]) -> None:
    given(KEY_RING, *before).when(
        identity.rotate_key, created=key("k2", replaces=K1), old_until=NOON + HOUR, now=NOON
    ).then_refused(NotFound)


def test_a_key_is_revoked_once() -> None:
    given(KEY_RING, key()).when(identity.revoke_key, key_id=K1).then(REVOKED)
    given(KEY_RING, key(), REVOKED).when(identity.revoke_key, key_id=K1).then_nothing()
    given(KEY_RING).when(identity.revoke_key, key_id=K1).then_refused(NotFound)


def test_the_use_of_a_key_is_noted_while_it_is_there() -> None:
    used = ApiKeyUsed(key_id=K1, used_at=NOON)
    given(KEY_RING, key()).when(identity.note_use, key_id=K1, now=NOON).then(used)
    given(KEY_RING, key(), REVOKED).when(identity.note_use, key_id=K1, now=NOON).then_nothing()


def test_the_use_of_a_key_is_noted_once_an_hour() -> None:
    used = ApiKeyUsed(key_id=K1, used_at=NOON)
    soon, later = NOON + USE_NOTED_EVERY / 2, NOON + USE_NOTED_EVERY
    given(KEY_RING, key(), used).when(identity.note_use, key_id=K1, now=soon).then_nothing()
    given(KEY_RING, key(), used).when(identity.note_use, key_id=K1, now=later).then(
        ApiKeyUsed(key_id=K1, used_at=later)
    )


# Permissions.


def test_roles_grow_from_viewer_to_owner() -> None:
    assert OF_ROLE["viewer"] < OF_ROLE["editor"] < OF_ROLE["admin"] <= OF_ROLE["owner"]


def test_an_auditor_reads_more_than_a_viewer_and_writes_nothing() -> None:
    assert OF_ROLE["viewer"] < OF_ROLE["auditor"]
    assert {each.partition(":")[2] for each in OF_ROLE["auditor"]} == {"read"}


def test_what_concerns_all_tenants_is_for_those_who_operate_the_installation() -> None:
    for role in get_args(Role):
        assert not OPERATE & of_role(role)
        operates = of_role(role, operates=True)
        assert operates == of_role(role) | (OPERATE if role in {"owner", "admin"} else set())
    assert not OPERATE & of_scopes(ALL_SCOPES)
    assert of_scopes(ALL_SCOPES, operates=True) == of_scopes(ALL_SCOPES) | OPERATE
    assert of_scopes(("read", "write", "run"), operates=True) == OF_ROLE["editor"]


def test_all_scopes_together_are_an_admin() -> None:
    assert of_scopes(("read", "write", "run", "admin")) == OF_ROLE["admin"]
    assert of_scopes(("read",)) == OF_ROLE["viewer"]
    assert of_scopes(()) == frozenset()
