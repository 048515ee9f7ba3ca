"""No text of a request holds U+0000: PostgreSQL's text cannot, and the two profiles are one API."""

from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import parse_qsl

import msgspec
from litestar import Request
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from read_api.errors import ApiError, BadBody, BadParameter, of_api

HOLDS_NUL = "A text holds U+0000."

_NUL = "\0"
_IN_QUERY = b"%00"
_IN_JSON = rb"\u0000"


def checked(app: ASGIApp) -> ASGIApp:
    """Wrap the whole application: a URL is looked at before its route is looked for."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            fault = fault_in_url(scope["path"], scope["query_string"])
            if fault is not None:
                request = Request[Any, Any, Any](scope)
                answer = of_api(fault).to_response(request)
                respond = answer.to_asgi_response(None, request)  # pyright: ignore[reportUnknownMemberType] its Request
                await respond(scope, receive, send)
                return
        await app(scope, receive, send)

    return handle


def fault_in_url(path: str, query: bytes) -> ApiError | None:
    """Find U+0000 in a path, which is decoded, or in a query, which is not."""
    if _NUL in path:
        return BadParameter(HOLDS_NUL, "/path")
    if _IN_QUERY in query:
        for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
            if _NUL in name + value:
                return BadParameter(HOLDS_NUL, f"/query{_step(name)}")
    return None


def check_body(body: bytes) -> None:
    """Refuse a JSON document with U+0000 in a text or a name; any other costs one search.

    Raises:
        BadBody: It has one.
        msgspec.DecodeError: It is not JSON.
    """
    # The backslash may itself be escaped: then these are six characters, and no U+0000.
    if _IN_JSON in body:
        place = _place(msgspec.json.decode(body))
        if place is not None:
            raise BadBody(HOLDS_NUL, place)


def _place(node: object) -> str | None:
    """Point to the first U+0000. How deep a body is nested is checked before."""
    if isinstance(node, str):
        return "" if _NUL in node else None
    for name, child in _children(node):
        found = "" if _NUL in name else _place(child)
        if found is not None:
            return _step(name) + found
    return None


def _children(node: object) -> Iterable[tuple[str, object]]:
    if isinstance(node, dict):
        return cast("dict[str, object]", node).items()
    if isinstance(node, list):
        return ((str(n), child) for n, child in enumerate(cast("list[object]", node)))
    return ()


def _step(name: str) -> str:
    """Spell a part of a pointer, without what must not be in a text."""
    return "/" + name.replace(_NUL, "").replace("~", "~0").replace("/", "~1")
