"""How often somebody may ask: by address before it is known who asks, by principal after.

Layers around the guard, and only where there are limits: without them they are not there.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from read_api.addresses import Clients
from read_api.auth import PUBLIC
from read_api.errors import NotAuthenticated, RateLimited
from read_api.raw import Headers

UNLIMITED = frozenset({"/health", "/health/live", "/health/ready"})
"""Asked by whoever keeps the processes running: an answer of 429 would have them restarted."""

READING = frozenset({"GET", "HEAD", "OPTIONS"})
ANSWER_HEADERS = "answer_headers"
"""Where a layer leaves, in the scope's state, what the answer is to carry."""


class Rate(msgspec.Struct, frozen=True):
    """So many in so many seconds; as many at once, and then one each time a share has passed."""

    limit: int
    period_s: int

    def __str__(self) -> str:
        return f"{self.limit} in {self.period_s} s"


class Ask(NamedTuple):
    """One of what is limited.

    Attributes:
        policy: Names the limit, to those who are limited too.
        subject: Who is counted.
        strict: Rather refuse than lose count: of guesses, not of work.
    """

    policy: str
    subject: str
    rate: Rate
    strict: bool = False


class Verdict(NamedTuple):
    """Attributes:
    ask: The one that decides: the first that is over, else the one with least left.
    remaining: How many more are left just now.
    full_s: In how many seconds all are there again.
    retry_s: In how many seconds there is one again; 0 where there is one.
    """

    ask: Ask
    allowed: bool
    remaining: int
    full_s: int
    retry_s: int

    def headers(self) -> dict[str, str]:
        """Spell it as draft-ietf-httpapi-ratelimit-headers-10 does."""
        name, rate = self.ask.policy, self.ask.rate
        return {
            "RateLimit-Policy": f'"{name}";q={rate.limit};w={rate.period_s}',
            "RateLimit": f'"{name}";r={self.remaining};t={self.retry_s or self.full_s}',
        }


class Limiter(Protocol):
    async def take(self, asks: Sequence[Ask]) -> Verdict:
        """Take one of each, or of none if one of them is over. Never fails, and is bounded."""
        ...


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    per_address: Requests without credentials, by client address.
    per_principal: Requests of one principal in one workspace.
    writes: Those of them that command something.
    bad_keys: Credentials that are not valid, by client address.
    """

    limiter: Limiter
    clients: Clients
    per_address: Rate | None = None
    per_principal: Rate | None = None
    writes: Rate | None = None
    bad_keys: Rate | None = None

    async def admit(self, scope: Scope, asks: Sequence[Ask]) -> None:
        """Take one of each, and have the answer tell what is left.

        Raises:
            RateLimited: One is over.
        """
        verdict = await self.limiter.take(asks)
        told = verdict.headers()
        if not verdict.allowed:
            raise refused(verdict)
        scope["state"][ANSWER_HEADERS] = _raw(told)

    def of_address(self, scope: Scope) -> list[Ask]:
        if self.per_address is None or scope["path"] in UNLIMITED:
            return []
        return [Ask("address", self.clients.network_of(scope), self.per_address)]

    def of_principal(self, scope: Scope) -> list[Ask]:
        principal = scope["auth"].principal
        subject, asks = f"{principal.workspace_id}:{principal.actor}", list[Ask]()
        if self.per_principal is not None:
            asks.append(Ask("principal", subject, self.per_principal))
        if self.writes is not None and scope["method"] not in READING:  # type: ignore[typeddict-item]
            asks.append(Ask("writes", subject, self.writes))
        return asks


def refused(verdict: Verdict) -> RateLimited:
    detail = f"Rate limit exceeded: {verdict.ask.rate} ({verdict.ask.policy})."
    error = RateLimited(detail)
    error.headers = {"Retry-After": str(max(1, verdict.retry_s)), **verdict.headers()}
    return error


def _raw(headers: dict[str, str]) -> Headers:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def has_credentials(scope: Scope, found: dict[bytes, bytes]) -> bool:
    """Tell whether a request says who sends it; whether that is true, the guard finds out."""
    return b"x-api-key" in found or b"authorization" in found or b"ticket=" in scope["query_string"]


def before_guard(app: ASGIApp, limits: Limits) -> ASGIApp:
    """Wrap the guard: count credentials that are not valid, by address.

    A valid key goes on working whatever others send from its address: only answers to those
    that are not valid turn from 401 into 429.
    """

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        handler: Any = scope["route_handler"]
        if handler.opt.get(PUBLIC):
            await _public(app, limits, scope, receive, send)
            return
        try:
            await app(scope, receive, send)
        except NotAuthenticated:
            if limits.bad_keys is not None and scope["state"].get(SHOWN_CREDENTIALS):
                network = limits.clients.network_of(scope)
                ask = Ask("bad_keys", network, limits.bad_keys, strict=True)
                verdict = await limits.limiter.take([ask])
                if not verdict.allowed:
                    raise refused(verdict) from None
            raise

    return handle


SHOWN_CREDENTIALS = "shown_credentials"


async def _public(app: ASGIApp, limits: Limits, scope: Scope, receive: Receive, send: Send) -> None:
    """Count a request that nobody will check the credentials of as one without any."""
    asks = limits.of_address(scope) if scope["state"].get(SHOWN_CREDENTIALS) else []
    if asks:
        await limits.admit(scope, asks)
    await app(scope, receive, send)


def after_guard(app: ASGIApp, limits: Limits) -> ASGIApp:
    """Stand between the guard and the route: count requests by principal."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        given: Any = scope
        if given["type"] == ScopeType.HTTP and given.get("auth") is not None:
            asks = limits.of_principal(scope)
            if asks:
                await limits.admit(scope, asks)
        await app(scope, receive, send)

    return handle
