"""The outermost layer: every request gets an id, every answer its security headers."""

import re
from collections.abc import Callable
from time import perf_counter
from uuid import uuid4

import structlog
from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{1,64}$")
"""A foreign request id in any other form is replaced: it would end up in logs."""

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
API_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
DOCS_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'"
)
DOCS_PATH = "/docs"

log = structlog.get_logger("access")


def edge(app: ASGIApp) -> ASGIApp:
    """Wrap the whole application. A plain ASGI layer, because it is on every hot path."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope["state"]["request_id"] = request_id
        await app(scope, receive, _finishing(scope, send, request_id, perf_counter))

    return handle


def _finishing(scope: Scope, send: Send, request_id: str, clock: Callable[[], float]) -> Send:
    began = clock()
    of_docs = scope["path"].startswith(DOCS_PATH)

    async def finish(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableScopeHeaders.from_message(message)
            headers["X-Request-ID"] = request_id
            headers["Content-Security-Policy"] = DOCS_POLICY if of_docs else API_POLICY
            if not of_docs:
                headers["Cache-Control"] = "no-store"
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
            log.debug(
                "request",
                method=scope["method"],  # type: ignore[typeddict-item]
                path=scope["path"],
                status=message["status"],
                ms=round((clock() - began) * 1000, 1),
                request_id=request_id,
            )
        await send(message)

    return finish


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.match(value):
            return value.decode()
    return uuid4().hex[:12]
