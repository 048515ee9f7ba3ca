"""Fakes at the ports that are ours: language models, the clock, ids, and a log that fails."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from commands.processes.model_calls import (
    ModelAnswer,
    ModelCallError,
    ModelRequest,
    ModelTarget,
)
from domain.tokens import Cost, TokenCounts
from infra.event_store.lane import Append, Deliver
from infra.event_store.store import Log

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

WAIT_MAX_S = 30.0
"""Bound of every wait for a condition; far more than any of them takes."""


async def until(is_so: Callable[[], bool]) -> None:
    """Let others work until something is so."""
    async with asyncio.timeout(WAIT_MAX_S):
        while not is_so():  # noqa: ASYNC110 what is waited for tells nobody
            await asyncio.sleep(0)


class HandClock:
    """Stands still until it is moved."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, by: timedelta) -> None:
        self.now += by


class IntegerIdsInOrder:
    def __init__(self, first: int = 1) -> None:
        self._numbers = itertools.count(first)

    def __call__(self) -> int:
        return next(self._numbers)


class UuidsInOrder:
    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def __call__(self) -> str:
        return f"00000000-0000-7000-8000-{next(self._numbers):012x}"


# Language models.


def model_answer(text: str) -> ModelAnswer:
    return ModelAnswer(
        text=text,
        provider="openai",
        model="gpt-5-2026",
        response_id="response-1",
        finish_reason="stop",
        usage={"prompt_tokens": 7, "completion_tokens": 3},
        tokens=TokenCounts(input=7, output=3),
        cost=Cost(input_nano_usd=70, output_nano_usd=90, price_source="a test"),
        latency_ms=12,
    )


def failure(
    message: str = "The provider is busy.",
    *,
    retryable: bool = True,
    retry_after_s: float | None = None,
    in_doubt: bool = False,
) -> ModelCallError:
    return ModelCallError(
        message,
        kind="timeout" if in_doubt else "overloaded",
        retryable=retryable,
        retry_after_s=retry_after_s,
        in_doubt=in_doubt,
    )


Scripted: TypeAlias = str | ModelAnswer | Exception


class FakeModels:
    """Answers what it is scripted to, one call after the other, then the number of the call.

    Attributes:
        requests: Every question it was asked.
        aborted: Calls that were broken off by who asked.
        default: Target given where none is named.
        substitute: Target given for whatever is asked.
        refusal: Raised for whatever target is asked.
        on_call: Told of each call before it is answered.
    """

    def __init__(self, *script: Scripted) -> None:
        self.requests: list[ModelRequest] = []
        self.aborted = 0
        self.default = ModelTarget(provider="openai", model="gpt-5")
        self.substitute: ModelTarget | None = None
        self.refusal: ModelCallError | None = None
        self.on_call: Callable[[], None] = lambda: None
        self._script = list(script)
        self._open = asyncio.Event()
        self._open.set()

    @property
    def calls(self) -> int:
        return len(self.requests)

    @property
    def prompts(self) -> list[str]:
        return [request.prompt for request in self.requests]

    def then(self, *script: Scripted) -> None:
        self._script += script

    def hold(self) -> None:
        """Keep calls open until `let_go`."""
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    async def asked(self, calls: int) -> None:
        """Wait until so many calls were made."""
        await until(lambda: self.calls >= calls)

    async def broken_off(self, calls: int) -> None:
        """Wait until so many calls were broken off."""
        await until(lambda: self.aborted >= calls)

    def target(self, provider: str | None, model: str | None) -> ModelTarget:
        if self.refusal is not None:
            raise self.refusal
        if self.substitute is not None:
            return self.substitute
        if provider is None or model is None:
            return self.default
        return ModelTarget(provider=provider, model=model)

    async def complete(self, request: ModelRequest) -> ModelAnswer:
        self.requests.append(request)
        answer = self._script.pop(0) if self._script else f"answer {self.calls}"
        self.on_call()
        try:
            await self._open.wait()
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        if isinstance(answer, Exception):
            raise answer
        return model_answer(answer) if isinstance(answer, str) else answer


# The log.


class FailingLog:
    """A log in front of another that can refuse appends, lose them, or tell of them.

    Attributes:
        refusals: Raised for as many appends to come, one each.
        before, after: Told before and after an append is handed on.
        dead: From now on nothing is handed on, or answered: the power is off.
    """

    def __init__(self, log: Log) -> None:
        self.refusals: list[Exception] = []
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None
        self.dead = False
        self.stream = log.stream
        self.bodies = log.bodies
        self.all = log.all
        self.workspace = log.workspace
        self.head = log.head
        self.workspace_head = log.workspace_head
        self.command = log.command
        self.blob = log.blob
        self.close = log.close
        self._log = log

    def submit(self, appends: Sequence[Append], deliver: Deliver) -> None:
        self.before()
        if self.dead:
            return
        if self.refusals:
            refusal = self.refusals.pop(0)
            deliver([refusal for _ in appends])
            return
        self._log.submit(appends, deliver)
        self.after()
