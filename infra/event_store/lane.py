"""Group commit: one thread writes, and each of its transactions takes all that waits.

There is no timer: while one batch is being written the next one gathers.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeAlias

from commands.transact import Command, SealedBlob, StorageUnavailable
from domain.errors import StreamConflict

BATCH_ROWS_MAX = 1_000
"""Events in one transaction; a single append may be larger and then has one of its own."""

CLOSED = "The event store is closed."


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
        tracking: Which notification of another application the package's process recorders
            have processed by this; each only once.
    """

    rows: Sequence[NewRow]
    command: Command | None = None
    blobs: Sequence[SealedBlob] = ()
    tracking: tuple[str, int] | None = None


class AlreadyTracked(Exception):
    """A notification was processed before."""


Written: TypeAlias = list[int] | Exception
"""Global positions of an append's rows, or why nothing of it was written."""

Deliver: TypeAlias = Callable[[list[Written]], None]
"""Takes the fates of some appends; what it was not told yet follows, in order."""


class LaneIsClosed(StorageUnavailable):
    """The store is closed, or has failed in a way that only a restart mends."""


def first_conflict(
    rows: Sequence[NewRow], version_of: Callable[[str], int]
) -> StreamConflict | None:
    """Find the first row that does not follow what its stream holds, if there is one."""
    ends: dict[str, int] = {}
    for row in rows:
        end = ends.get(row.stream_id)
        end = version_of(row.stream_id) if end is None else end
        if row.stream_version != end + 1:
            return StreamConflict(row.stream_id, row.stream_version - 1)
        ends[row.stream_id] = row.stream_version
    return None


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
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="event-store-writer", daemon=True)
        self._thread.start()

    def submit(self, appends: Sequence[Append], deliver: Deliver) -> None:
        """Queue appends; `deliver` is called with their fates, mostly in the writing thread."""
        with self._closing:
            if not self._closed:
                for part in _parts(appends):
                    self._queue.put(_Group(part, deliver))
                return
        _refuse(_Group(appends, deliver))

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
        self._close()
        self._thread.join()

    def _close(self) -> None:
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)

    def _run(self) -> None:
        last, failure = False, None
        while not last and failure is None:
            groups, last = self._gather()
            failure = self._write(groups) if groups else None
        if failure is not None:
            self._close()
            self._refuse_the_rest()
            self._on_failure(failure)

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

    def _write(self, groups: list[_Group]) -> Exception | None:
        """Write a batch; tell the failure after which the lane must not go on."""
        failure: Exception | None = None
        written: list[Written]
        appends = [append for group in groups for append in group.appends]
        try:
            written = self._commit(appends)
        except Exception as error:  # noqa: BLE001 this loop owns the thread, and stops it loudly
            failure = error
            written = [error for _ in appends]
        for group in groups:
            own, written = written[: len(group.appends)], written[len(group.appends) :]
            group.deliver(own)
        return failure

    def _refuse_the_rest(self) -> None:
        """Write nothing more after a failure, not even what was queued before it."""
        with suppress(Empty):
            while True:
                group = self._held or self._queue.get_nowait()
                self._held = None
                if group is not None:
                    _refuse(group)


def _refuse(group: _Group) -> None:
    group.deliver([LaneIsClosed(CLOSED) for _ in group.appends])


def _parts(appends: Sequence[Append]) -> Iterator[Sequence[Append]]:
    """Cut where a transaction would become too large."""
    start, rows = 0, 0
    for end, append in enumerate(appends):
        weight = _weight(append)
        if end > start and rows + weight > BATCH_ROWS_MAX:
            yield appends[start:end]
            start, rows = end, 0
        rows += weight
    yield appends[start:]


def _weight(append: Append) -> int:
    return max(1, len(append.rows))


def _rows(group: _Group) -> int:
    return sum(map(_weight, group.appends))
