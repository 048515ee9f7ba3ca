"""Group commit: what waits while a batch is written goes into the next one."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.event_store.lane import BATCH_ROWS_MAX, Append, Lane, LaneIsClosed, NewRow, Written

WAIT_MAX_S = 30.0
"""Longer than anything here takes, on any machine."""


ROWS = [NewRow("s-w+1", n, "t", b"{}", "w") for n in range(1, 2 * BATCH_ROWS_MAX + 1)]


class Disk:
    """Writes when it is let, breaks when it is told to, and remembers every batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.broken = False
        self.failures: list[Exception] = []
        self._busy = threading.Semaphore(0)
        self._let = threading.Semaphore(0)

    def commit(self, appends: Sequence[Append]) -> list[Written]:
        self._busy.release()
        assert self._let.acquire(timeout=WAIT_MAX_S)
        if self.broken:
            raise OSError("broken")
        self.batches.append([len(append.rows) for append in appends])
        return [[row.stream_version for row in append.rows] for append in appends]

    def wait_until_busy(self) -> None:
        assert self._busy.acquire(timeout=WAIT_MAX_S)

    def let(self, batches: int = 1000) -> None:
        self._let.release(batches)


class Caller:
    """Waits for the fates of what it hands in."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._told = threading.Condition()
        self.fates: list[Written] = []

    def submit(self, *sizes: int) -> None:
        self._lane.submit([sized(size) for size in sizes], self._deliver)

    def wait(self, fates: int) -> list[Written]:
        with self._told:
            assert self._told.wait_for(lambda: len(self.fates) >= fates, WAIT_MAX_S)
        return self.fates

    def _deliver(self, written: list[Written]) -> None:
        with self._told:
            self.fates += written
            self._told.notify_all()


def sized(rows: int) -> Append:
    return Append(ROWS[:rows])


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def lane(disk: Disk) -> Iterator[Lane]:
    with closing(Lane(disk.commit, disk.failures.append)) as lane:
        yield lane
        disk.let()


@pytest.fixture
def caller(lane: Lane) -> Caller:
    return Caller(lane)


def test_what_waits_while_a_batch_is_written_goes_into_the_next(disk: Disk, caller: Caller) -> None:
    caller.submit(1)
    disk.wait_until_busy()
    for size in (2, 3, 4):
        caller.submit(size)
    disk.let()
    assert [len(fate) for fate in caller.wait(4) if isinstance(fate, list)] == [1, 2, 3, 4]
    assert disk.batches == [[1], [2, 3, 4]]


def test_a_batch_has_a_bound(disk: Disk, caller: Caller) -> None:
    caller.submit(1)
    disk.wait_until_busy()
    for size in (BATCH_ROWS_MAX - 1, 1, 1, 0):
        caller.submit(size)
    disk.let()
    caller.wait(5)
    assert disk.batches == [[1], [BATCH_ROWS_MAX - 1, 1], [1, 0]]


def test_an_append_over_the_bound_is_written_alone(disk: Disk, caller: Caller) -> None:
    caller.submit(1)
    disk.wait_until_busy()
    for size in (2, BATCH_ROWS_MAX + 1, 3):
        caller.submit(size)
    disk.let()
    caller.wait(4)
    assert disk.batches == [[1], [2], [BATCH_ROWS_MAX + 1], [3]]


sizes = st.integers(0, 5) | st.integers(0, 2 * BATCH_ROWS_MAX)


@given(st.lists(st.lists(sizes, min_size=1, max_size=8), max_size=8))
def test_everything_is_written_once_in_order_within_the_bound(groups: list[list[int]]) -> None:
    disk = Disk()
    lane = Lane(disk.commit, disk.failures.append)
    caller = Caller(lane)
    caller.submit(1)
    disk.wait_until_busy()
    for group in groups:
        caller.submit(*group)
    disk.let()
    lane.close()
    handed_in = [1, *(size for group in groups for size in group)]
    assert [size for batch in disk.batches for size in batch] == handed_in
    assert [len(fate) for fate in caller.fates if isinstance(fate, list)] == handed_in
    for batch in disk.batches:
        assert len(batch) == 1 or sum(max(1, size) for size in batch) <= BATCH_ROWS_MAX


def test_closing_writes_what_is_queued_and_refuses_what_comes_later(
    disk: Disk, lane: Lane, caller: Caller
) -> None:
    caller.submit(1)
    disk.wait_until_busy()
    caller.submit(2)
    disk.let()
    lane.close()
    caller.submit(3, 4)
    assert caller.fates[:2] == [[1], [1, 2]]
    assert [type(fate) for fate in caller.fates[2:]] == [LaneIsClosed] * 2
    assert disk.failures == []


def test_a_failure_refuses_what_is_queued_and_all_that_comes_later(
    disk: Disk, lane: Lane, caller: Caller
) -> None:
    caller.submit(1, 1)
    disk.wait_until_busy()
    caller.submit(2)
    caller.submit(BATCH_ROWS_MAX)
    disk.broken = True
    disk.let()
    fates = caller.wait(4)
    assert [type(fate) for fate in fates] == [OSError] * 2 + [LaneIsClosed] * 2
    caller.submit(3)
    assert isinstance(caller.wait(5)[-1], LaneIsClosed)
    lane.close()
    assert disk.batches == []
    assert disk.failures == fates[:1]


def test_a_failure_while_closing_is_told_once(disk: Disk, lane: Lane, caller: Caller) -> None:
    disk.broken = True
    caller.submit(1)
    disk.wait_until_busy()
    caller.submit(1)
    with ThreadPoolExecutor() as pool:
        closed = pool.submit(lane.close)
        disk.let()
        closed.result(WAIT_MAX_S)
    assert [type(fate) for fate in caller.fates] == [OSError, LaneIsClosed]
    assert disk.failures == caller.fates[:1]


def test_no_append_is_left_waiting_when_others_close(disk: Disk, lane: Lane) -> None:
    disk.let()

    def write(_: int) -> object:
        try:
            return lane.write(sized(1))
        except LaneIsClosed:
            return None

    with ThreadPoolExecutor(8) as pool:
        writing = pool.map(write, range(200), timeout=WAIT_MAX_S)
        lane.close()
        answers = list(writing)
    assert answers.count([1]) == sum(map(len, disk.batches))
    assert answers.count([1]) + answers.count(None) == 200


def test_writing_from_a_thread_answers_with_the_fate(disk: Disk, lane: Lane) -> None:
    disk.let()
    assert lane.write(sized(3)) == [1, 2, 3]
    disk.broken = True
    with pytest.raises(OSError, match="broken"):
        lane.write(sized(1))
    with pytest.raises(LaneIsClosed):
        lane.write(sized(1))
