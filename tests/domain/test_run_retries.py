"""When a step is tried again."""

from datetime import datetime, timedelta

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain import runs
from domain.runs import RETRY_AFTER_MAX, RETRY_DELAY_MAX, RETRY_SPAN_MAX, RUN, RunEvent
from tests.domain.running import CANCELLED, FIRST, NOW, SECOND, STARTED, failed, started, taken


def next_try(
    *events: RunEvent,
    now: datetime = NOW,
    retryable: bool = True,
    retry_after: timedelta | None = None,
    jitter: float = 0.5,
) -> datetime | None:
    return runs.next_try(
        RUN.fold(events), now=now, retryable=retryable, retry_after=retry_after, jitter=jitter
    )


def at_attempt(attempt: int, max_retries: int = 20) -> tuple[RunEvent, ...]:
    patient = msgspec.structs.replace(FIRST, max_retries=max_retries)
    return (started(patient), taken(0, attempt))


@pytest.mark.parametrize(("attempt", "ceiling_s"), [(1, 0.5), (2, 1), (3, 2), (6, 16), (7, 30)])
def test_the_delay_doubles_up_to_its_bound(attempt: int, ceiling_s: float) -> None:
    half = timedelta(seconds=ceiling_s) / 2
    assert next_try(*at_attempt(attempt), jitter=0.5) == NOW + half
    assert next_try(*at_attempt(attempt), jitter=0) == NOW


@for_all(
    attempt=st.integers(1, 10**6),
    jitter=st.floats(0, 1, exclude_max=True),
    retry_after_s=st.none() | st.integers(0, 10**6),
    waited_s=st.integers(0, 300),
)
def test_a_retry_is_neither_in_the_past_nor_beyond_its_bounds(
    attempt: int, jitter: float, retry_after_s: int | None, waited_s: int
) -> None:
    now = NOW + waited_s * SECOND
    retry_after = None if retry_after_s is None else retry_after_s * SECOND
    at = next_try(*at_attempt(attempt, 10**6), now=now, retry_after=retry_after, jitter=jitter)
    bound = RETRY_DELAY_MAX if retry_after is None else RETRY_AFTER_MAX
    if at is None:
        assert now + bound - NOW > RETRY_SPAN_MAX
    else:
        assert now <= at <= now + bound
        assert at - NOW <= RETRY_SPAN_MAX


def test_the_providers_own_wish_comes_first_up_to_a_minute() -> None:
    assert next_try(*at_attempt(1), retry_after=7 * SECOND) == NOW + 7 * SECOND
    assert next_try(*at_attempt(1), retry_after=timedelta(hours=1)) == NOW + 60 * SECOND


def test_no_try_starts_more_than_two_minutes_after_the_first() -> None:
    late = NOW + 119 * SECOND
    assert next_try(*at_attempt(2), now=late, retry_after=SECOND) == NOW + 120 * SECOND
    assert next_try(*at_attempt(2), now=late, retry_after=2 * SECOND) is None


def test_the_span_counts_from_a_steps_first_try() -> None:
    history = (STARTED, taken(), failed(retry_at=NOW), taken(0, 2, at=NOW + 100 * SECOND))
    assert next_try(*history, now=NOW + 100 * SECOND, retry_after=30 * SECOND) is None


def test_a_step_is_tried_once_and_then_as_often_again_as_its_author_says() -> None:
    assert next_try(*at_attempt(2, max_retries=2)) is not None
    assert next_try(*at_attempt(3, max_retries=2)) is None
    assert next_try(*at_attempt(1, max_retries=0)) is None


def test_what_is_not_worth_a_retry_is_not_tried_again() -> None:
    assert next_try(*at_attempt(1), retryable=False) is None
    assert next_try(*at_attempt(1), CANCELLED) is None
    assert next_try(STARTED) is None
    assert next_try(started(), taken()) is None
