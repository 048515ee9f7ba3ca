"""What the log promises, on the oldest PostgreSQL that this machine has: 15 where Debian's is."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from infra.vault import Vault
from tests.contracts import test_event_store as contract
from tests.contracts.conftest import open_store, store
from tests.contracts.stores import KINDS, Open
from tests.infra.test_postgres_log import (
    proxy,
    test_a_schema_of_another_release_is_refused,
    test_an_append_that_is_held_open_is_never_passed,
    test_an_auditor_reads_events_as_json,
    test_migrating_again_and_at_once_changes_nothing,
    test_no_role_can_change_what_was_recorded,
    test_of_a_group_whose_answer_was_lost_every_command_is_told_its_own_result,
    url,
)
from tests.infra.test_postgres_recorders import (
    TestAggregateRecorder,
    TestApplicationRecorder,
    TestProcessRecorder,
    TestTrackingRecorder,
    _a_log_of_its_own,
)
from tests.servers.fixtures import _shared
from tests.servers.postgres import majors, postgres

OLDEST = min(majors(), default=0)

__all__ = [
    "TestAggregateRecorder",
    "TestApplicationRecorder",
    "TestProcessRecorder",
    "TestTrackingRecorder",
    "_a_log_of_its_own",
    "open_store",
    "proxy",
    "store",
    "test_a_schema_of_another_release_is_refused",
    "test_an_append_that_is_held_open_is_never_passed",
    "test_an_auditor_reads_events_as_json",
    "test_migrating_again_and_at_once_changes_nothing",
    "test_no_role_can_change_what_was_recorded",
    "test_of_a_group_whose_answer_was_lost_every_command_is_told_its_own_result",
    "url",
]

globals().update(
    {name: test for name, test in vars(contract).items() if name.startswith("test_")},
)


@pytest.fixture(scope="session")
def postgres_server(servers_folder: Path) -> str:
    """Give another server than the other tests': the run's one of that version."""
    return _shared(servers_folder, f"postgresql-{OLDEST}", postgres, major=OLDEST, fsync=False)


@pytest.fixture
def open_again(request: pytest.FixtureRequest) -> Iterator[Open]:
    with closing(Vault()) as vault:
        yield KINDS["postgres"](vault, request)


def test_the_server_is_of_that_version(postgres_server: str) -> None:
    with psycopg.connect(postgres_server) as connection:
        assert connection.info.server_version // 10_000 == OLDEST
