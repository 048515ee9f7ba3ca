"""API keys: how they are spelled, hashed, and recognised.

`atk_live_<10 base62 id>_<43 base62 secret>_<6 base62 CRC-32>`: the prefix and
the checksum let secret scanners find a leaked one, and let us refuse junk
without looking anything up. 256 random bits need no slow hash.
"""

import asyncio
import hmac
import re
import secrets
import zlib
from hashlib import sha256
from time import monotonic
from typing import NamedTuple, Protocol

from domain.identity import KeyId
from projections.identity import KeyRow, valid_keys
from read_api.auth import Principal
from read_api.reads import EventLog, Reads

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 10
SECRET_LENGTH = 43
CHECKSUM_LENGTH = 6

RELOAD_S = 1.0
"""How old the known keys may be: a revoked one works no longer than that, and a
request with an unknown one makes us look again no oftener."""

NEW_KEY_WAIT_S = 1.5
"""How long an unknown key's request waits for the projection of a key just made."""

_FORM = re.compile(r"atk_live_([0-9A-Za-z]{10})_([0-9A-Za-z]{43})_([0-9A-Za-z]{6})")


class NewKey(NamedTuple):
    """Attributes:
    text: The key itself: shown once, never stored.
    """

    text: str
    key_id: KeyId
    secret_hash: str
    last_four: str


def make_key(pepper: bytes) -> NewKey:
    key_id = "".join(secrets.choice(ALPHABET) for _ in range(ID_LENGTH))
    secret = "".join(secrets.choice(ALPHABET) for _ in range(SECRET_LENGTH))
    body = f"atk_live_{key_id}_{secret}"
    text = f"{body}_{_checksum(body)}"
    return NewKey(text, KeyId(key_id), hash_key(pepper, text), secret[-4:])


def hash_key(pepper: bytes, text: str) -> str:
    return hmac.digest(pepper, text.encode(), "sha256").hex()


def key_id_of(text: str) -> KeyId | None:
    """Read a key's id; None for what is no key at all."""
    match = _FORM.fullmatch(text)
    if match is None or _checksum(text.rpartition("_")[0]) != match[3]:
        return None
    return KeyId(match[1])


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


class Projection(Protocol):
    """Of this process or of others."""

    async def wait(self, projector: str, position: int, *, timeout_s: float) -> bool:
        """Wait until a projector has passed a position; False if it takes too long."""
        ...


class KeyRing:
    """Implements `read_api.auth.KeyReader` over the identity read model."""

    def __init__(
        self, reads: Reads, event_log: EventLog, projection: Projection, pepper: bytes
    ) -> None:
        self._reads = reads
        self._log = event_log
        self._projection = projection
        self._pepper = pepper
        self._known: dict[KeyId, KeyRow] = {}
        self._verified: dict[bytes, Principal] = {}
        self._loaded_at = float("-inf")
        self._missed_at = float("-inf")
        self._loading = asyncio.Lock()
        self._looking = asyncio.Lock()

    async def principal(self, key: str) -> Principal | None:
        digest = sha256(key.encode()).digest()
        known = self._verified.get(digest)
        if known is not None and not self._is_old():
            return known
        principal = await self._verify(key)
        if principal is not None:
            self._verified[digest] = principal
        return principal

    def _is_old(self) -> bool:
        return monotonic() - self._loaded_at >= RELOAD_S

    async def _verify(self, key: str) -> Principal | None:
        key_id = key_id_of(key)
        if key_id is None:
            return None
        async with self._loading:
            # One look for all who found the keys old.
            if self._is_old():
                await self._load()
        row = self._known.get(key_id) or await self._look_again(key_id)
        # A key that is not known takes the same time to be refused.
        wanted = row.secret_hash if row is not None else "0" * 64
        if not hmac.compare_digest(hash_key(self._pepper, key), wanted) or row is None:
            return None
        return Principal(workspace_id=row.workspace_id, actor=f"key:{key_id}")

    async def _load(self) -> None:
        rows = await self._reads.ask(valid_keys)
        self._known = {row.key_id: row for row in rows}
        self._loaded_at = monotonic()
        self._verified = {}

    async def _look_again(self, key_id: KeyId) -> KeyRow | None:
        """Wait for a key that another process has just made; bounded, and one look for all."""
        async with self._looking:
            if monotonic() - self._missed_at >= RELOAD_S:
                head = await self._log.head()
                await self._projection.wait("identity", head, timeout_s=NEW_KEY_WAIT_S)
                await self._load()
                self._missed_at = monotonic()
        return self._known.get(key_id)
