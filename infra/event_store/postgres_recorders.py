"""The `eventsourcing` package's recorder interfaces over the production log in PostgreSQL.

They read through a view with the package's column names, and write through the same
committer and the same SQL as every command.
"""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from eventsourcing.persistence import IntegrityError, OperationalError, StoredEvent, Tracking
from eventsourcing.postgres import (
    PostgresAggregateRecorder,
    PostgresApplicationRecorder,
    PostgresDatastore,
    PostgresProcessRecorder,
    PostgresTrackingRecorder,
)
from psycopg.sql import SQL, Identifier

from commands.transact import CommandError
from domain.errors import StreamConflict
from infra.event_store.lane import AlreadyTracked, Append
from infra.event_store.postgres import PostgresLog
from infra.event_store.sqlite import new_row

VIEW = "notifications"


class LogThread:
    """A log on an event loop in a thread of its own, for callers that have none."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._log = self._run(_opened(url))

    def write(self, append: Append) -> list[int]:
        """Raises: Whatever became of it."""
        positions: list[int] = self._run(self._log.write(append))
        return positions

    def close(self) -> None:
        self._run(self._log.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> Any:  # noqa: ANN401 a coroutine, and what it gives
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _opened(url: str) -> PostgresLog:
    return PostgresLog(url)


class PostgresStreamRecorder(PostgresAggregateRecorder):
    """The log, where only streams are asked for and positions are not told."""

    def __init__(self, datastore: PostgresDatastore, log: LogThread) -> None:
        super().__init__(datastore, events_table_name=VIEW)
        self._log = log

    def create_table(self) -> None:
        """Leave it to `automatos migrate`."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> None:
        _write(self._log, stored_events, None)


class PostgresEventRecorder(PostgresApplicationRecorder):
    def __init__(self, datastore: PostgresDatastore, log: LogThread) -> None:
        super().__init__(datastore, events_table_name=VIEW)
        self._log = log

    def create_table(self) -> None:
        """Leave it to `automatos migrate`."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        return _told(self, _write(self._log, stored_events, None))


class PostgresEventTracker(PostgresTrackingRecorder):
    """Tracking alone: the package's own SQL on the migrated table."""

    def create_table(self) -> None:
        """Leave it to `automatos migrate`."""


class PostgresEventProcessor(PostgresProcessRecorder):
    def __init__(self, datastore: PostgresDatastore, log: LogThread) -> None:
        super().__init__(datastore, events_table_name=VIEW)
        self._log = log

    def create_table(self) -> None:
        """Leave it to `automatos migrate`."""

    def insert_events(
        self, stored_events: Sequence[StoredEvent], *, tracking: Tracking | None = None, **_: Any
    ) -> Sequence[int] | None:
        return _told(self, _write(self._log, stored_events, tracking))


def _told(recorder: PostgresApplicationRecorder, positions: list[int] | None) -> list[int] | None:
    """Wake the package's subscriptions after the commit: within it, NOTIFY would serialise."""
    if positions:
        with recorder.datastore.get_connection() as connection, connection.cursor() as cursor:
            cursor.execute(SQL("NOTIFY {}").format(Identifier(recorder.channel_name)))
    return positions


def _write(
    log: LogThread, stored_events: Sequence[StoredEvent], tracking: Tracking | None
) -> list[int] | None:
    if not stored_events and tracking is None:
        return None
    rows = [
        new_row(str(e.originator_id), e.originator_version, e.topic, e.state) for e in stored_events
    ]
    tracked = None if tracking is None else (tracking.application_name, tracking.notification_id)
    try:
        return log.write(Append(rows, tracking=tracked))
    except (StreamConflict, AlreadyTracked) as conflict:
        raise IntegrityError(str(conflict)) from conflict
    except CommandError as error:
        raise OperationalError(str(error)) from error
