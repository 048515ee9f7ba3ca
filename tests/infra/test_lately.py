"""What is taken away is so within seconds, though nobody projects it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import pytest

from commands.identity import Invite, Login
from commands.transact import Issued
from domain.events import WorkspaceId
from domain.identity import InvitationId, KeyId, Role, UserId
from infra.api_keys import KeyRing
from infra.composition import PROJECTORS
from infra.follower import Follower
from infra.ids import new_uuid
from infra.lately import LOOK_EVERY_S, Lately
from infra.postgres.migrations import migrate
from infra.postgres.progress import Partitioned, PostgresProgress
from infra.postgres.reads import PostgresReads, open_engine
from infra.settings import Settings
from infra.writing import Writing, build_writing
from projections.identity import memberships

WAIT_MAX_S = 60.0
WITHIN_S = 5.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """An installation on PostgreSQL whose projector works when it is told to."""

    def __init__(self, url: str, folder: Path) -> None:
        migrate(url)
        self.writing = build_writing(Settings(data_dir=folder, database_url=url))
        self.reads = PostgresReads(url)
        self.progress = PostgresProgress(
            self.reads, Partitioned("automatos.events", 1), ["identity"]
        )
        self.engine = open_engine(url)
        self.follower = Follower(self.writing.store, self.engine, PROJECTORS)

    async def project(self) -> None:
        await self.follower.catch_up()
        await self.progress.refresh()

    def position(self) -> int:
        return self.progress.position("identity")

    async def close(self) -> None:
        self.engine.dispose()
        await self.writing.aclose()
        self.reads.close()


@pytest.fixture
async def stage(postgres_url: str, tmp_path: Path) -> AsyncIterator[Stage]:
    made = Stage(postgres_url, tmp_path)
    yield made
    await made.close()


async def test_a_revoked_key_is_refused_in_time_though_nobody_projects(stage: Stage) -> None:
    writing, workspace_id = stage.writing, WorkspaceId(new_uuid())
    revoked = await writing.create_key(workspace_id, "k", "tester")
    kept = await writing.create_key(workspace_id, "k", "tester")
    await stage.project()
    lately = Lately(writing.store, stage.position)
    ring = KeyRing(
        stage.reads, writing.store, stage.progress, writing.vault.pepper(), lately=lately
    )
    assert await ring.caller(revoked) is not None
    issued = writing.issued(workspace_id, "test")
    await writing.identity.revoke_key(KeyId(revoked.split("_")[2]), issued)
    begun = monotonic()
    async with asyncio.timeout(WAIT_MAX_S):
        while await ring.caller(revoked) is not None:  # noqa: ASYNC110 it is a matter of time
            await asyncio.sleep(0.05)
    assert monotonic() - begun < WITHIN_S
    assert await ring.caller(kept) is not None
    await stage.project()
    assert await ring.caller(revoked) is None


async def test_a_role_is_lost_though_nobody_projects_and_told_by_the_rows_once_somebody_does(
    stage: Stage,
) -> None:
    clock, identity = Clock(), stage.writing.identity
    owner, guest = [await stage.writing.provision(login(name)) for name in ("ada", "bob")]
    workspace_id = owner.workspace_id
    await join(stage.writing, workspace_id, guest.user_id, "editor")
    await stage.project()
    lately = Lately(stage.writing.store, stage.position, clock=clock)

    async def roles() -> dict[WorkspaceId, Role]:
        clock.now += LOOK_EVERY_S
        await lately.look()
        found = await stage.reads.ask(memberships, guest.user_id)
        return lately.roles_of(guest.user_id, {row.workspace_id: row.role for row in found})

    own = guest.workspace_id
    assert await roles() == {own: "owner", workspace_id: "editor"}

    def issued() -> Issued:
        return stage.writing.issued(workspace_id, "test")

    await identity.change_role(guest.user_id, "viewer", "owner", issued())
    # One look to see where the log ends, one to see that nobody has come there since.
    await roles()
    assert await roles() == {own: "owner", workspace_id: "viewer"}
    await identity.remove_member(guest.user_id, "owner", issued())
    await roles()
    assert await roles() == {own: "owner"}
    await stage.project()
    assert await roles() == {own: "owner"}
    assert lately._roles == {}


def login(name: str) -> Login:
    return Login(issuer="https://c.example", subject=name, email=f"{name}@x.org", name=name)


async def join(writing: Writing, workspace_id: WorkspaceId, user_id: UserId, role: Role) -> None:
    invitation_id, secret_hash = InvitationId(new_uuid()), "0" * 64
    invite = Invite(
        invitation_id=invitation_id, email="x@x.org", role=role, secret_hash=secret_hash
    )
    await writing.identity.invite(invite, "owner", writing.issued(workspace_id, "test"))
    await writing.identity.accept_invitation(
        invitation_id, secret_hash, user_id, writing.issued(workspace_id, "test")
    )
