"""The newest rows of a log, for the one who follows it: what was just written is not read back."""

from collections.abc import Sequence

from infra.event_store.codec import Stored
from infra.event_store.lane import NewRow

TAIL_ROWS_MAX = 4_000
TAIL_BYTES_MAX = 8 * 1024 * 1024


class Tail:
    """Rows without a gap between them, each kept until it has been taken once.

    What is not here (older rows, those of other processes, those dropped at a bound) is to be
    read from the log.
    """

    def __init__(self) -> None:
        self._rows: list[Stored] = []
        self._bytes = 0

    def add(self, positions: Sequence[int], rows: Sequence[NewRow]) -> None:
        """Keep rows that have just been committed at these positions."""
        if self._rows and self._rows[-1].global_position + 1 != positions[0]:
            self._drop()
        self._rows += [
            Stored(position, row.stream_id, row.stream_version, row.tag, row.body)
            for position, row in zip(positions, rows, strict=True)
        ]
        self._bytes += sum(len(row.body) for row in rows)
        if len(self._rows) > TAIL_ROWS_MAX or self._bytes > TAIL_BYTES_MAX:
            self._drop()

    def take(self, *, after: int, limit: int) -> list[Stored]:
        """Give the rows right behind a position, or none if they are not here."""
        begin = after + 1 - self._rows[0].global_position if self._rows else -1
        if not 0 <= begin < len(self._rows):
            return []
        self._bytes -= sum(len(row.body) for row in self._rows[:begin])
        del self._rows[:begin]
        return self._rows[:limit]

    def _drop(self) -> None:
        self._rows, self._bytes = [], 0
