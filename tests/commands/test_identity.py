"""The local workspace and its API keys."""

import asyncio

import pytest

from commands.identity import CreateApiKey, KeyAnswer, OpenedAnswer
from domain.errors import NotFound
from domain.events import PLATFORM_WORKSPACE
from domain.identity import API_KEY, KeyId, RevokedKey, ValidKey
from tests.commands.writing import ACME, GLOBEX, Writing

LAPTOP = CreateApiKey(
    key_id=KeyId("key-1"), name="Laptop", holder="Ada", secret_hash="5ec4e7", last_four="wxyz"
)
KEY_STREAM = API_KEY.stream_id(ACME, LAPTOP.key_id)


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
    state = (await writing.store.load(API_KEY, KEY_STREAM)).state
    assert state == ValidKey(LAPTOP.secret_hash)
    for _ in range(2):
        await writing.identity.revoke_key(LAPTOP.key_id, writing.issued())
    assert (await writing.store.load(API_KEY, KEY_STREAM)).state == RevokedKey()
    assert await writing.tags() == ["api_key_created", "api_key_revoked"]


async def test_creating_a_key_again_records_nothing(writing: Writing) -> None:
    for _ in range(2):
        await writing.identity.create_key(LAPTOP, writing.issued())
    assert await writing.tags() == ["api_key_created"]


async def test_a_key_of_another_workspace_cannot_be_revoked(writing: Writing) -> None:
    await writing.identity.create_key(LAPTOP, writing.issued())
    with pytest.raises(NotFound):
        await writing.identity.revoke_key(LAPTOP.key_id, writing.issued(workspace_id=GLOBEX))
