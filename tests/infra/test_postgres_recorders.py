"""The `eventsourcing` package's own test classes, unmodified, on our PostgreSQL recorders."""

from typing import Any, ClassVar
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    ProcessRecorder,
    TrackingRecorder,
)
from eventsourcing.postgres import PostgresDatastore
from eventsourcing.tests.persistence import (
    AggregateRecorderTestCase,
    ApplicationRecorderTestCase,
    NonInterleavingNotificationIDsBaseCase,
    ProcessRecorderTestCase,
    TrackingRecorderTestCase,
)

from infra.event_store.postgres_recorders import (
    LogThread,
    PostgresEventProcessor,
    PostgresEventRecorder,
    PostgresEventTracker,
    PostgresStreamRecorder,
)
from infra.postgres.migrations import migrate

NON_INTERLEAVING_REPEATS = 50


@pytest.fixture(autouse=True)
def _a_log_of_its_own(postgres_url: str) -> None:
    OnPostgres.url = postgres_url


class OnPostgres:
    """A migrated database per test."""

    INITIAL_VERSION: ClassVar[int] = 1
    url: ClassVar[str]

    def setUp(self) -> None:
        migrate(self.url)
        self._log = LogThread(self.url)
        self._datastore = _datastore(self.url)

    def tearDown(self) -> None:
        self._datastore.close()
        self._log.close()

    def new_originator_id(self) -> str:
        return f"test-w+{uuid4()}"


def _datastore(url: str) -> PostgresDatastore:
    parts = urlsplit(url)
    return PostgresDatastore(
        dbname=parts.path.lstrip("/"),
        host=parts.hostname or "",
        port=parts.port or 5432,
        user=parts.username or "",
        password=parts.password or "",
        originator_id_type="text",
        single_row_tracking=True,
        pool_size=5,
        max_overflow=20,
    )


class TestAggregateRecorder(OnPostgres, AggregateRecorderTestCase):
    def create_recorder(self) -> AggregateRecorder:
        return PostgresStreamRecorder(self._datastore, self._log)


class TestApplicationRecorder(OnPostgres, ApplicationRecorderTestCase[ApplicationRecorder]):
    def create_recorder(self) -> ApplicationRecorder:
        return PostgresEventRecorder(self._datastore, self._log)


class TestTrackingRecorder(OnPostgres, TrackingRecorderTestCase):
    def create_recorder(self) -> TrackingRecorder:
        return PostgresEventTracker(self._datastore)


class TestProcessRecorder(OnPostgres, ProcessRecorderTestCase):
    def create_recorder(self) -> ProcessRecorder:
        return PostgresEventProcessor(self._datastore, self._log)


@pytest.mark.parametrize("repeat", range(NON_INTERLEAVING_REPEATS))
def test_two_writers_never_interleave(repeat: int) -> None:
    case: Any = _NonInterleaving("test")
    case.setUp()
    try:
        case.test()
    finally:
        case.tearDown()


class _NonInterleaving(OnPostgres, NonInterleavingNotificationIDsBaseCase):
    def create_recorder(self) -> ApplicationRecorder:
        return PostgresEventRecorder(self._datastore, self._log)
