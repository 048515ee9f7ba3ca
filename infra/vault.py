"""Keys of subjects and workspaces, and what is sealed with them.

The keys lie in a database of their own beside the log: destroying a subject's
key erases what was sealed with it, wherever the sealed bytes went.
"""

import base64
import hashlib
import hmac
import os
import sqlite3
import threading
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from commands.transact import CommandError, SealedBlob, StorageFull, StorageUnavailable
from domain.events import Blob, WorkspaceId
from infra.failpoints import failpoint

KEY_BYTES = 32
NONCE_BYTES = 12
KEYS_CACHED_MAX = 10_000
ERASED = "[erased]"
"""What a sealed value reads as once its key is destroyed."""

_PREFIX = "sealed:v1:"


class BlobIsMissing(Exception):
    """An event refers to a text that the store does not hold: the installation is damaged."""


class Keys(Protocol):
    """Where keys lie. May be asked from several threads."""

    def find(self, workspace_id: WorkspaceId, subject: str) -> bytes | None: ...
    def add(self, workspace_id: WorkspaceId, subject: str, key: bytes) -> None:
        """Keep a key, unless the subject has one.

        Raises:
            CommandError: It cannot be kept.
        """
        ...

    def close(self) -> None: ...


class SqliteKeys:
    """Keys in a file of their own."""

    def __init__(self, path: Path | None = None) -> None:
        """Open or make the file; None keeps keys in memory, for tests."""
        if path is not None:
            failpoint("keys.before_file")
            path.touch(mode=0o600)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(
            path or ":memory:", isolation_level=None, check_same_thread=False, timeout=5
        )
        # No WAL: keys are hardly ever written, and two who open a new file at once
        # would be refused its switch of mode without being let wait.
        self._database.execute("PRAGMA synchronous=FULL")
        failpoint("keys.before_table")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS keys (workspace_id TEXT NOT NULL, subject TEXT NOT NULL,"
            " key BLOB NOT NULL, PRIMARY KEY (workspace_id, subject)) WITHOUT ROWID"
        )

    def find(self, workspace_id: WorkspaceId, subject: str) -> bytes | None:
        with self._lock:
            row = self._database.execute(
                "SELECT key FROM keys WHERE workspace_id = ? AND subject = ?",
                (workspace_id, subject),
            ).fetchone()
        return None if row is None else bytes(row[0])

    def add(self, workspace_id: WorkspaceId, subject: str, key: bytes) -> None:
        try:
            with self._lock:
                self._database.execute(
                    "INSERT OR IGNORE INTO keys VALUES (?, ?, ?)", (workspace_id, subject, key)
                )
        except sqlite3.OperationalError as error:
            raise _unavailable(error) from error

    def close(self) -> None:
        self._database.close()


class Vault:
    """Seals with AES-256-GCM, one random 96-bit nonce per value.

    Args:
        keys: Where keys lie; a path for a file of their own, None for memory.
    """

    def __init__(self, keys: Keys | Path | None = None) -> None:
        self._keys = SqliteKeys(keys) if keys is None or isinstance(keys, Path) else keys
        self._cached: dict[tuple[str, str], bytes] = {}

    def close(self) -> None:
        self._keys.close()

    def seal(self, workspace_id: WorkspaceId, subject: str, text: str) -> str:
        key = self._key(workspace_id, subject)
        nonce = os.urandom(NONCE_BYTES)
        sealed = AESGCM(key).encrypt(nonce, text.encode(), _bound(workspace_id, subject))
        return f"{_PREFIX}{_base64(subject.encode())}:{_base64(nonce + sealed)}"

    def open(self, workspace_id: WorkspaceId, sealed: str) -> str:
        """Give back what was sealed, or `ERASED` when its key is gone."""
        subject, content = (_bytes(part) for part in sealed.removeprefix(_PREFIX).split(":"))
        key = self._known_key(workspace_id, subject.decode())
        if key is None:
            return ERASED
        bound = _bound(workspace_id, subject.decode())
        return AESGCM(key).decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], bound).decode()

    def seal_blob(self, workspace_id: WorkspaceId, text: str) -> SealedBlob:
        key = self._key(workspace_id, "workspace")
        content = text.encode()
        blob = Blob(_address(key, content), len(content))
        nonce = os.urandom(NONCE_BYTES)
        sealed = AESGCM(key).encrypt(nonce, content, _bound(workspace_id, blob.address))
        return SealedBlob(workspace_id, blob, nonce + sealed)

    def open_blob(self, workspace_id: WorkspaceId, blob: Blob, content: bytes | None) -> str:
        """Open a stored text.

        Raises:
            BlobIsMissing: There is none, or it is not what was stored.
        """
        if content is None:
            raise BlobIsMissing(f"No text at {blob.address} in workspace {workspace_id}.")
        key = self._known_key(workspace_id, "workspace")
        if key is None:
            return ERASED
        bound = _bound(workspace_id, blob.address)
        try:
            text = AESGCM(key).decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], bound)
        except (InvalidTag, ValueError):
            raise BlobIsMissing(f"The text at {blob.address} was changed.") from None
        return text.decode()

    def pepper(self) -> bytes:
        """Give the installation's secret under which API keys are hashed."""
        return self._key(WorkspaceId(""), "pepper")

    def _key(self, workspace_id: WorkspaceId, subject: str) -> bytes:
        known = self._known_key(workspace_id, subject)
        if known is not None:
            return known
        failpoint("keys.before_add")
        self._keys.add(workspace_id, subject, os.urandom(KEY_BYTES))
        failpoint("keys.after_add")
        made = self._known_key(workspace_id, subject)
        assert made is not None
        return made

    def _known_key(self, workspace_id: WorkspaceId, subject: str) -> bytes | None:
        place = (workspace_id, subject)
        cached = self._cached.get(place)
        if cached is not None:
            return cached
        key = self._keys.find(*place)
        if key is None:
            return None
        if len(self._cached) >= KEYS_CACHED_MAX:
            self._cached.clear()
        self._cached[place] = key
        return key


def _unavailable(error: sqlite3.OperationalError) -> CommandError:
    """A key that cannot be kept must not be used: what it sealed would never open again."""
    if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
        return StorageFull("The disk under the key store is full.")
    return StorageUnavailable("The key store cannot be written.")


def _address(key: bytes, content: bytes) -> str:
    # A key of its own for addresses, derived, so that the sealing key has one use only.
    derived = hmac.digest(key, b"automatos blob address", "sha256")
    return hmac.new(derived, content, hashlib.sha256).hexdigest()


def _bound(workspace_id: WorkspaceId, place: str) -> bytes:
    """Bind sealed bytes to their place, so that they open nowhere else."""
    return f"v1|{workspace_id}|{place}".encode()


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text)
