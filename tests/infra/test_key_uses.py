"""That a key is used is noted once an hour, beside the request and never in its way."""

from datetime import UTC, datetime, timedelta

import pytest

from commands.transact import StorageUnavailable
from domain.events import WorkspaceId
from domain.identity import USE_NOTED_EVERY, KeyId
from infra import key_uses
from infra.key_uses import KeyUses
from projections.identity import KeyRow

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def row(key_id: str = "k1", last_used_at: datetime | None = None) -> KeyRow:
    return KeyRow(
        workspace_id=WorkspaceId("acme"),
        key_id=KeyId(key_id),
        name="laptop",
        holder="",
        secret_hash="aa",
        last_four="wxyz",
        scopes=("read",),
        created_at=NOON - timedelta(days=1),
        expires_at=None,
        last_used_at=last_used_at,
    )


class Notes:
    """Takes notes, or fails to."""

    def __init__(self) -> None:
        self.now = NOON
        self.noted: list[KeyId] = []
        self.is_away = False
        self.uses = KeyUses(self.note, now=lambda: self.now)

    async def note(self, _workspace_id: WorkspaceId, key_id: KeyId) -> None:
        if self.is_away:
            raise StorageUnavailable("away")
        self.noted.append(key_id)

    async def use(self, used: KeyRow, after: timedelta = timedelta()) -> None:
        self.now += after
        self.uses.used(used)
        await self.uses.settle()


async def test_a_use_is_noted_once_an_hour() -> None:
    notes = Notes()
    for after in (timedelta(), USE_NOTED_EVERY / 2, USE_NOTED_EVERY / 2):
        await notes.use(row(), after)
    assert notes.noted == ["k1", "k1"]


async def test_a_use_that_another_process_noted_lately_is_not_noted_again() -> None:
    notes = Notes()
    await notes.use(row(last_used_at=NOON - USE_NOTED_EVERY / 2))
    assert notes.noted == []


async def test_a_use_that_could_not_be_noted_is_noted_at_the_next() -> None:
    notes = Notes()
    notes.is_away = True
    await notes.use(row())
    notes.is_away = False
    await notes.use(row())
    assert notes.noted == ["k1"]


async def test_only_so_many_keys_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_uses, "NOTED_MAX", 2)
    notes = Notes()
    for name in ("k1", "k2", "k3", "k3"):
        await notes.use(row(name))
    assert notes.noted == ["k1", "k2", "k3"]
