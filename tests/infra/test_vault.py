"""What is sealed opens with its key, in its place, and nowhere else."""

import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from commands.transact import CommandError, StorageFull, StorageUnavailable
from domain.events import Blob, WorkspaceId
from infra.vault import ERASED, KEYS_CACHED_MAX, BlobIsMissing, SqliteKeys, Vault

ACME, GLOBEX = WorkspaceId("acme"), WorkspaceId("globex")
SUBJECT = "key_id:k1"

some_text = st.text(max_size=50)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


@pytest.fixture
def vault(path: Path) -> Iterator[Vault]:
    with closing(Vault(path)) as vault:
        yield vault


def destroy_keys(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM keys")


# Personal fields.


@given(some_text, st.text(min_size=1, max_size=10))
def test_what_is_sealed_for_a_subject_is_opened_again(text: str, subject: str) -> None:
    with closing(Vault()) as vault:
        sealed = vault.seal(ACME, subject, text)
        assert vault.open(ACME, sealed) == text


def test_a_sealed_value_tells_nothing(vault: Vault) -> None:
    one, two = (vault.seal(ACME, SUBJECT, "Ada Lovelace") for _ in range(2))
    assert one != two
    assert "Ada" not in one
    assert one.startswith("sealed:v1:")


def test_another_process_opens_what_was_sealed(vault: Vault, path: Path) -> None:
    sealed = vault.seal(ACME, SUBJECT, "Ada")
    with closing(Vault(path)) as beside:
        assert beside.open(ACME, sealed) == "Ada"


def test_another_workspace_opens_nothing(vault: Vault) -> None:
    sealed = vault.seal(ACME, SUBJECT, "Ada")
    assert vault.open(GLOBEX, sealed) == ERASED
    vault.seal(GLOBEX, SUBJECT, "Ada")
    with pytest.raises(InvalidTag):
        vault.open(GLOBEX, sealed)


def test_a_changed_value_does_not_open(vault: Vault) -> None:
    sealed = vault.seal(ACME, SUBJECT, "Ada")
    last = sealed[-4]
    changed = f"{sealed[:-4]}{'B' if last == 'A' else 'A'}{sealed[-3:]}"
    with pytest.raises(InvalidTag):
        vault.open(ACME, changed)


def test_destroying_a_key_erases_what_it_sealed(vault: Vault, path: Path) -> None:
    sealed, blob = vault.seal(ACME, SUBJECT, "Ada"), vault.seal_blob(ACME, "a prompt")
    destroy_keys(path)
    with closing(Vault(path)) as later:
        assert later.open(ACME, sealed) == ERASED
        assert later.open_blob(ACME, blob.blob, blob.content) == ERASED


# Blobs.


@given(some_text)
def test_a_sealed_text_is_opened_again(text: str) -> None:
    with closing(Vault()) as vault:
        sealed = vault.seal_blob(ACME, text)
        assert sealed.blob.size == len(text.encode())
        assert vault.open_blob(ACME, sealed.blob, sealed.content) == text


def test_equal_texts_have_one_address_per_workspace(vault: Vault, path: Path) -> None:
    ours = vault.seal_blob(ACME, "hello").blob
    with closing(Vault(path)) as beside:
        assert beside.seal_blob(ACME, "hello").blob == ours
    assert vault.seal_blob(ACME, "hello!").blob.address != ours.address
    assert vault.seal_blob(GLOBEX, "hello").blob.address != ours.address


def test_nobody_without_the_key_can_test_a_guess(vault: Vault) -> None:
    with closing(Vault()) as another_installation:
        guess = another_installation.seal_blob(ACME, "hello").blob
    assert vault.seal_blob(ACME, "hello").blob.address != guess.address


def test_a_text_that_is_not_there_is_missing(vault: Vault) -> None:
    with pytest.raises(BlobIsMissing, match="0a1b"):
        vault.open_blob(ACME, Blob("0a1b", 1), None)


def test_a_text_under_another_address_or_changed_is_missing(vault: Vault) -> None:
    one, two = vault.seal_blob(ACME, "one"), vault.seal_blob(ACME, "two")
    changed = one.content[:-1] + bytes([one.content[-1] ^ 1])
    for content in (two.content, changed, one.content[:-1], b""):
        with pytest.raises(BlobIsMissing):
            vault.open_blob(ACME, one.blob, content)


# Keys.


def test_the_pepper_stays_the_same(vault: Vault, path: Path) -> None:
    with closing(Vault(path)) as beside, closing(Vault()) as another_installation:
        assert vault.pepper() == beside.pepper() != another_installation.pepper()
        assert len(vault.pepper()) == 32


def test_keys_are_for_the_owner_of_the_folder_alone(vault: Vault, path: Path) -> None:
    vault.pepper()
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


def test_whoever_makes_a_key_at_the_same_time_makes_the_same(path: Path) -> None:
    def pepper(_: int) -> bytes:
        with closing(Vault(path)) as vault:
            return vault.pepper()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(pepper, range(16)))) == 1


def test_more_keys_than_are_cached_still_open(vault: Vault) -> None:
    with closing(Vault()) as many:
        first = many.seal(ACME, "0", "first")
        for n in range(KEYS_CACHED_MAX + 1):
            many.seal(ACME, str(n), "")
        assert many.open(ACME, first) == "first"


# A store of keys that cannot keep one.


@pytest.mark.parametrize(
    ("pragma", "refusal"),
    [("max_page_count = 1", StorageFull), ("query_only = ON", StorageUnavailable)],
)
def test_a_key_that_cannot_be_kept_is_not_used(pragma: str, refusal: type[CommandError]) -> None:
    keys = SqliteKeys()
    keys._database.execute(f"PRAGMA {pragma}")
    with closing(Vault(keys)) as vault, pytest.raises(refusal):
        seal_for_many(vault)


def seal_for_many(vault: Vault) -> None:
    for number in range(1_000):
        vault.seal(ACME, f"subject {number}", "text")
