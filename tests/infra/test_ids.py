"""Ids that nobody hands out."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from infra.ids import COUNTER_BITS, EPOCH_MS, IntegerIds, new_uuid

PER_MS_MAX = 1 << COUNTER_BITS
LIFETIME_MS = 1 << 41

moments = st.integers(1, LIFETIME_MS - 1)


class Clock:
    def __init__(self, since_epoch_ms: int) -> None:
        self.now_ms = EPOCH_MS + since_epoch_ms

    def __call__(self) -> int:
        return self.now_ms


@given(moments)
def test_an_integer_id_is_positive_and_exact_in_javascript(moment: int) -> None:
    next_id = IntegerIds(Clock(moment))
    assert all(0 < next_id() < 2**53 for _ in range(3))


@given(moments, st.integers(1, LIFETIME_MS))
def test_integer_ids_ascend_with_time(moment: int, later: int) -> None:
    clock = Clock(moment)
    next_id = IntegerIds(clock)
    earlier = [next_id() for _ in range(3)]
    clock.now_ms += later
    assert max(earlier) < next_id()


def test_a_process_repeats_no_integer_id() -> None:
    clock = Clock(1)
    next_id = IntegerIds(clock)
    made: list[int] = []
    for _ in range(3):
        made += [next_id() for _ in range(PER_MS_MAX)]
        clock.now_ms += 1
    assert len(set(made)) == 3 * PER_MS_MAX


def test_two_processes_seldom_begin_with_the_same_id() -> None:
    assert len({IntegerIds(Clock(1))() for _ in range(100)}) > 50


def test_integer_ids_follow_the_real_clock() -> None:
    assert 0 < IntegerIds()() < 2**53


def test_a_uuid_is_of_version_7_and_ascends() -> None:
    made = [UUID(new_uuid()) for _ in range(100)]
    assert {each.version for each in made} == {7}
    assert made == sorted(set(made))
