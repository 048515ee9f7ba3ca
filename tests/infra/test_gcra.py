"""A limit lets through what it says, at once and over time, and says when there is more."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from infra import gcra
from read_api.limits import Ask, Rate

RATES = st.builds(Rate, st.integers(1, 1_000), st.sampled_from([1, 60, 3_600, 86_400]))
NOW = 1_800_000_000 * gcra.SECOND


def passed(rate: Rate, moments: Sequence[int]) -> list[int]:
    """Give the moments at which a request passes."""
    full_at, found = 0, list[int]()
    for now in moments:
        taken = gcra.take(rate, full_at, now)
        if taken.allowed:
            full_at = taken.full_at
            found.append(now)
    return found


@given(RATES)
def test_as_many_as_the_limit_pass_at_once_and_no_more(rate: Rate) -> None:
    assert len(passed(rate, [NOW] * (rate.limit + 10))) == rate.limit


@given(RATES, st.lists(st.integers(0, 10**7), max_size=200))
def test_in_any_time_no_more_pass_than_the_limit_and_one_for_each_share(
    rate: Rate, gaps: list[int]
) -> None:
    moments = [NOW]
    for gap in gaps:
        moments.append(moments[-1] + gap)
    found = passed(rate, moments)
    for first, begin in enumerate(found):
        for last, end in enumerate(found[first:], start=1):
            assert last <= rate.limit + (end - begin) // gcra.share(rate)


@given(RATES, st.integers(0, 10**6))
def test_who_comes_back_when_told_passes_and_not_a_second_before(rate: Rate, early: int) -> None:
    ask = Ask("p", "s", rate)
    full_at = 0
    for _ in range(rate.limit):
        full_at = gcra.take(rate, full_at, NOW).full_at
    verdict = gcra.verdict([ask], [gcra.take(rate, full_at, NOW).full_at], NOW)
    assert not verdict.allowed
    assert gcra.take(rate, full_at, NOW + verdict.retry_s * gcra.SECOND).allowed
    before = NOW + (verdict.retry_s - 1) * gcra.SECOND - early
    assert not gcra.take(rate, full_at, before).allowed or verdict.retry_s == 0


@given(RATES, st.integers(1, 1_000))
def test_what_remains_is_what_still_passes(rate: Rate, taken: int) -> None:
    ask, full_at = Ask("p", "s", rate), 0
    for _ in range(min(taken, rate.limit)):
        found = gcra.take(rate, full_at, NOW)
        full_at = found.full_at
    verdict = gcra.verdict([ask], [full_at], NOW)
    assert verdict.remaining == rate.limit - min(taken, rate.limit)
    after = NOW + verdict.full_s * gcra.SECOND
    assert len(passed(rate, [after] * (rate.limit + 1))) == rate.limit


def test_of_several_the_one_that_is_over_decides_else_the_one_with_least_left() -> None:
    many, few = Ask("many", "s", Rate(100, 60)), Ask("few", "s", Rate(2, 60))
    once = [gcra.take(ask.rate, 0, NOW).full_at for ask in (many, few)]
    verdict = gcra.verdict([many, few], once, NOW)
    assert (verdict.ask, verdict.allowed, verdict.remaining) == (few, True, 1)
    over = gcra.take(few.rate, gcra.take(few.rate, once[1], NOW).full_at, NOW).full_at
    assert gcra.verdict([many, few], [once[0], over], NOW).ask == few
    assert not gcra.verdict([many, few], [once[0], over], NOW).allowed


def test_a_verdict_is_told_as_the_draft_spells_it() -> None:
    ask = Ask("writes", "s", Rate(60, 60))
    told = gcra.verdict([ask], [gcra.take(ask.rate, 0, NOW).full_at], NOW).headers()
    assert told == {"RateLimit-Policy": '"writes";q=60;w=60', "RateLimit": '"writes";r=59;t=1'}
