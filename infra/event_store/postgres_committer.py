"""Two batches of one process under way at most: while they are, the next one gathers."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from infra.event_store.lane import BATCH_ROWS_MAX, CLOSED, Append, Deliver, LaneIsClosed
from infra.event_store.postgres_writer import Writer

WRITERS = 2

BESIDE_MIN = 64
"""Appends that must wait for a batch to leave while another is under way. It then waits at the
log's lock, and the server goes on with it without asking; of fewer, a commit of their own costs
more than the server's pause that it saves."""


class _Group(NamedTuple):
    appends: Sequence[Append]
    deliver: Deliver


class Committer:
    """Belongs to one event loop.

    Args:
        on_failure: Told when the server reports that its data are damaged; nothing is
            written after that.
    """

    def __init__(self, url: str, on_failure: Callable[[Exception], None]) -> None:
        self._writers = [Writer(url, on_failure) for _ in range(WRITERS)]
        self._idle = self._writers.copy()
        self._waiting: deque[_Group] = deque()
        self._committing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def close(self) -> None:
        """Write what waits, then let the connections go."""
        self._closed = True
        while self._committing:
            await asyncio.wait(self._committing)
        for writer in self._writers:
            await writer.close()

    def submit(self, appends: Sequence[Append], deliver: Deliver) -> None:
        """Queue appends; call it in the loop's own thread."""
        if self._closed:
            deliver([LaneIsClosed(CLOSED) for _ in appends])
            return
        self._waiting.append(_Group(appends, deliver))
        groups = self._worth_a_batch(busy=WRITERS - len(self._idle)) if self._idle else []
        if groups:
            commit = self._commit(self._idle.pop(), groups)
            task = asyncio.get_running_loop().create_task(commit)
            self._committing.add(task)
            task.add_done_callback(self._committing.discard)

    async def _commit(self, writer: Writer, groups: list[_Group]) -> None:
        try:
            while groups:
                appends = [append for group in groups for append in group.appends]
                written = await writer.commit(appends)
                for group in groups:
                    own, written = written[: len(group.appends)], written[len(group.appends) :]
                    group.deliver(own)
                groups = self._worth_a_batch(busy=WRITERS - len(self._idle) - 1)
        finally:
            self._idle.append(writer)

    def _worth_a_batch(self, *, busy: int) -> list[_Group]:
        """Take what waits, if it is enough to leave beside what other writers have under way."""
        waiting = sum(len(group.appends) for group in self._waiting)
        return self._gather() if waiting >= (BESIDE_MIN if busy else 1) else []

    def _gather(self) -> list[_Group]:
        """Take all that waits, within the bound; a group larger than it goes alone."""
        groups = [self._waiting.popleft()]
        rows = _rows_of(groups[0])
        while self._waiting and rows + _rows_of(self._waiting[0]) <= BATCH_ROWS_MAX:
            rows += _rows_of(self._waiting[0])
            groups.append(self._waiting.popleft())
        return groups


def _rows_of(group: _Group) -> int:
    return sum(max(1, len(append.rows)) for append in group.appends)
