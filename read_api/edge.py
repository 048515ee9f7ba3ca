"""The outermost layer: every request gets an id, every answer its security headers."""

import re
from logging import DEBUG
from random import getrandbits
from time import perf_counter

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{1,64}$")
"""A foreign request id in any other form is replaced: it would end up in logs."""

REQUEST_ID_BITS = 48
"""Spelled as 12 hex digits, the original's form."""

SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
API_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
DOCS_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'"
)
DOCS_PATH = "/docs"

OF_API = [
    *SECURITY_HEADERS,
    (b"content-security-policy", API_POLICY.encode()),
    (b"cache-control", b"no-store"),
]
OF_DOCS = [*SECURITY_HEADERS, (b"content-security-policy", DOCS_POLICY.encode())]
REPLACED = frozenset({b"cache-control"})

log = structlog.get_logger("access")


def edge(app: ASGIApp) -> ASGIApp:
    """Wrap the whole application. A plain ASGI layer, because it is on every hot path."""
    # Bound once: the proxy that `get_logger` gives binds anew at every look.
    access = log.bind()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope["state"]["request_id"] = request_id
        await app(scope, receive, _finishing(scope, send, request_id, access))

    return handle


def _finishing(
    scope: Scope, send: Send, request_id: str, access: structlog.typing.FilteringBoundLogger
) -> Send:
    began = perf_counter()
    fixed = OF_DOCS if scope["path"].startswith(DOCS_PATH) else OF_API

    async def finish(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [h for h in message["headers"] if fixed is OF_DOCS or h[0] not in REPLACED]
            message["headers"] = [*own, (b"x-request-id", request_id.encode()), *fixed]
            if access.is_enabled_for(DEBUG):
                access.debug(
                    "request",
                    method=scope["method"],  # type: ignore[typeddict-item]
                    path=scope["path"],
                    status=message["status"],
                    ms=round((perf_counter() - began) * 1000, 1),
                    request_id=request_id,
                )
        await send(message)

    return finish


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.match(value):
            return value.decode()
    # Names a request in logs and guards nothing, so it need not ask the system for randomness.
    return f"{getrandbits(REQUEST_ID_BITS):012x}"
