"""What was just written is at hand for the follower: whole, in order, or not at all."""

from collections.abc import Iterator
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.event_store import tail as tail_module
from infra.event_store.codec import Stored
from infra.event_store.lane import NewRow
from infra.event_store.tail import TAIL_BYTES_MAX, TAIL_ROWS_MAX, Tail


def row(body: bytes = b"{}") -> NewRow:
    return NewRow("agent-acme+1", 1, "agent_renamed", body, "acme")


def positions(rows: list[Stored]) -> list[int]:
    return [stored.global_position for stored in rows]


def test_a_row_is_told_as_it_was_written() -> None:
    tail = Tail()
    tail.add([7], [row(b'{"n":1}')])
    assert tail.take(after=6, limit=9) == [
        Stored(7, "agent-acme+1", 1, "agent_renamed", b'{"n":1}')
    ]


def test_rows_behind_a_gap_are_left_to_the_log() -> None:
    tail = Tail()
    tail.add([1, 2], [row(), row()])
    tail.add([4], [row()])
    assert tail.take(after=0, limit=9) == []
    assert tail.take(after=2, limit=9) == []
    assert positions(tail.take(after=3, limit=9)) == [4]


@pytest.mark.parametrize(
    ("rows", "size"), [(TAIL_ROWS_MAX + 1, 0), (2, TAIL_BYTES_MAX // 2 + 1)], ids=["rows", "bytes"]
)
def test_what_nobody_takes_is_dropped_at_a_bound(rows: int, size: int) -> None:
    tail = Tail()
    for position in range(1, rows + 1):
        tail.add([position], [row(b"x" * size)])
    assert tail.take(after=0, limit=1) == []
    tail.add([rows + 1], [row()])
    assert positions(tail.take(after=rows, limit=9)) == [rows + 1]


@given(
    sizes=st.lists(st.integers(1, 4), max_size=12),
    skipped=st.sets(st.integers(0, 11)),
    limit=st.integers(1, 5),
    bound=st.integers(1, 9),
)
def test_a_follower_with_a_tail_sees_the_log(
    sizes: list[int], skipped: set[int], limit: int, bound: int
) -> None:
    """Some groups are another process's: they are in the log and not in the tail."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tail_module, "TAIL_ROWS_MAX", bound)
        seen, log = followed(sizes, skipped, limit)
    assert seen == log


def followed(sizes: list[int], skipped: set[int], limit: int) -> tuple[list[int], list[int]]:
    tail, log, seen = Tail(), list[int](), list[int]()
    for n, size in enumerate(sizes):
        group = list(range(len(log) + 1, len(log) + size + 1))
        log += group
        if n not in skipped:
            tail.add(group, [row()] * size)
        if n % 2:
            seen += islice(unseen(tail, log, len(seen), limit), limit)
    while new := list(islice(unseen(tail, log, len(seen), limit), limit)):
        seen += new
    return seen, log


def unseen(tail: Tail, log: list[int], after: int, limit: int) -> Iterator[int]:
    yield from positions(tail.take(after=after, limit=limit)) or log[after:]
