"""The `eventsourcing` package's recorder interfaces over the production log.

They write through the same lane and the same SQL as every command, so what the
package's own test classes prove of them holds for the log.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from eventsourcing.persistence import IntegrityError, Notification, OperationalError, StoredEvent
from eventsourcing.sqlite import (
    SQLiteAggregateRecorder,
    SQLiteApplicationRecorder,
    SQLiteDatastore,
)

from commands.transact import CommandError
from domain.errors import StreamConflict
from infra.event_store.lane import Append
from infra.event_store.sqlite import SqliteLog, new_row


class SqliteEventRecorder(SQLiteApplicationRecorder):
    """Reads through the package's own connections; writes through the log's lane."""

    def __init__(self, datastore: SQLiteDatastore, log: SqliteLog) -> None:
        super().__init__(datastore)
        self._log = log
        self.select_max_notification_id_statement = (
            f"SELECT MAX(position) FROM {self.events_table_name}"
        )

    def construct_create_table_statements(self) -> list[str]:
        return []  # The log has made its tables.

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        return _write(self._log, stored_events)

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        after = 0 if start is None else start - (1 if inclusive_of_start else 0)
        wanted = f" AND topic IN ({','.join('?' * len(topics))})" if topics else ""
        before = "" if stop is None else " AND position <= ?"
        statement = (
            "SELECT position, originator_id, originator_version, topic, state"
            f" FROM {self.events_table_name} WHERE position > ?{before}{wanted}"
            " ORDER BY position LIMIT ?"
        )
        values = [after, *([] if stop is None else [stop]), *topics, limit]
        with self.datastore.transaction(commit=False) as cursor:
            cursor.execute(statement, values)
            return [self._notification(row) for row in cursor.fetchall()]

    def _notification(self, row: sqlite3.Row) -> Notification:
        return Notification(
            id=row["position"],
            originator_id=self.convert_originator_id(row["originator_id"]),
            originator_version=row["originator_version"],
            topic=row["topic"],
            state=row["state"],
        )


class SqliteStreamRecorder(SQLiteAggregateRecorder):
    """The same log, where only streams are asked for and positions are not told."""

    def __init__(self, datastore: SQLiteDatastore, log: SqliteLog) -> None:
        super().__init__(datastore)
        self._log = log

    def construct_create_table_statements(self) -> list[str]:
        return []  # The log has made its tables.

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> None:
        _write(self._log, stored_events)


def _write(log: SqliteLog, stored_events: Sequence[StoredEvent]) -> list[int] | None:
    if not stored_events:
        return None
    rows = [
        new_row(_text(e.originator_id), e.originator_version, e.topic, e.state)
        for e in stored_events
    ]
    try:
        return log.write(Append(rows))
    except StreamConflict as conflict:
        raise IntegrityError(str(conflict)) from conflict
    except CommandError as error:
        raise OperationalError(str(error)) from error


def _text(originator_id: UUID | str) -> str:
    return originator_id.hex if isinstance(originator_id, UUID) else originator_id
