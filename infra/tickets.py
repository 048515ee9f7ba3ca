"""Where one-time tickets lie: in this process, or in PostgreSQL or Redis for all processes.

No place knows a ticket itself, only its hash.
"""

import hmac
import os
import secrets
from collections.abc import Callable
from hashlib import sha256
from time import monotonic
from typing import Any, Final, Protocol, cast

import msgspec
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from commands.transact import StorageUnavailable
from infra.vault import NONCE_BYTES
from read_api.auth import Principal
from read_api.tickets import TICKET_BYTES, TICKET_LIFE_S

KEPT_MAX: Final = 10_000
"""Tickets in one process; beyond it the oldest go."""

PREFIX: Final = "automatos:ticket:"
CONNECT_S: Final = 2.0
COMMAND_S: Final = 0.5
CONNECTIONS_MAX: Final = 50
RETRIES: Final = 1
"""A connection that has died unnoticed fails at its next use. A ticket that was taken by the
first try, and whose answer was lost, is used up: the second one finds nothing."""

log = structlog.get_logger(__name__)


class Kept(msgspec.Struct, frozen=True):
    """What a ticket opens, and to whom."""

    principal: Principal
    path: str


class LocalTickets:
    """For an installation of one process.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._kept: dict[bytes, tuple[float, Kept]] = {}

    async def issue(self, principal: Principal, path: str) -> str:
        self._make_room()
        ticket = secrets.token_urlsafe(TICKET_BYTES)
        self._kept[hash_ticket(ticket)] = (self._clock() + TICKET_LIFE_S, Kept(principal, path))
        return ticket

    async def redeem(self, ticket: str, path: str) -> Principal | None:
        until, kept = self._kept.pop(hash_ticket(ticket), (float("-inf"), None))
        if kept is None or kept.path != path or until <= self._clock():
            return None
        return kept.principal

    async def aclose(self) -> None:
        self._kept.clear()

    def _make_room(self) -> None:
        """Drop what has expired: the oldest come first, for all live equally long."""
        while self._kept:
            oldest = next(iter(self._kept))
            until, _ = self._kept[oldest]
            if until > self._clock() and len(self._kept) < KEPT_MAX:
                return
            del self._kept[oldest]


class Seals:
    """What lies outside this process is sealed: who can write there still makes no ticket, and who
    can read there learns of nobody.

    Args:
        secret: The installation's own; a key is derived from it.
    """

    def __init__(self, secret: bytes) -> None:
        self._sealing = AESGCM(hmac.digest(secret, b"automatos stream tickets", "sha256"))

    def seal(self, digest: bytes, kept: Kept) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._sealing.encrypt(nonce, _encoder.encode(kept), digest)

    def open(self, digest: bytes, sealed: bytes) -> Kept | None:
        """Open what was found at a ticket's place; None for what we did not put there."""
        try:
            text = self._sealing.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], digest)
            return _decoder.decode(text)
        except (InvalidTag, ValueError):
            log.warning("a ticket that was kept is not one of ours")
            return None


class Client(Protocol):
    """The part of `redis.asyncio.Redis` that is used here."""

    async def set(self, name: str, value: bytes, *, ex: int) -> object: ...
    async def getdel(self, name: str) -> bytes | None: ...
    async def aclose(self) -> None: ...


class RedisTickets:
    """For any number of processes. Redis gives each ticket away once (GETDEL, of Redis 6.2).

    Args:
        secret: The installation's own; a key is derived from it.
    """

    def __init__(self, url: str, secret: bytes) -> None:
        # Imported here: the embedded profile starts without it.
        from redis.asyncio import Redis  # noqa: PLC0415
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415

        made: Any = Redis.from_url(  # pyright: ignore[reportUnknownMemberType] its keywords
            url,
            socket_timeout=COMMAND_S,
            socket_connect_timeout=CONNECT_S,
            max_connections=CONNECTIONS_MAX,
            retry=Retry(NoBackoff(), RETRIES),
        )
        self._client = cast("Client", made)
        self._seals = Seals(secret)

    async def issue(self, principal: Principal, path: str) -> str:
        from redis.exceptions import RedisError  # noqa: PLC0415

        ticket = secrets.token_urlsafe(TICKET_BYTES)
        sealed = self._seals.seal(hash_ticket(ticket), Kept(principal, path))
        try:
            await self._client.set(_name(ticket), sealed, ex=TICKET_LIFE_S)
        except (RedisError, OSError, TimeoutError) as error:
            raise cannot_keep(error) from None
        return ticket

    async def redeem(self, ticket: str, path: str) -> Principal | None:
        from redis.exceptions import RedisError  # noqa: PLC0415

        try:
            sealed = await self._client.getdel(_name(ticket))
        except (RedisError, OSError, TimeoutError) as error:
            raise cannot_keep(error) from None
        kept = None if sealed is None else self._seals.open(hash_ticket(ticket), sealed)
        return None if kept is None or kept.path != path else kept.principal

    async def aclose(self) -> None:
        await self._client.aclose()


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Kept)


def hash_ticket(ticket: str) -> bytes:
    """128 random bits need no slow hash."""
    return sha256(ticket.encode()).digest()


def _name(ticket: str) -> str:
    return PREFIX + hash_ticket(ticket).hex()


def cannot_keep(error: Exception) -> StorageUnavailable:
    # Not its text, which may hold the URL, and that a password.
    log.warning("tickets cannot be kept", error=type(error).__name__)
    return StorageUnavailable("Tickets cannot be kept just now.")
