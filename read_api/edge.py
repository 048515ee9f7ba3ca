"""The outermost layer: every request gets an id, every answer its security headers, and each is
counted when it has ended. What no route should see is refused here, and cross-origin pages see it.
"""

import re
from collections.abc import Callable
from logging import DEBUG
from random import getrandbits
from time import perf_counter
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from read_api.cors import Cors, answer_preflight, is_preflight
from read_api.errors import ApiError
from read_api.gate import bytes_max, counted, fault_of, look
from read_api.limits import ANSWER_HEADERS, SHOWN_CREDENTIALS, Limits, has_credentials
from read_api.methods import OF_ANY_PATH, as_routed
from read_api.raw import Headers, refuse

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
"""A foreign request id in any other form is replaced: it would end up in logs."""

REQUEST_ID_BITS = 48
"""Spelled as 12 hex digits, the original's form."""

SECURITY_HEADERS: Final = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]
HSTS = (b"strict-transport-security", b"max-age=63072000; includeSubDomains")
API_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
DOCS_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'"
)
DOCS_PATH = "/docs"

UNCOUNTED = (DOCS_PATH, "/ws/", "/static/")

CHUNKED = b"transfer-encoding"
"""The header of bodies that do not say how large they are."""

ABORTED = 499
"""How a request is counted whose client left before there was an answer."""

Record = Callable[[str, str | None, int, int], None]
"""Takes method, route template, status and microseconds of a request that has ended."""

log = structlog.get_logger("access")


def _ignored(_method: str, _template: str | None, _status: int, _us: int) -> None:
    return


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for all requests.

    Attributes:
        body_max: Bytes of a body, but on the paths of uploads.
        https_only: Tell browsers to come by HTTPS, for ever.
        limits: None for none.
    """

    body_max: int
    https_only: bool = False
    cors: Cors = Cors()
    limits: Limits | None = None
    record: Record = _ignored


def edge(app: ASGIApp, rules: Rules) -> ASGIApp:
    """Wrap the whole application. A plain ASGI layer, because it is on every hot path."""
    # Bound once: the proxy that `get_logger` gives binds anew at every look.
    access = log.bind()
    tells = access.is_enabled_for(DEBUG)
    limited = rules.limits is not None
    of_api, of_docs = _fixed(https_only=rules.https_only)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        if scope["method"] in OF_ANY_PATH:
            scope, send = as_routed(scope, send)
        found, size = look(scope)
        request_id = _request_id(found)
        scope["state"]["request_id"] = request_id
        fixed = of_docs if scope["path"].startswith(DOCS_PATH) else of_api
        answer = _Answer(scope, send, fixed, request_id)
        try:
            fault = fault_of(scope, found, size, rules.body_max)
            if fault is None and not (limited or b"origin" in found or CHUNKED in found):
                await app(scope, receive, answer.send)
            else:
                await _admit(app, rules, scope, receive, answer.send, found, fault)
        finally:
            answer.ended(rules.record)
            if tells:
                answer.tell(access, request_id)

    return handle


async def _admit(  # noqa: PLR0913, PLR0917 what the one pass over the headers has found
    app: ASGIApp,
    rules: Rules,
    scope: Scope,
    receive: Receive,
    send: Send,
    found: dict[bytes, bytes],
    fault: ApiError | None,
) -> None:
    """Admit a request that is not like most."""
    if b"origin" in found:
        if is_preflight(scope, found):
            await answer_preflight(rules.cors, scope, found[b"origin"], send)
            return
        send = rules.cors.showing(scope, found, send)
    if fault is None and rules.limits is not None:
        fault = await _over(rules.limits, scope, found)
    if fault is not None:
        await refuse(send, fault)
        return
    if CHUNKED in found:
        receive = counted(receive, bytes_max(scope["path"], rules.body_max))
    await app(scope, receive, send)


async def _over(limits: Limits, scope: Scope, found: dict[bytes, bytes]) -> ApiError | None:
    """Count a request that does not say who sends it."""
    if has_credentials(scope, found):
        scope["state"][SHOWN_CREDENTIALS] = True
        return None
    asks = limits.of_address(scope)
    try:
        if asks:
            await limits.admit(scope, asks)
    except ApiError as error:
        return error
    return None


class _Answer:
    """Finishes an answer's headers, and notes how it went."""

    __slots__ = ("_began", "_fixed", "_id", "_scope", "_send", "_took_s", "status")

    def __init__(self, scope: Scope, send: Send, fixed: "_Fixed", request_id: str) -> None:
        self._scope = scope
        self._send = send
        self._fixed = fixed
        self._id = request_id.encode()
        self._began = perf_counter()
        self._took_s = 0.0
        self.status = ABORTED

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            fixed = self._fixed
            own = [h for h in message["headers"] if h[0] not in fixed.replaced]
            own.append((b"x-request-id", self._id))
            if ANSWER_HEADERS in self._scope["state"]:
                own += self._scope["state"][ANSWER_HEADERS]
            own += fixed.headers
            message["headers"] = own
        await self._send(message)

    def ended(self, record: Record) -> None:
        scope: Any = self._scope
        self._took_s = perf_counter() - self._began
        if scope["method"] != "OPTIONS" and not scope["path"].startswith(UNCOUNTED):
            template: str | None = scope.get("path_template")
            record(scope["method"], template, self.status, int(self._took_s * 1_000_000))

    def tell(self, access: structlog.typing.FilteringBoundLogger, request_id: str) -> None:
        scope: Any = self._scope
        access.debug(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=self.status,
            ms=round(self._took_s * 1_000, 1),
            request_id=request_id,
        )


class _Fixed(NamedTuple):
    """What is added to each answer, and what of its own is then left out."""

    headers: Headers
    replaced: frozenset[bytes]


def _fixed(*, https_only: bool) -> tuple[_Fixed, _Fixed]:
    """Give that of the API, and that of the docs, whose files may be kept by browsers."""
    common = [*SECURITY_HEADERS, *([HSTS] if https_only else ())]
    of_api = (b"content-security-policy", API_POLICY.encode()), (b"cache-control", b"no-store")
    of_docs = (b"content-security-policy", DOCS_POLICY.encode())
    return (
        _Fixed([*common, *of_api], frozenset({b"cache-control"})),
        _Fixed([*common, of_docs], frozenset()),
    )


def _request_id(found: dict[bytes, bytes]) -> str:
    given = found.get(b"x-request-id")
    if given is not None and REQUEST_ID.fullmatch(given):
        return given.decode()
    # Names a request in logs and guards nothing, so it need not ask the system for randomness.
    return f"{getrandbits(REQUEST_ID_BITS):012x}"
