"""How a batch is spelt for PostgreSQL, and what its checks there read."""

from collections.abc import Sequence

import psycopg
from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import Transformer
from psycopg.pq import Format

from infra.event_store.postgres_flight import contents, numbers, texts
from infra.postgres.migrations import migrate

TEXTS, CONTENTS, NUMBERS = 1009, 1001, 1016
"""Types of arrays in `pg_type`."""

ROWS = 50
STREAM = "test-w+stream"
INSERT = (
    "INSERT INTO stored_events"
    " SELECT n, %s, n, 't', '{}', 'w' FROM generate_series(%s::bigint, %s) AS n"
)
SCANS = "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'stored_events'"

writable = st.text(st.characters(codec="utf-8"))


def read(type_of_array: int, array: bytes) -> object:
    """What the driver reads in a binary array."""
    return Transformer().get_loader(type_of_array, Format.BINARY).load(array)


@given(st.lists(st.none() | writable))
def test_texts_are_read_as_they_were_given(column: Sequence[str | None]) -> None:
    assert read(TEXTS, texts(column)) == column


@given(st.lists(st.none() | st.binary()))
def test_contents_are_read_as_they_were_given(column: Sequence[bytes | None]) -> None:
    assert read(CONTENTS, contents(column)) == column


@given(st.lists(st.integers(min_value=-(2**63), max_value=2**63 - 1)))
def test_numbers_are_read_as_they_were_given(column: Sequence[int]) -> None:
    assert read(NUMBERS, numbers(column)) == column


def test_looking_for_gaps_never_reads_the_whole_log(postgres_url: str) -> None:
    migrate(postgres_url)
    with psycopg.connect(postgres_url) as connection:
        connection.execute(INSERT, (STREAM, 1, ROWS))
        # Now the planner knows that the table has a single page, which a scan reads at once.
        connection.execute("ANALYZE stored_events")
        for first in range(ROWS + 1, ROWS * 10, ROWS):
            connection.execute(INSERT, (STREAM, first, first + ROWS - 1))
        assert connection.execute(SCANS).fetchone() == (0,)
        connection.execute("SELECT count(*) FROM stored_events WHERE topic = 'none'")
        assert connection.execute(SCANS).fetchone() != (0,)
