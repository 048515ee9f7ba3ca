"""HEAD: answered as GET is, without the body (RFC 9110, 9.3.2). Litestar leaves it to handlers."""

from typing import Any, Final

from litestar.types import Message, Scope, Send

OF_ANY_PATH: Final = frozenset({"HEAD", "OPTIONS"})
"""Methods that no route names."""

ALLOWED: Final = "allowed"
"""Route option: what OPTIONS answers. Litestar's own answer knows only a path's first handler."""


def as_routed(scope: Scope, send: Send) -> tuple[Scope, Send]:
    """Make of a request with one of these methods one that the routes know."""
    if scope["method"] == "OPTIONS":  # type: ignore[typeddict-item]
        return scope, _telling_all(scope, send)
    # A copy: the server has to know that it was HEAD, to send no body.
    asked: Any = {**scope, "method": "GET"}
    return asked, _without_body(scope, asked, send)


def with_head(allowed: str) -> str:
    """Name HEAD beside GET."""
    named = {method.strip() for method in allowed.split(",")}
    return ", ".join(sorted(named | {"HEAD"} if "GET" in named else named))


def _telling_all(scope: Any, send: Send) -> Send:  # noqa: ANN401 TypedDicts of many kinds
    async def told(message: Message) -> None:
        if message["type"] == "http.response.start" and "route_handler" in scope:
            allowed = scope["route_handler"].opt.get(ALLOWED)
            if allowed is not None:
                others = [header for header in message["headers"] if header[0] != b"allow"]
                message["headers"] = [*others, (b"allow", allowed.encode())]
        await send(message)

    return told


def _without_body(scope: Any, asked: Any, send: Send) -> Send:  # noqa: ANN401 TypedDicts of many kinds
    async def head_only(message: Message) -> None:
        if message["type"] == "http.response.start":
            if "path_template" in asked:
                scope["path_template"] = asked["path_template"]
            await send(message)
            # At once, since a live stream's body has no end: the stream finds its client gone.
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return head_only
