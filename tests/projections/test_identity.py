"""Workspaces and the keys that open them."""

from sqlalchemy import select

from domain.identity import (
    ApiKeyCreated,
    ApiKeyRevoked,
    InstallationOpened,
    KeyId,
    WorkspaceCreated,
)
from projections.identity import KeyRow, valid_keys, workspaces
from tests.projections.tables import projected
from tests.strategies import START, WORKSPACES, recorded

ACME, GLOBEX = WORKSPACES
K1 = KeyId("k1")
CREATED = ApiKeyCreated(key_id=K1, name="laptop", holder="Ada", secret_hash="aa", last_four="wxyz")


def test_a_workspace_is_known_by_name() -> None:
    opened = InstallationOpened(local_workspace_id=ACME)
    created = WorkspaceCreated(workspace_id=ACME, name="Acme")
    with projected(recorded(opened, created)) as connection:
        found = connection.execute(select(workspaces.c.workspace_id, workspaces.c.name))
        assert [tuple(row) for row in found] == [(ACME, "Acme")]


def test_a_key_opens_its_own_workspace() -> None:
    with projected(recorded(CREATED, workspace_id=GLOBEX)) as connection:
        assert valid_keys(connection) == [
            KeyRow(
                workspace_id=GLOBEX,
                key_id=K1,
                name="laptop",
                secret_hash="aa",
                last_four="wxyz",
                created_at=START,
            )
        ]


def test_a_revoked_key_opens_nothing_and_no_other_workspaces_key_is_touched() -> None:
    both = [*recorded(CREATED), *recorded(CREATED, workspace_id=GLOBEX, after=1)]
    revoked = recorded(ApiKeyRevoked(key_id=K1), after=2)
    with projected([*both, *revoked]) as connection:
        assert [key.workspace_id for key in valid_keys(connection)] == [GLOBEX]
