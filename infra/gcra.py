"""The generic cell rate algorithm: a limit is one number, the moment at which all is there again.

Pure; times are whole microseconds. ITU-T I.371, annex A, as a virtual schedule.
"""

from collections.abc import Sequence
from typing import NamedTuple

from read_api.limits import Ask, Rate, Verdict

SECOND = 1_000_000


class Taken(NamedTuple):
    """Attributes:
    full_at: The moment at which all would be there again, one taken.
    """

    allowed: bool
    full_at: int


def share(rate: Rate) -> int:
    """Tell after how many microseconds one more is there."""
    return max(1, rate.period_s * SECOND // rate.limit)


def take(rate: Rate, full_at: int, now: int) -> Taken:
    """Take one, given the moment at which all are there again: long ago, if never asked before."""
    later = max(full_at, now) + share(rate)
    return Taken(later - now <= rate.period_s * SECOND, later)


def verdict(asks: Sequence[Ask], full_at: Sequence[int], now: int) -> Verdict:
    """Judge what is asked together by the moments, one taken of each."""
    found = [_judged(ask, later, now) for ask, later in zip(asks, full_at, strict=True)]
    return next((v for v in found if not v.allowed), min(found, key=lambda v: v.remaining))


def _judged(ask: Ask, later: int, now: int) -> Verdict:
    over = later - now - ask.rate.period_s * SECOND
    if over > 0:
        return Verdict(ask, allowed=False, remaining=0, full_s=_s(later - now), retry_s=_s(over))
    return Verdict(ask, True, -over // share(ask.rate), _s(later - now), 0)  # noqa: FBT003


def _s(us: int) -> int:
    """Round up: who comes back after so many seconds is not refused again."""
    return -(-us // SECOND)
