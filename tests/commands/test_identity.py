"""The local workspace and its API keys."""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from commands.identity import (
    INVITATION_LASTS,
    CreateApiKey,
    Invite,
    KeyAnswer,
    Login,
    MemberAnswer,
    OpenedAnswer,
    ProvisionedAnswer,
    slug_of,
)
from domain.errors import NotFound
from domain.events import PLATFORM_WORKSPACE
from domain.identity import (
    KEY_RING,
    WORKSPACE,
    InvitationId,
    KeyId,
    UserId,
    UserRegistered,
    Workspace,
)
from tests.commands.writing import ACME, GLOBEX, Writing

LAPTOP = CreateApiKey(
    key_id=KeyId("key-1"), name="Laptop", holder="Ada", secret_hash="5ec4e7", last_four="wxyz"
)
KEY_STREAM = KEY_RING.stream_id(ACME, "all")


async def test_an_installation_is_opened_once(writing: Writing) -> None:
    issued = writing.issued(workspace_id=PLATFORM_WORKSPACE)
    first = await writing.identity.open_installation(ACME, issued)
    issued = writing.issued(workspace_id=PLATFORM_WORKSPACE)
    second = await writing.identity.open_installation(GLOBEX, issued)
    assert first.answer == second.answer == OpenedAnswer(workspace_id=ACME)
    assert await writing.tags() == ["installation_opened"]


async def test_two_processes_that_open_at_once_agree(writing: Writing) -> None:
    other = Writing(beside=writing)
    issued = [writing.issued(workspace_id=PLATFORM_WORKSPACE) for _ in range(2)]
    mine, theirs = await asyncio.gather(
        writing.identity.open_installation(ACME, issued[0]),
        other.identity.open_installation(GLOBEX, issued[1]),
    )
    assert mine.answer == theirs.answer
    assert await writing.tags() == ["installation_opened"]


async def test_a_workspace_is_created_once(writing: Writing) -> None:
    for name in ("Acme", "Acme again"):
        outcome = await writing.identity.create_workspace(name, writing.issued())
        assert outcome.answer == OpenedAnswer(workspace_id=ACME)
    assert await writing.tags() == ["workspace_created"]


async def test_a_key_is_valid_until_it_is_revoked(writing: Writing) -> None:
    created = await writing.identity.create_key(LAPTOP, writing.issued())
    assert created.answer == KeyAnswer(key_id=LAPTOP.key_id)
    assert set((await writing.store.load(KEY_RING, KEY_STREAM)).state.keys) == {LAPTOP.key_id}
    for _ in range(2):
        await writing.identity.revoke_key(LAPTOP.key_id, writing.issued())
    assert (await writing.store.load(KEY_RING, KEY_STREAM)).state.keys == {}
    assert await writing.tags() == ["api_key_created", "api_key_revoked"]


async def test_creating_a_key_again_records_nothing(writing: Writing) -> None:
    for _ in range(2):
        await writing.identity.create_key(LAPTOP, writing.issued())
    assert await writing.tags() == ["api_key_created"]


async def test_a_key_of_another_workspace_cannot_be_revoked(writing: Writing) -> None:
    await writing.identity.create_key(LAPTOP, writing.issued())
    with pytest.raises(NotFound):
        await writing.identity.revoke_key(LAPTOP.key_id, writing.issued(workspace_id=GLOBEX))


# Logging in.

ADA = Login(issuer="https://clerk.test", subject="user_1", email="ada@x.org", name="Ada")


async def provisioned(writing: Writing) -> ProvisionedAnswer:
    issued = writing.issued(workspace_id=PLATFORM_WORKSPACE)
    return (await writing.identity.provision(ADA, issued)).answer


async def test_the_first_login_makes_a_user_with_a_workspace_of_his_own(writing: Writing) -> None:
    answer = await provisioned(writing)
    assert await writing.tags() == [
        "user_registered",
        "name_claimed",
        "workspace_created",
        "member_added",
    ]
    of_workspaces = [event.metadata.workspace_id for event in await writing.store.read_all()]
    assert of_workspaces == [*[PLATFORM_WORKSPACE] * 2, *[answer.workspace_id] * 2]
    loaded = await writing.store.load(
        WORKSPACE, WORKSPACE.stream_id(answer.workspace_id, answer.workspace_id)
    )
    assert isinstance(loaded.state, Workspace)
    assert (loaded.state.name, loaded.state.members) == (
        "Ada's Workspace",
        {answer.user_id: "owner"},
    )


async def test_fifty_first_logins_at_once_over_two_processes_make_one_user(
    writing: Writing,
) -> None:
    other = Writing(beside=writing)
    answers = await asyncio.gather(*(provisioned([writing, other][n % 2]) for n in range(50)))
    assert len({(answer.user_id, answer.workspace_id) for answer in answers}) == 1
    assert sorted(await writing.tags()) == [
        "member_added",
        "name_claimed",
        "user_registered",
        "workspace_created",
    ]


async def test_a_login_that_tells_nothing_of_itself_has_a_workspace_too(writing: Writing) -> None:
    login = Login(issuer="https://clerk.test", subject="user_2")
    issued = writing.issued(workspace_id=PLATFORM_WORKSPACE)
    answer = (await writing.identity.provision(login, issued)).answer
    stream_id = WORKSPACE.stream_id(answer.workspace_id, answer.workspace_id)
    state = (await writing.store.load(WORKSPACE, stream_id)).state
    assert isinstance(state, Workspace)
    assert state.name == "My Workspace"


async def test_personal_data_of_a_login_is_sealed_in_the_log(writing: Writing) -> None:
    await provisioned(writing)
    first = (await writing.store.read_all())[0].event
    assert isinstance(first, UserRegistered)
    assert ADA.email not in first.email
    assert writing.store.opened(PLATFORM_WORKSPACE, first.email) == ADA.email


# Members.

BOB = UserId("bob")
INVITATION = Invite(
    invitation_id=InvitationId("i1"), email="bob@x.org", role="editor", secret_hash="aa"
)


async def test_who_is_invited_becomes_a_member_and_can_be_given_another_role_and_removed(
    writing: Writing,
) -> None:
    identity, owner = writing.identity, UserId("ada")
    await identity.create_organisation("Acme", owner, writing.issued())
    invited = await identity.invite(INVITATION, "owner", writing.issued())
    assert invited.answer.expires_at == writing.clock.now + INVITATION_LASTS
    accepted = await identity.accept_invitation(
        INVITATION.invitation_id, "aa", BOB, writing.issued()
    )
    assert accepted.answer == MemberAnswer(user_id=BOB, role="editor")
    changed = await identity.change_role(BOB, "viewer", "owner", writing.issued())
    assert changed.answer == MemberAnswer(user_id=BOB, role="viewer")
    removed = await identity.remove_member(BOB, "owner", writing.issued())
    assert removed.answer == MemberAnswer(user_id=BOB, role=None)


async def test_an_invitation_is_taken_back(writing: Writing) -> None:
    await writing.identity.create_workspace("Acme", writing.issued())
    await writing.identity.invite(INVITATION, "owner", writing.issued())
    await writing.identity.revoke_invitation(INVITATION.invitation_id, writing.issued())
    with pytest.raises(NotFound):
        await writing.identity.accept_invitation(
            INVITATION.invitation_id, "aa", BOB, writing.issued()
        )


async def test_a_workspace_is_renamed(writing: Writing) -> None:
    await writing.identity.create_workspace("Acme", writing.issued())
    renamed = await writing.identity.rename_workspace(" Globex ", writing.issued())
    assert (renamed.answer.name, renamed.answer.version) == ("Globex", 2)


async def test_a_key_is_rotated_and_its_use_noted(writing: Writing) -> None:
    await writing.identity.create_key(LAPTOP, writing.issued())
    heir = msgspec.structs.replace(LAPTOP, key_id=KeyId("k2"), replaces=LAPTOP.key_id)
    await writing.identity.rotate_key(heir, timedelta(hours=1), writing.issued())
    await writing.identity.note_key_use(KeyId("k2"), writing.issued())
    assert await writing.tags() == [
        "api_key_created",
        "api_key_created",
        "api_key_expiry_set",
        "api_key_used",
    ]


@pytest.mark.parametrize(
    ("name", "slug"),
    [("Ada's Workspace", "ada-s-workspace"), ("  ", "workspace"), ("x" * 60, "x" * 50)],
)
def test_a_slug_is_spelled_for_an_address(name: str, slug: str) -> None:
    assert slug_of(name) == slug
