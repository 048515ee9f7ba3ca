"""Ids that are ordered by time and need nobody to hand them out."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from time import time

from uuid_utils import uuid7

EPOCH_MS = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
COUNTER_BITS = 12


def new_uuid() -> str:
    """Make a UUIDv7 (RFC 9562)."""
    return str(uuid7())


class IntegerIds:
    """Integers below 2^53: 41 bits of milliseconds since 2026, 12 bits of a counter.

    The counter starts at random, so that two processes seldom meet; where they
    do, the store refuses the second one and the command is decided again.
    """

    def __init__(self, now_ms: Callable[[], int] = lambda: int(time() * 1000)) -> None:
        self._now_ms = now_ms
        self._counter = secrets.randbits(COUNTER_BITS)

    def __call__(self) -> int:
        self._counter = (self._counter + 1) % (1 << COUNTER_BITS)
        return ((self._now_ms() - EPOCH_MS) << COUNTER_BITS) | self._counter
