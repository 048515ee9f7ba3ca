"""The rules of workspaces and their API keys."""

from domain import identity
from domain.errors import NotFound
from domain.events import WorkspaceId
from domain.identity import (
    API_KEY,
    INSTALLATION,
    WORKSPACE,
    ApiKeyCreated,
    ApiKeyRevoked,
    InstallationOpened,
    KeyId,
    WorkspaceCreated,
)
from tests.given import given

ACME, GLOBEX = WorkspaceId("acme"), WorkspaceId("globex")
KEY = KeyId("k1")
OPENED = InstallationOpened(local_workspace_id=ACME)
WORKSPACE_CREATED = WorkspaceCreated(workspace_id=ACME, name="Acme")
KEY_CREATED = ApiKeyCreated(
    key_id=KEY, name="laptop", holder="Ada", secret_hash="aa", last_four="wxyz"
)
KEY_REVOKED = ApiKeyRevoked(key_id=KEY)


def test_an_installation_opens_once_whoever_comes_second() -> None:
    given(INSTALLATION).when(identity.open_installation, local_workspace_id=ACME).then(OPENED)
    given(INSTALLATION, OPENED).when(
        identity.open_installation, local_workspace_id=GLOBEX
    ).then_nothing()


def test_a_workspace_is_created_once() -> None:
    given(WORKSPACE).when(identity.create_workspace, workspace_id=ACME, name="Acme").then(
        WORKSPACE_CREATED
    )
    given(WORKSPACE, WORKSPACE_CREATED).when(
        identity.create_workspace, workspace_id=ACME, name="Another"
    ).then_nothing()


def test_a_key_is_created_once_and_not_again_after_it_was_revoked() -> None:
    given(API_KEY).when(identity.create_key, created=KEY_CREATED).then(KEY_CREATED)
    given(API_KEY, KEY_CREATED).when(identity.create_key, created=KEY_CREATED).then_nothing()
    given(API_KEY, KEY_CREATED, KEY_REVOKED).when(
        identity.create_key, created=KEY_CREATED
    ).then_nothing()


def test_a_key_is_revoked_once() -> None:
    given(API_KEY, KEY_CREATED).when(identity.revoke_key, key_id=KEY).then(KEY_REVOKED)
    given(API_KEY, KEY_CREATED, KEY_REVOKED).when(identity.revoke_key, key_id=KEY).then_nothing()


def test_a_key_that_never_was_cannot_be_revoked() -> None:
    given(API_KEY).when(identity.revoke_key, key_id=KEY).then_refused(NotFound)


def test_facts_about_other_things_leave_a_key_as_it_was() -> None:
    assert API_KEY.fold([OPENED, WORKSPACE_CREATED]) == API_KEY.initial
    assert INSTALLATION.fold([KEY_CREATED]) == INSTALLATION.initial
    assert WORKSPACE.fold([KEY_CREATED]) == WORKSPACE.initial
