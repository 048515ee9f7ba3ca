"""What every command answers with, beside its body."""

from typing import Any, TypeVar

import msgspec
from litestar import Response
from litestar.response.base import ASGIResponse

from commands.transact import Outcome

R = TypeVar("R", bound=msgspec.Struct)

_encoder = msgspec.json.Encoder()


class Answer(Response[Any]):
    """A JSON answer that is encoded once and as it is: Litestar's own looks for encoders,
    cookies and headers of outer layers, of which there are none here, at every request.
    """

    def __init__(self, body: Any, status: int, headers: dict[str, str]) -> None:  # noqa: ANN401
        self.content = body
        self.status_code = status
        self.headers = headers

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        return ASGIResponse(
            body=_encoder.encode(self.content),
            headers=self.headers,
            media_type="application/json",
            status_code=self.status_code,
        )


def accepted(outcome: Outcome[R], body: Any, version: int, status: int) -> Response[Any]:  # noqa: ANN401
    """Tell the new version, and where the store is, so that a client can wait for a read model."""
    headers = {"ETag": f'"{version}"'}
    if outcome.global_position is not None:
        headers["X-Event-Position"] = str(outcome.global_position)
    if outcome.replayed:
        headers["Idempotent-Replayed"] = "true"
    return Answer(body, status, headers)
