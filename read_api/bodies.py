"""Request bodies, decoded strictly and at once into what a route takes."""

import re
from typing import Any

import msgspec
from litestar import Request

from read_api.errors import BadBody

_PLACE = re.compile(r" - at `\$(?P<path>.*)`$")
_PART = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_UNKNOWN = re.compile(r"unknown field `(?P<name>.*)`")
_MISSING = re.compile(r"missing required field `(?P<name>.*)`")

_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


class StrictRequest(Request[Any, Any, Any]):
    """Decodes a JSON body into the handler's own type: unlike Litestar's way through plain
    dicts, it turns no text into a number, and names the place of a fault.
    """

    async def json(self) -> Any:  # noqa: ANN401 Litestar's signature
        field = self.route_handler.parsed_data_field
        kind = Any if field is None else field.annotation
        body = await self.body()
        decoder = _decoders.get(kind)
        if decoder is None:
            decoder = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            raise _bad(str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadBody(f"The body is not JSON: {error}", pointer="") from error
        except RecursionError as error:
            raise BadBody("The body is nested too deep.", "") from error


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
