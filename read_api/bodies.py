"""Request bodies, decoded strictly and at once into what a route takes."""

import re
from collections.abc import Iterable
from typing import Any, TypeAlias, cast

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException
from litestar.types import Empty, HTTPReceiveMessage, Receive, WebSocketReceiveMessage

from read_api.errors import BadBody, RequestTooSlow
from read_api.texts import check_body

_PLACE = re.compile(r" - at `\$(?P<path>.*)`$")
_PART = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_UNKNOWN = re.compile(r"unknown field `(?P<name>.*)`")
_MISSING = re.compile(r"missing required field `(?P<name>.*)`")

Container: TypeAlias = dict[str, Any] | list[Any]

DEPTH_MAX = 64
"""Arrays and objects within each other. What is recorded must be readable for ever, by
programs of any language, and from any depth of our own stack."""

SMALL_MAX = 64 * 1024
"""Bytes of a body that servers hand over in one piece."""

_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


class StrictRequest(Request[Any, Any, Any]):
    """Decodes a JSON body into the handler's own type: unlike Litestar's way through plain
    dicts, it turns no text into a number, and names the place of a fault.
    """

    async def body(self) -> bytes:
        """Read the body: a small one that comes in one piece, as nearly all do, without
        Litestar's generators. Any other one is Litestar's, limits and all.
        """
        if self._body is Empty and self._is_small():
            message = cast("HTTPReceiveMessage", await self.receive())
            if message["type"] == "http.request" and not message["more_body"]:
                self._body = self._connection_state.body = message["body"]
                self.is_connected = False
            else:
                self.receive = _beginning_with(message, self.receive)
        try:
            return await super().body()
        except InternalServerException as error:
            # How Litestar says that the client left before its body was whole.
            raise RequestTooSlow("The rest of the body did not come.") from error

    def _is_small(self) -> bool:
        limit = self.route_handler.resolve_request_max_body_size() or SMALL_MAX
        for name, value in self.scope["headers"]:
            if name == b"content-length":
                return value.isdigit() and int(value) <= min(limit, SMALL_MAX)
        return False

    async def json(self) -> Any:  # noqa: ANN401 Litestar's signature
        field = self.route_handler.parsed_data_field
        kind = Any if field is None else field.annotation
        body = await self.body()
        decoder = _decoders.get(kind)
        if decoder is None:
            decoder = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
        try:
            _check_depth(body)
            check_body(body)
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            raise _bad(str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadBody(f"The body is not JSON: {error}", pointer="") from error
        except RecursionError as error:
            raise BadBody(_TOO_DEEP, pointer="") from error


def _beginning_with(first: HTTPReceiveMessage, receive: Receive) -> Receive:
    waiting = [first]

    async def again() -> HTTPReceiveMessage | WebSocketReceiveMessage:
        return waiting.pop() if waiting else await receive()

    return again


def _check_depth(body: bytes) -> None:
    """Refuse what is nested too deep; a body with few brackets is not looked at twice."""
    if body.count(b"[") + body.count(b"{") <= DEPTH_MAX:
        return
    level: list[Container] = [[msgspec.json.decode(body)]]
    for _ in range(DEPTH_MAX + 1):
        level = [child for parent in level for child in _within(parent)]
        if not level:
            return
    raise BadBody(_TOO_DEEP, pointer="")


def _within(parent: Container) -> list[Container]:
    children: Iterable[Any] = parent.values() if isinstance(parent, dict) else parent
    return [child for child in children if type(child) in {dict, list}]


_TOO_DEEP = f"The body is nested too deep: {DEPTH_MAX} levels are allowed."


def _bad(message: str) -> BadBody:
    """Turn msgspec's `… - at $.steps[0].name` into a message and a JSON pointer."""
    place = _PLACE.search(message)
    text = message[: place.start()] if place else message
    parts = [name or number for name, number in _PART.findall(place["path"])] if place else []
    named = _UNKNOWN.search(text) or _MISSING.search(text)
    if named:
        parts.append(named["name"])
    pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)
    return BadBody(text, pointer)
