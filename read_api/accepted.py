"""What every command answers with, beside its body."""

from typing import Any, TypeAlias, TypeVar

import msgspec
from litestar import Response
from litestar.types import (
    ASGIApp,
    HTTPResponseBodyEvent,
    HTTPResponseStartEvent,
    Receive,
    Scope,
    Send,
)

from commands.transact import Outcome

R = TypeVar("R", bound=msgspec.Struct)

Headers: TypeAlias = list[tuple[bytes, bytes]]

_encoder = msgspec.json.Encoder()
_JSON = (b"content-type", b"application/json")


class Answer(Response[Any]):
    """A JSON answer that is encoded once and sent as it is: Litestar's own looks for encoders,
    cookies and headers of outer layers, of which there are none here, at every request.
    """

    def __init__(self, body: Any, status: int, headers: Headers) -> None:  # noqa: ANN401
        self.content = body
        self._raw = headers
        self._status = status

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIApp:  # type: ignore[override]
        async def respond(_scope: Scope, _receive: Receive, send: Send) -> None:
            await self.respond(send)

        return respond

    async def respond(self, send: Send) -> None:
        body = _encoder.encode(self.content)
        headers = [*self._raw, _JSON, (b"content-length", b"%d" % len(body))]
        start: HTTPResponseStartEvent = {
            "type": "http.response.start",
            "status": self._status,
            "headers": headers,
        }
        rest: HTTPResponseBodyEvent = {
            "type": "http.response.body",
            "body": body,
            "more_body": False,
        }
        await send(start)
        await send(rest)


def accepted(
    outcome: Outcome[R],
    body: Any,  # noqa: ANN401
    version: int | None,
    status: int,
) -> Answer:
    """Tell the new version, and where the store is, so that a client can wait for a read model.

    Args:
        version: None where the body is of several things.
    """
    headers = [] if version is None else [(b"etag", b'"%d"' % version)]
    if outcome.global_position is not None:
        headers.append((b"x-event-position", b"%d" % outcome.global_position))
    if outcome.replayed:
        headers.append((b"idempotent-replayed", b"true"))
    return Answer(body, status, headers)
