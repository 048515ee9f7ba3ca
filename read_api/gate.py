"""What no route should see: requests that are no proper ones, and bodies that are too large.

A layer around all routes, so that it holds for those that never read their body.
"""

from collections.abc import Mapping
from typing import Final

from litestar.types import HTTPReceiveMessage, Receive, Scope, WebSocketReceiveMessage

from read_api.errors import (
    TOO_LARGE,
    ApiError,
    BadHeader,
    BodyTooLarge,
    EncodedBody,
    HeadersTooLarge,
    UrlTooLong,
)

HEADERS_BYTES_MAX = 16 * 1024
URL_BYTES_MAX = 8 * 1024

UPLOAD_BYTES_MAX = 50 * 1024 * 1024
UPLOADS: Final = (
    "/api/documents/upload",
    "/api/admin/plugins/upload",
    "/api/documents/templates/upload",
)
"""Paths of larger bodies. A route there says so to Litestar as well, as `request_max_body_size`."""


WATCHED: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"content-encoding",
        b"transfer-encoding",
        b"origin",
        b"access-control-request-method",
        b"x-request-id",
        b"x-api-key",
        b"authorization",
    }
)
"""Headers that concern the layers around the routes: found in one pass."""


def look(scope: Scope) -> tuple[dict[bytes, bytes], int]:
    """Find the watched headers, and how many bytes all of them have."""
    found: dict[bytes, bytes] = {}
    size = 0
    for name, value in scope["headers"]:
        size += len(name) + len(value)
        if name in WATCHED:
            found[name] = value
    return found, size


def fault_of(
    scope: Scope, found: Mapping[bytes, bytes], size: int, body_max: int
) -> ApiError | None:
    """Tell what is wrong with a request, before anything of it is done."""
    if size > HEADERS_BYTES_MAX:
        return HeadersTooLarge(f"Headers have {HEADERS_BYTES_MAX} bytes at most.")
    if len(scope["raw_path"]) + len(scope["query_string"]) > URL_BYTES_MAX:
        return UrlTooLong(f"A URL has {URL_BYTES_MAX} bytes at most.")
    if not found.get(b"host"):
        return BadHeader("Host is needed.", "/header/Host")
    if b"content-encoding" in found and found[b"content-encoding"] != b"identity":
        return EncodedBody("Send the body as it is, not compressed.", "/header/Content-Encoding")
    length = found.get(b"content-length")
    if length is None:
        return None
    if not length.isdigit():
        return BadHeader("Invalid Content-Length header", "/header/Content-Length")
    return _too_large() if int(length) > bytes_max(scope["path"], body_max) else None


def bytes_max(path: str, body_max: int) -> int:
    return UPLOAD_BYTES_MAX if path.startswith(UPLOADS) else body_max


def counted(receive: Receive, most: int) -> Receive:
    """Count a body that does not say how large it is; give no more of it than is allowed."""
    passed = 0

    async def received() -> HTTPReceiveMessage | WebSocketReceiveMessage:
        nonlocal passed
        message = await receive()
        if message["type"] == "http.request":
            passed += len(message["body"])
            if passed > most:
                raise _too_large()
        return message

    return received


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(TOO_LARGE)
