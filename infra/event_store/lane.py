"""Group commit: one thread writes, and each of its transactions takes all that waits.

There is no timer: while one batch is being written the next one gathers.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeAlias

from commands.transact import Command, SealedBlob

BATCH_ROWS_MAX = 1_000
"""Events in one transaction; a single append may be larger and then has one of its own."""


class NewRow(NamedTuple):
    stream_id: str
    stream_version: int
    tag: str
    body: bytes
    workspace_id: str


class Append(NamedTuple):
    """What one command writes: all of it or nothing.

    Attributes:
        command: None for appends without one, as the `eventsourcing` package makes them.
    """

    rows: Sequence[NewRow]
    command: Command | None = None
    blobs: Sequence[SealedBlob] = ()


Written: TypeAlias = list[int] | Exception
"""Global positions of an append's rows, or why nothing of it was written."""

Deliver: TypeAlias = Callable[[list[Written]], None]


class LaneIsClosed(Exception):
    """The store is closed, or has failed in a way that only a restart mends."""


class _Group(NamedTuple):
    appends: Sequence[Append]
    deliver: Deliver


class Lane:
    """Owns the writing thread.

    Args:
        commit: Writes a batch and tells each append's fate. It must not raise
            for a fault of one append; what it raises closes the lane for good.
        on_failure: Told, in the writing thread, why the lane has closed itself.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Append]], list[Written]],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._commit = commit
        self._on_failure = on_failure
        self._queue: SimpleQueue[_Group | None] = SimpleQueue()
        self._held: _Group | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="event-store-writer", daemon=True)
        self._thread.start()

    def submit(self, appends: Sequence[Append], deliver: Deliver) -> None:
        """Queue appends; `deliver` is called in the writing thread with their fates."""
        if self._closed:
            deliver([LaneIsClosed("The event store is closed.") for _ in appends])
            return
        self._queue.put(_Group(appends, deliver))

    def write(self, append: Append) -> list[int]:
        """Write one append and wait for it, from any thread but the event loop's.

        Raises:
            Exception: Whatever became of it.
        """
        future: Future[list[int]] = Future()

        def deliver(written: list[Written]) -> None:
            fate = written[0]
            if isinstance(fate, Exception):
                future.set_exception(fate)
            else:
                future.set_result(fate)

        self.submit([append], deliver)
        return future.result()

    def close(self) -> None:
        """Write what is queued, then end the thread."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            groups, last = self._gather()
            if groups:
                self._write(groups)
            if last:
                self._refuse_the_rest()
                return

    def _gather(self) -> tuple[list[_Group], bool]:
        """Wait for a group, then take with it all that has come, within the bound."""
        first = self._held or self._queue.get()
        self._held = None
        if first is None:
            return [], True
        groups, rows = [first], _rows(first)
        while rows < BATCH_ROWS_MAX:
            try:
                group = self._queue.get_nowait()
            except Empty:
                break
            if group is None:
                return groups, True
            if rows + _rows(group) > BATCH_ROWS_MAX:
                self._held = group
                break
            groups.append(group)
            rows += _rows(group)
        return groups, False

    def _write(self, groups: list[_Group]) -> None:
        appends = [append for group in groups for append in group.appends]
        try:
            written = self._commit(appends)
        except Exception as error:  # noqa: BLE001 this loop owns the thread, and stops it loudly
            self._closed = True
            written = [error for _ in appends]
            self._queue.put(None)
            self._on_failure(error)
        for group in groups:
            own, written = written[: len(group.appends)], written[len(group.appends) :]
            group.deliver(own)

    def _refuse_the_rest(self) -> None:
        while True:
            try:
                group = self._held or self._queue.get_nowait()
            except Empty:
                return
            self._held = None
            if group is not None:
                group.deliver([LaneIsClosed("The event store is closed.") for _ in group.appends])


def _rows(group: _Group) -> int:
    return sum(max(1, len(append.rows)) for append in group.appends)
