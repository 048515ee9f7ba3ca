"""What every command answers with, beside its body."""

from typing import Any, TypeVar

import msgspec
from litestar import Response

from commands.transact import Outcome

R = TypeVar("R", bound=msgspec.Struct)


def accepted(outcome: Outcome[R], body: Any, version: int, status: int) -> Response[Any]:  # noqa: ANN401
    """Tell the new version, and where the store is, so that a client can wait for a read model."""
    headers = {"ETag": f'"{version}"'}
    if outcome.global_position is not None:
        headers["X-Event-Position"] = str(outcome.global_position)
    if outcome.replayed:
        headers["Idempotent-Replayed"] = "true"
    return Response(body, status_code=status, headers=headers)
