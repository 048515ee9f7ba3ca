"""Reading JSON whose shape is only hoped for."""

from typing import cast

import msgspec

from domain.events import JsonObject


def decode_object(data: bytes) -> JsonObject | None:
    """None when it is anything else than a JSON object in UTF-8."""
    try:
        return msgspec.json.decode(data, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def as_object(value: object) -> JsonObject:
    return cast("JsonObject", value) if isinstance(value, dict) else {}


def as_objects(value: object) -> list[JsonObject]:
    return (
        [as_object(item) for item in cast("list[object]", value)] if isinstance(value, list) else []
    )


def as_text(value: object) -> str:
    return value if isinstance(value, str) else ""
