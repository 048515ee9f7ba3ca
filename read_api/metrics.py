"""What Prometheus reads."""

from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler

from read_api.asked import ApiRequest
from read_api.auth import PUBLIC

FORMAT = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text exposition."""

Access: TypeAlias = Literal["key", "open", "off"]
"""Who may read them: who may read how the system is, everybody, or nobody."""


class Exposition(msgspec.Struct, frozen=True):
    """Attributes:
    written: Gives the metrics; takes how many live streams this process has.
    """

    access: Access
    written: Callable[[int], Awaitable[bytes]]


def routes(access: Access) -> list[HTTPRouteHandler]:
    if access == "off":
        return []
    opt = {PUBLIC: True} if access == "open" else {"permission": "system:read"}
    return [
        get(
            "/metrics", opt=opt, tags=["health"], summary="For Prometheus", media_type="text/plain"
        )(metrics)
    ]


async def metrics(request: ApiRequest, exposition: NamedDependency[Exposition]) -> Response[bytes]:
    return Response(await exposition.written(request.places.open), headers={"Content-Type": FORMAT})
