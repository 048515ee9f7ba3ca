"""API keys: their form, and who is let in with one, and for how long."""

import asyncio
import hashlib
import hmac
import re
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.events import WorkspaceId
from domain.identity import ALL_SCOPES, KeyId, of_scopes
from infra.api_keys import ALPHABET, KeyRing, hash_key, key_id_of, make_key
from infra.composition import Installation, build_installation
from infra.ids import new_uuid
from infra.lately import Lately
from infra.postgres.migrations import migrate
from infra.postgres.progress import Partitioned, PostgresProgress
from infra.postgres.reads import PostgresReads
from infra.settings import Settings
from infra.writing import build_writing
from read_api.auth import Caller

PEPPER = b"p" * 32
WAIT_MAX_S = 30.0


def test_a_key_has_its_form() -> None:
    key = make_key(PEPPER)
    assert re.fullmatch(r"atk_live_[0-9A-Za-z]{10}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}", key.text)
    assert key_id_of(key.text) == key.key_id
    assert key.text.split("_")[3].endswith(key.last_four)


def test_no_two_keys_are_alike() -> None:
    keys = [make_key(PEPPER) for _ in range(1_000)]
    assert len({key.key_id for key in keys}) == len({key.text for key in keys}) == 1_000


def test_a_key_is_stored_as_its_hmac_under_the_pepper() -> None:
    key = make_key(PEPPER)
    assert key.secret_hash == hmac.new(PEPPER, key.text.encode(), hashlib.sha256).hexdigest()
    assert key.secret_hash != hash_key(b"q" * 32, key.text)


@given(st.data())
def test_a_key_with_one_letter_wrong_is_no_key(data: st.DataObject) -> None:
    text = make_key(PEPPER).text
    place = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from(ALPHABET + "_-\n ").filter(lambda c: c != text[place]))
    assert key_id_of(text[:place] + letter + text[place + 1 :]) is None


@given(st.text())
def test_junk_is_no_key(junk: str) -> None:
    assert key_id_of(junk) is None
    assert key_id_of("atk_live_" + junk) is None


@pytest.mark.parametrize("around", ["{}\n", " {}", "{} ", "{}x", "{0}{0}"])
def test_what_stands_around_a_key_makes_it_no_key(around: str) -> None:
    assert key_id_of(around.format(make_key(PEPPER).text)) is None


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    made = build_installation(Settings(data_dir=tmp_path, llm_provider="offline"))
    await made.start()
    yield made
    await made.stop()


def ring_of(installation: Installation) -> KeyRing:
    writing = installation.writing
    follower = installation.follower
    lately = Lately(writing.store, lambda: follower.position("identity"))
    pepper = writing.vault.pepper()
    return KeyRing(installation.reads, writing.store, follower, pepper, lately=lately)


async def test_a_key_opens_its_own_workspace(installation: Installation) -> None:
    ring = ring_of(installation)
    for _ in range(2):
        workspace_id = WorkspaceId(new_uuid())
        key = await installation.writing.create_key(workspace_id, "k", "somebody")
        await until_opened(ring, key, workspace_id)
        caller = await ring.caller(key)
        assert caller is not None
        assert caller.principals[workspace_id].actor == f"key:{key_id_of(key)}"
        assert caller.principals[workspace_id].permissions == of_scopes(ALL_SCOPES)


async def until_opened(ring: KeyRing, key: str, expected: WorkspaceId | None) -> None:
    async with asyncio.timeout(WAIT_MAX_S):
        while home_of(await ring.caller(key)) != expected:  # noqa: ASYNC110 it is a matter of time
            await asyncio.sleep(0.01)


def home_of(caller: Caller | None) -> WorkspaceId | None:
    return None if caller is None else caller.home


async def test_the_first_request_with_a_key_just_made_is_let_in(
    installation: Installation,
) -> None:
    key = await installation.writing.create_key(WorkspaceId(new_uuid()), "k", "somebody")
    assert await ring_of(installation).caller(key) is not None


async def test_a_key_that_another_process_made_is_let_in(
    installation: Installation, tmp_path: Path
) -> None:
    ring = ring_of(installation)
    elsewhere = build_writing(Settings(data_dir=tmp_path))
    key = await elsewhere.create_key(WorkspaceId(new_uuid()), "k", "somebody")
    elsewhere.close()
    assert await ring.caller(key) is not None


async def test_a_revoked_key_is_soon_refused(installation: Installation) -> None:
    ring = ring_of(installation)
    writing = installation.writing
    workspace_id = WorkspaceId(new_uuid())
    revoked, kept = [await writing.create_key(workspace_id, "k", "somebody") for _ in range(2)]
    assert await ring.caller(revoked) is not None
    key_id = key_id_of(revoked)
    assert key_id is not None
    await writing.identity.revoke_key(key_id, writing.issued(workspace_id, "cli:keys"))
    await until_opened(ring, revoked, None)
    assert await ring.caller(kept) is not None
    assert await ring.caller(revoked) is None


async def test_a_key_with_a_known_id_and_another_secret_is_refused(
    installation: Installation,
) -> None:
    ring = ring_of(installation)
    key = await installation.writing.create_key(WorkspaceId(new_uuid()), "k", "somebody")
    assert await ring.caller(key) is not None
    forged = with_id(key_id_of(key))
    assert key_id_of(forged) == key_id_of(key)
    assert await ring.caller(forged) is None


def with_id(key_id: KeyId | None) -> str:
    """Forge a key: another's id, a secret of one's own, and a checksum that fits."""
    from infra.api_keys import _checksum

    body = f"atk_live_{key_id}_{make_key(PEPPER).text.split('_')[3]}"
    return f"{body}_{_checksum(body)}"


async def test_junk_is_refused_without_a_look_into_the_store(installation: Installation) -> None:
    ring = ring_of(installation)
    installation.reads.close()
    for junk in ("", "x", "atk_live_", make_key(PEPPER).text[:-1] + "!"):
        assert await ring.caller(junk) is None


async def test_unknown_keys_do_not_make_the_ring_look_each_time(
    installation: Installation,
) -> None:
    ring, looks = ring_of(installation), 0
    load = ring._load

    async def counted() -> None:
        nonlocal looks
        looks += 1
        await load()

    ring._load = counted  # type: ignore[method-assign]
    assert await ring.caller(make_key(PEPPER).text) is None
    before = looks
    refused = await asyncio.gather(*(ring.caller(make_key(PEPPER).text) for _ in range(20)))
    assert refused == [None] * 20
    # Once because what is known had grown old, once for all that are unknown.
    assert looks - before <= 2


async def test_a_key_made_right_after_an_unknown_one_was_refused_is_let_in(
    installation: Installation,
) -> None:
    ring = ring_of(installation)
    assert await ring.caller(make_key(PEPPER).text) is None
    key = await installation.writing.create_key(WorkspaceId(new_uuid()), "k", "somebody")
    assert await ring.caller(key) is not None


async def test_a_look_that_fails_fails_once_for_all_who_wait(installation: Installation) -> None:
    ring, looks = ring_of(installation), 0

    async def failing() -> None:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0)
        raise OSError("the database is away")

    ring._load = failing  # type: ignore[method-assign]
    asked = (ring.caller(make_key(PEPPER).text) for _ in range(20))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(answer) for answer in answers} == {OSError}
    assert looks == 1


# Where the read model is made by other processes.


@pytest.fixture
async def shared_ring(postgres_url: str, tmp_path: Path) -> AsyncIterator[KeyRing]:
    migrate(postgres_url)
    writing = build_writing(Settings(data_dir=tmp_path, database_url=postgres_url))
    reads = PostgresReads(postgres_url)
    progress = PostgresProgress(reads, Partitioned("automatos.events", 1), ["identity"])
    lately = Lately(writing.store, lambda: progress.position("identity"))
    yield KeyRing(reads, writing.store, progress, PEPPER, lately=lately)
    await writing.aclose()
    reads.close()


def projected(url: str, workspace_id: str) -> str:
    """Make a key as its projector, in another process, leaves it."""
    key = make_key(PEPPER)
    with psycopg.connect(url) as connection:
        connection.execute("SELECT set_config('automatos.workspace', '*', true)")
        connection.execute(
            "INSERT INTO api_keys (workspace_id, key_id, name, holder, secret_hash, last_four,"
            " scopes, created_at) VALUES (%s, %s, 'k', '', %s, %s, 'read', 0)",
            (workspace_id, key.key_id, key.secret_hash, key.last_four),
        )
    return key.text


async def test_a_key_that_another_process_projected_is_let_in_at_its_first_request(
    shared_ring: KeyRing, postgres_url: str
) -> None:
    for _ in range(2):
        workspace_id = new_uuid()
        key = projected(postgres_url, workspace_id)
        principal = await shared_ring.caller(key)
        assert principal is not None
        assert principal.home == workspace_id
        shared_ring._missed_at = float("-inf")


async def test_a_crowd_with_new_keys_looks_once(shared_ring: KeyRing, postgres_url: str) -> None:
    keys = [projected(postgres_url, new_uuid()) for _ in range(20)]
    looks = 0
    load = shared_ring._load

    async def counted() -> None:
        nonlocal looks
        looks += 1
        await load()

    shared_ring._load = counted  # type: ignore[method-assign]
    principals = await asyncio.gather(*map(shared_ring.caller, keys))
    assert len({p.home for p in principals if p is not None}) == 20
    assert looks == 1
