"""The short way of a command: from the guard to its handler and back.

Litestar's own way looks, at every request, for dependencies, cookies, caches, hooks and
encoders; a handler of a body alone has none of them. Routing, the limits of bodies, errors
and the documentation stay Litestar's.
"""

from typing import Any, Final

from litestar.types import ASGIApp, Receive, Scope, Send

from read_api.accepted import Answer
from read_api.asked import ApiRequest
from read_api.auth import Admitted
from read_api.view import minimum

SHORT: Final = {"short": True}
"""Route option: the handler takes `data` and `request`, and answers with `accepted`."""


def lane(app: ASGIApp, request_class: type[ApiRequest]) -> ASGIApp:
    """Wrap a route: one marked as short is answered here."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        handler: Any = scope["route_handler"]
        if "short" not in handler.opt:
            _check_minimum(scope)
            await app(scope, receive, send)
            return
        request = request_class(scope, receive, send)
        answer: Answer = await handler.fn(data=await request.json(), request=request)
        await answer.respond(send)

    return handle


def _check_minimum(scope: Any) -> None:  # noqa: ANN401 a TypedDict of two kinds
    """Look at Min-Position even where no read model is read, and every answer holds it.

    Raises:
        BadHeader: It is no position.
    """
    admitted = scope.get("auth")
    if isinstance(admitted, Admitted):
        minimum(admitted.headers.get(b"min-position"))
