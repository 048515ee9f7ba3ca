"""The `eventsourcing` package's own test classes, unmodified, on our recorders."""

import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar
from uuid import uuid4

import pytest
from eventsourcing.persistence import AggregateRecorder, ApplicationRecorder
from eventsourcing.sqlite import SQLiteDatastore
from eventsourcing.tests.persistence import (
    AggregateRecorderTestCase,
    ApplicationRecorderTestCase,
    NonInterleavingNotificationIDsBaseCase,
)

from infra.event_store.recorders import SqliteEventRecorder, SqliteStreamRecorder
from infra.event_store.sqlite import SqliteLog

NON_INTERLEAVING_REPEATS = 50

WAIT_MAX_S = 30.0
"""Longer than a reader takes to notice that it is to stop."""


class OnSqlite:
    """A log in a file of its own per test, closed with it."""

    INITIAL_VERSION: ClassVar[int] = 1

    def setUp(self) -> None:
        self._folder = TemporaryDirectory()
        path = Path(self._folder.name) / "events.db"
        self._log = SqliteLog(path)
        self._datastore = SQLiteDatastore(str(path), originator_id_type="text")
        self._threads = set(threading.enumerate())

    def tearDown(self) -> None:
        # The package's tests leave threads reading: a connection closed under them is a crash.
        for thread in set(threading.enumerate()) - self._threads:
            thread.join(WAIT_MAX_S)
        self._datastore.close()
        self._log.close()
        self._folder.cleanup()

    def new_originator_id(self) -> str:
        return f"test-w+{uuid4()}"


class TestAggregateRecorder(OnSqlite, AggregateRecorderTestCase):
    def create_recorder(self) -> AggregateRecorder:
        return SqliteStreamRecorder(self._datastore, self._log)


class TestApplicationRecorder(OnSqlite, ApplicationRecorderTestCase[ApplicationRecorder]):
    def create_recorder(self) -> ApplicationRecorder:
        return SqliteEventRecorder(self._datastore, self._log)


@pytest.mark.parametrize("repeat", range(NON_INTERLEAVING_REPEATS), scope="class")
class TestRepeats:
    def test_two_writers_never_interleave(self, repeat: int) -> None:
        case = _NonInterleaving("test")
        case.setUp()
        try:
            case.test()
        finally:
            case.tearDown()


class _NonInterleaving(OnSqlite, NonInterleavingNotificationIDsBaseCase):
    def create_recorder(self) -> ApplicationRecorder:
        return SqliteEventRecorder(self._datastore, self._log)
