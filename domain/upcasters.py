"""Old shapes of events, brought up to date as they are read.

An upcaster takes the stored JSON object of one event in one schema version and
returns it in the next one. The stored bytes never change.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from domain.events import JsonObject

Upcaster: TypeAlias = Callable[[JsonObject], JsonObject]
Upcasters: TypeAlias = Mapping[tuple[str, int], Upcaster]

UPCASTERS: Upcasters = {}
"""By stored name and schema version; a pair that is not listed is in today's shape.

Empty so far: every event type is in its first version.
"""

STEPS_MAX = 100
"""Upcasters one event may pass through: a chain that is longer goes in circles."""


def upcast(body: JsonObject, version: int, upcasters: Upcasters = UPCASTERS) -> JsonObject:
    """Bring a stored event up to date. An upcaster may change `type` as well.

    Raises:
        ValueError: The chain does not end.
    """
    for _ in range(STEPS_MAX):
        upcaster = upcasters.get((str(body["type"]), version))
        if upcaster is None:
            return body
        body = upcaster(body)
        version += 1
    raise ValueError(f"The upcasters of {body['type']!r} do not come to an end.")
