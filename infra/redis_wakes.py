"""Wake-ups between processes through Redis: hints only, so that nothing is wrong without it.

Who waits looks again by itself within a second; a hint lets it look at once. No command waits
for Redis: what is to be told is gathered, one publication is under way at a time, and while
Redis is away it is dropped.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Protocol, cast

import msgspec
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from domain.events import WorkspaceId
from infra.failpoints import failpoint

APPENDED = "automatos:appended"
PROJECTED = "automatos:projected"

CONNECT_MAX_S = 2.0
PUBLISH_MAX_S = 0.5
PING_EVERY_S = 1.0
SILENCE_MAX_S = 3.0
"""Without a sign of life for so long, a connection is taken for dead."""

PAUSE_MIN_S = 0.1
PAUSE_MAX_S = 5.0

GATHERED_MAX = 10_000
"""Workspaces told of at once; what is more is dropped."""

FAULTS = (RedisError, OSError, TimeoutError)

Heads = Mapping[WorkspaceId, int]
"""Newest positions by workspace."""

Projected = Mapping[str, Mapping[int, int]]
"""Positions passed, by projector and partition."""

log = structlog.get_logger(__name__)

_encoder = msgspec.json.Encoder()
_heads = msgspec.json.Decoder(dict[WorkspaceId, int])
_projected = msgspec.json.Decoder(dict[str, dict[int, int]])


class Pipeline(Protocol):
    def publish(self, channel: str, message: bytes) -> object: ...
    def ping(self) -> object: ...
    async def execute(self) -> list[Any]: ...


class Messages(Protocol):
    async def subscribe(self, *channels: str) -> None: ...
    async def get_message(self, *, timeout: float) -> dict[str, Any] | None: ...
    async def ping(self) -> object: ...
    async def aclose(self) -> None: ...


class Client(Protocol):
    """The part of `redis.asyncio.Redis` that is used here."""

    def pipeline(self, *, transaction: bool) -> Pipeline: ...
    def pubsub(self) -> Messages: ...
    async def aclose(self) -> None: ...


class RedisWakes:
    """Belongs to one event loop; `run` it for as long as the process serves.

    Args:
        appended: Hears of appends, this process's own among them.
        projected: Hears of read models that have come further.
    """

    def __init__(
        self,
        url: str,
        *,
        appended: Callable[[Heads], None] = lambda _: None,
        projected: Callable[[Projected], None] = lambda _: None,
    ) -> None:
        self._url = url
        self._appended = appended
        self._projected = projected
        self._heads: dict[WorkspaceId, int] = {}
        self._passed: dict[str, dict[int, int]] = {}
        self._gathered = asyncio.Event()
        self._hears = False
        self._tells = True
        self._is_told = False

    @property
    def degraded(self) -> bool:
        """Whether others are not heard, or not told: everybody polls then."""
        return not (self._hears and self._tells)

    # Telling. Neither of these waits, nor fails.

    def tell_appended(self, heads: Heads) -> None:
        if heads and len(self._heads) < GATHERED_MAX:
            self._heads |= heads
            self._gathered.set()

    def tell_projected(self, projector: str, passed: Mapping[int, int]) -> None:
        self._passed[projector] = {**self._passed.get(projector, {}), **passed}
        self._gathered.set()

    async def run(self) -> None:
        """Tell and hear for ever; cancel to stop."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lasting(self._tell))
            group.create_task(self._lasting(self._hear))

    async def _lasting(self, work: Callable[[Client], Awaitable[None]]) -> None:
        """Connect, and again whenever the connection is lost."""
        pause_s = PAUSE_MIN_S
        while True:
            begun = monotonic()
            try:
                async with _connected(self._url) as client:
                    await work(client)
            except FAULTS as error:
                self._complain(error)
            lasted = monotonic() - begun > SILENCE_MAX_S + PING_EVERY_S
            pause_s = PAUSE_MIN_S if lasted else min(PAUSE_MAX_S, pause_s * 2)
            await asyncio.sleep(pause_s)

    def _complain(self, error: Exception) -> None:
        """Log that Redis is away, once; not every try."""
        if not self._is_told:
            # Not its text, which may hold the URL, and that a password.
            log.warning("Redis does not answer; polling", error=type(error).__name__)
        self._is_told = True

    def _rejoice(self) -> None:
        if self._is_told and not self.degraded:
            log.warning("Redis answers again")
            self._is_told = False

    async def _tell(self, client: Client) -> None:
        try:
            while True:
                async with asyncio.timeout(PUBLISH_MAX_S):
                    await self._publish(client)
                self._tells = True
                self._rejoice()
                await self._gathered.wait()
        finally:
            self._tells = False

    async def _publish(self, client: Client) -> None:
        """Tell all that has been gathered; what cannot be told now is not told at all."""
        heads, passed = self._heads, self._passed
        self._heads, self._passed = {}, {}
        self._gathered.clear()
        pipeline = client.pipeline(transaction=False)
        if heads:
            pipeline.publish(APPENDED, _encoder.encode(heads))
        if passed:
            pipeline.publish(PROJECTED, _encoder.encode(passed))
        if not (heads or passed):
            pipeline.ping()
        failpoint("wakes.before_publish")
        await pipeline.execute()
        failpoint("wakes.after_publish")

    # Hearing.

    async def _hear(self, client: Client) -> None:
        messages = client.pubsub()
        try:
            await messages.subscribe(APPENDED, PROJECTED)
            await self._hear_until_silent(messages)
        finally:
            self._hears = False
            await messages.aclose()

    async def _hear_until_silent(self, messages: Messages) -> None:
        last = monotonic()
        while monotonic() - last < SILENCE_MAX_S:
            message = await messages.get_message(timeout=PING_EVERY_S)
            if message is None:
                await messages.ping()
                continue
            # The first is what confirms the subscription.
            last, self._hears = monotonic(), True
            self._rejoice()
            self._pass_on(message)
        raise TimeoutError

    def _pass_on(self, message: Mapping[str, Any]) -> None:
        if message["type"] != "message":
            return
        try:
            if message["channel"] == APPENDED.encode():
                self._appended(_heads.decode(message["data"]))
            else:
                self._projected(_projected.decode(message["data"]))
        except msgspec.MsgspecError:
            log.warning("not one of our messages on Redis", channel=str(message["channel"]))


@asynccontextmanager
async def _connected(url: str) -> AsyncGenerator[Client]:
    made: Any = Redis.from_url(  # pyright: ignore[reportUnknownMemberType] its keywords
        url,
        socket_timeout=PUBLISH_MAX_S,
        socket_connect_timeout=CONNECT_MAX_S,
        retry=Retry(NoBackoff(), 0),
    )
    client = cast("Client", made)
    try:
        yield client
    finally:
        await client.aclose()
