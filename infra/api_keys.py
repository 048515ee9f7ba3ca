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
from collections.abc import Awaitable, Callable
from datetime import datetime
from hashlib import sha256
from time import monotonic
from typing import NamedTuple, Protocol

from domain.events import PLATFORM_WORKSPACE, WorkspaceId
from domain.identity import KeyId, of_scopes
from infra.clock import utc_now
from infra.lately import Lately
from projections.identity import KeyRow, valid_keys
from read_api.auth import Caller, Principal
from read_api.reads import EventLog, Reads

KEY_PREFIX = "atk_"
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


async def platform_alone() -> frozenset[WorkspaceId]:
    """Give the workspace of those who operate an installation of many tenants."""
    return frozenset({PLATFORM_WORKSPACE})


class KeyRing:
    """Implements `read_api.auth.Authenticator` for API keys, over the identity read model.

    Args:
        lately: What was taken away and is not in the read model yet.
        used: Told of every key that is found valid, once for as long as it is remembered.
        operators: Gives the workspaces of those who operate the installation.
        now: UTC.
    """

    def __init__(  # noqa: PLR0913 ports, and what tests set
        self,
        reads: Reads,
        event_log: EventLog,
        projection: Projection,
        pepper: bytes,
        *,
        lately: Lately,
        used: Callable[[KeyRow], None] = lambda _: None,
        operators: Callable[[], Awaitable[frozenset[WorkspaceId]]] = platform_alone,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._reads = reads
        self._log = event_log
        self._projection = projection
        self._pepper = pepper
        self._used = used
        self._operators = operators
        self._lately = lately
        self._operating: frozenset[WorkspaceId] = frozenset()
        self._now = now
        self._known: dict[KeyId, KeyRow] = {}
        self._verified: dict[bytes, Caller] = {}
        self._loaded_at = float("-inf")
        self._missed_at = float("-inf")
        self._failed_at = float("-inf")
        self._failure: Exception | None = None
        self._loading = asyncio.Lock()
        self._looking = asyncio.Lock()

    async def caller(self, credential: str, *, from_browser: bool = False) -> Caller | None:
        del from_browser
        digest = sha256(credential.encode()).digest()
        known = self._verified.get(digest)
        if known is not None and not self._is_old():
            return known
        row = await self._verify(credential)
        if row is None:
            return None
        self._used(row)
        caller = self._verified[digest] = self._caller(row)
        return caller

    async def still(self, principal: Principal) -> Principal | None:
        if self._is_old():
            await self._reload()
        row = None if principal.key_id is None else self._known.get(principal.key_id)
        if row is None or row.workspace_id != principal.workspace_id or self._is_over(row):
            return None
        return self._caller(row).principals[row.workspace_id]

    def _is_old(self) -> bool:
        return monotonic() - self._loaded_at >= RELOAD_S

    async def _verify(self, key: str) -> KeyRow | None:
        key_id = key_id_of(key)
        if key_id is None:
            return None
        if self._is_old():
            await self._reload()
        row = self._known.get(key_id) or await self._look_again(key_id)
        # A key that is not known takes the same time to be refused.
        wanted = row.secret_hash if row is not None else "0" * 64
        if not hmac.compare_digest(hash_key(self._pepper, key), wanted) or row is None:
            return None
        return None if self._is_over(row) else row

    def _is_over(self, row: KeyRow) -> bool:
        return row.expires_at is not None and row.expires_at <= self._now()

    async def _reload(self) -> None:
        """Load once for all who found the keys old; whoever waited is told how that ended."""
        came = monotonic()
        async with self._loading:
            if self._failure is not None and self._failed_at > came:
                raise self._failure
            if self._is_old():
                try:
                    await self._load()
                except Exception as error:
                    self._failed_at, self._failure = monotonic(), error
                    raise

    async def _load(self) -> None:
        # Before the rows: what it has not to tell any more is then in them.
        await self._lately.look()
        rows = self._lately.keys_of(await self._reads.ask(valid_keys))
        self._operating = await self._operators()
        self._known = {row.key_id: row for row in rows}
        self._loaded_at = monotonic()
        self._verified = {}

    async def _look_again(self, key_id: KeyId) -> KeyRow | None:
        """Wait for a key that has just been made; bounded, and one look for all who came before."""
        came = monotonic()
        async with self._looking:
            if self._missed_at < came:
                await asyncio.sleep(max(0.0, self._missed_at + RELOAD_S - monotonic()))
                self._missed_at = monotonic()
                head = await self._log.head()
                await self._projection.wait("identity", head, timeout_s=NEW_KEY_WAIT_S)
                await self._load()
        return self._known.get(key_id)

    def _caller(self, row: KeyRow) -> Caller:
        principal = Principal(
            workspace_id=row.workspace_id,
            actor=f"key:{row.key_id}",
            permissions=of_scopes(row.scopes, operates=row.workspace_id in self._operating),
            role="admin" if "admin" in row.scopes else None,
            key_id=row.key_id,
            expires_at=row.expires_at,
        )
        return Caller(home=row.workspace_id, principals={row.workspace_id: principal})
