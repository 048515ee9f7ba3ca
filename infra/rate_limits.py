"""Where it is remembered how often somebody asked: in Redis for all processes, else in this one."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import time_ns
from typing import Any, NamedTuple, Protocol, cast

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from infra import gcra
from infra.ending import end
from read_api.limits import Ask, Rate, Verdict

SUBJECTS_MAX = 20_000
"""Remembered in one process; the one that has not asked for longest is forgotten for a new one."""

ANSWER_MAX_S = 1.0
"""How long Redis has for an answer, before this process counts by itself; once in an outage."""

PAUSE_S = 1.0
"""How often Redis is then looked for."""

BATCH_MAX = 256
"""Requests judged in one round trip."""

FAULTS = (RedisError, OSError, TimeoutError)

log = structlog.get_logger(__name__)


class InProcess:
    """Implements `read_api.limits.Limiter` in memory.

    Args:
        processes: Among how many a limit is divided.
    """

    def __init__(
        self, processes: int = 1, *, now: Callable[[], int] = lambda: time_ns() // 1_000
    ) -> None:
        self._processes = processes
        self._now = now
        self._full_at: OrderedDict[tuple[str, str], int] = OrderedDict()

    async def take(self, asks: Sequence[Ask]) -> Verdict:
        return self.taken(asks)

    def taken(self, asks: Sequence[Ask]) -> Verdict:
        now = self._now()
        asks = [ask._replace(rate=_divided(ask.rate, self._processes)) for ask in asks]
        known = [self._full_at.get((ask.policy, ask.subject), 0) for ask in asks]
        later = [gcra.take(a.rate, at, now).full_at for a, at in zip(asks, known, strict=True)]
        verdict = gcra.verdict(asks, later, now)
        if not verdict.allowed:
            return verdict
        for ask, at in zip(asks, later, strict=True):
            if not self._remember(ask, at, now):
                return Verdict(ask, False, 0, ask.rate.period_s, ask.rate.period_s)  # noqa: FBT003
        return verdict

    def _remember(self, ask: Ask, full_at: int, now: int) -> bool:
        """Tell whether there was room: a guess is not allowed to go uncounted, nor to make us
        forget another's.
        """
        subject = ask.policy, ask.subject
        if subject not in self._full_at and len(self._full_at) >= SUBJECTS_MAX:
            oldest, at = next(iter(self._full_at.items()))
            if ask.strict and at > now:
                return False
            del self._full_at[oldest]
        self._full_at[subject] = full_at
        self._full_at.move_to_end(subject)
        return True


def _divided(rate: Rate, processes: int) -> Rate:
    return Rate(max(1, rate.limit // processes), rate.period_s)


TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local later, over = {}, false
for i, key in ipairs(KEYS) do
    local share, period = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
    later[i] = math.max(tonumber(redis.call('GET', key) or '0'), now) + share
    over = over or later[i] - now > period
end
if not over then
    for i, key in ipairs(KEYS) do
        redis.call('SET', key, string.format('%.0f', later[i]),
            'PX', math.ceil((later[i] - now) / 1000))
    end
end
for i, at in ipairs(later) do later[i] = string.format('%.0f', at) end
return {string.format('%.0f', now), unpack(later)}
"""
"""`gcra.take` for several at once, by the server's clock. All or none is taken; a key lives until
all is there again, when it says nothing more. Microseconds stay below 2^53, exact in Lua."""


class Pipeline(Protocol):
    def eval(self, script: str, keys: int, /, *keys_and_args: str | int) -> object: ...
    async def execute(self) -> list[list[bytes]]: ...


class Client(Protocol):
    """The part of `redis.asyncio.Redis` that is used here."""

    def pipeline(self, *, transaction: bool) -> Pipeline: ...
    async def ping(self) -> object: ...
    async def aclose(self) -> None: ...


class _Waiting(NamedTuple):
    asks: Sequence[Ask]
    judged: asyncio.Future[Verdict]


class InRedis:
    """Implements `read_api.limits.Limiter` for all processes together; while Redis is away each
    counts its share by itself. What is asked while one question is under way goes into the next.

    Args:
        processes: How many share the limits while Redis is away.
    """

    def __init__(self, url: str, processes: int = 1) -> None:
        made: Any = Redis.from_url(  # pyright: ignore[reportUnknownMemberType] its keywords
            url,
            socket_timeout=ANSWER_MAX_S,
            socket_connect_timeout=ANSWER_MAX_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis = cast("Client", made)
        self._alone = InProcess(processes)
        self._waiting: list[_Waiting] = []
        self._asking: asyncio.Task[None] | None = None
        self._returning: asyncio.Task[None] | None = None

    @property
    def is_away(self) -> bool:
        return self._returning is not None and not self._returning.done()

    async def take(self, asks: Sequence[Ask]) -> Verdict:
        if self.is_away:
            return self._alone.taken(asks)
        judged: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(asks, judged))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all())
        return await judged

    async def _ask_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            try:
                async with asyncio.timeout(ANSWER_MAX_S):
                    verdicts = await self._ask([waiting.asks for waiting in batch])
            except FAULTS as error:
                self._go_alone(error)
                verdicts = [self._alone.taken(waiting.asks) for waiting in batch]
            for waiting, verdict in zip(batch, verdicts, strict=True):
                if not waiting.judged.done():
                    waiting.judged.set_result(verdict)

    async def _ask(self, batch: Sequence[Sequence[Ask]]) -> list[Verdict]:
        pipeline = self._redis.pipeline(transaction=False)
        for asks in batch:
            # One subject's keys lie together in a cluster: a script may touch no others.
            keys = [f"automatos:limit:{ask.policy}:{{{ask.subject}}}" for ask in asks]
            rates = [(gcra.share(ask.rate), ask.rate.period_s * gcra.SECOND) for ask in asks]
            pipeline.eval(TAKE, len(keys), *keys, *(number for rate in rates for number in rate))
        found = await pipeline.execute()
        return [
            gcra.verdict(asks, [int(at) for at in later], int(now))
            for asks, (now, *later) in zip(batch, found, strict=True)
        ]

    def _go_alone(self, error: Exception) -> None:
        if not self.is_away:
            # Not its text, which may hold the URL, and that a password.
            log.warning("Redis does not answer; counting alone", error=type(error).__name__)
            self._returning = asyncio.create_task(self._return())

    async def _return(self) -> None:
        """Wait for Redis: nobody else does meanwhile."""
        while True:
            await asyncio.sleep(PAUSE_S)
            with suppress(*FAULTS):
                async with asyncio.timeout(ANSWER_MAX_S):
                    await self._redis.ping()
                log.warning("Redis answers again")
                return

    async def close(self) -> None:
        await end(task for task in (self._asking, self._returning) if task is not None)
        await self._redis.aclose()
