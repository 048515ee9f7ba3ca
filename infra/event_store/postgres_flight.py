"""A batch's four statements in one flight: they leave together, and so do their answers.

On psycopg's wire functions, below its cursors: through those the same flight takes the process
about twice as long, and the process is what bounds the rate.
"""

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct, pack

import psycopg
from psycopg import AsyncConnection
from psycopg.abc import PQGen
from psycopg.generators import fetch_many, send
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from infra.failpoints import failpoint

BINARY, TEXT = 1, 0
NULL = pack("!i", -1)
INT8_OID, TEXT_OID, BYTEA_OID = 20, 25, 17
"""Of `pg_type`; they never change."""

_LENGTH = Struct("!i").pack
_HEAD = Struct("!iiIii").pack
_EMPTY = Struct("!iiI").pack
_NUMBER = Struct("!iq").pack

NAMES_KEPT = 4_096
"""Encoded tags and workspaces."""

APPEND = b"append_batch"
LOCK = b"lock_log"
STATEMENTS = 4


async def prepare(connection: AsyncConnection, lock: bytes, append: bytes) -> None:
    """Let a connection fly, once, and until it is closed.

    The driver must prepare nothing on it by itself: it would deallocate what is ours as well.
    """
    assert connection.prepare_threshold is None
    await connection.execute(b"PREPARE %b AS %b" % (LOCK, lock))
    await connection.execute(b"PREPARE %b AS %b" % (APPEND, append))


async def fly(connection: AsyncConnection, values: Sequence[bytes]) -> bytes | None:
    """Append under the lock and commit; give the one value that the append returns.

    Args:
        values: Binary arrays.

    Raises:
        psycopg.Error: It failed, or nobody knows. The transaction is still to be rolled back.
    """
    async with connection.lock:
        pgconn = connection.pgconn
        pgconn.enter_pipeline_mode()
        try:
            _queue(pgconn, values)
            answers = await connection.wait(_answers(pgconn))
        finally:
            _leave(pgconn)
    for answer in answers:
        if answer.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            raise psycopg.errors.error_from_result(answer)
    return answers[2].get_value(0, 0)


def _queue(pgconn: PGconn, values: Sequence[bytes]) -> None:
    pgconn.send_query_params(b"BEGIN", None)
    pgconn.send_query_prepared(LOCK, None)
    pgconn.send_query_prepared(APPEND, values, [BINARY] * len(values), TEXT)
    pgconn.send_query_params(b"COMMIT", None)
    pgconn.pipeline_sync()


def _answers(pgconn: PGconn) -> PQGen[list[PGresult]]:
    """Send what is queued, and take the first answer to each of the statements."""
    failpoint("log.before_append")
    yield from send(pgconn)
    failpoint("log.in_flight")
    answers: list[PGresult] = []
    for _ in range(STATEMENTS):
        answers += (yield from fetch_many(pgconn))[:1]
    yield from fetch_many(pgconn)
    return answers


def _leave(pgconn: PGconn) -> None:
    try:
        pgconn.exit_pipeline_mode()
    except psycopg.Error:
        # Cut off in mid-flight: nobody can tell any more which answer belongs to what.
        pgconn.finish()


# Arrays in the binary form of `array_recv` in PostgreSQL's arrayfuncs.c.


def texts(column: Sequence[str | None]) -> bytes:
    """Raises:
    UnicodeError: A text has half of a surrogate pair.
    """
    elements = [
        NULL if text is None else _LENGTH(len(raw := text.encode())) + raw for text in column
    ]
    return _framed(TEXT_OID, elements, nulls=None in column)


def names(column: Sequence[str]) -> bytes:
    """As `texts`, of those that come again and again."""
    return _framed(TEXT_OID, [_name(name) for name in column], nulls=False)


@lru_cache(maxsize=NAMES_KEPT)
def _name(name: str) -> bytes:
    raw = name.encode()
    return _LENGTH(len(raw)) + raw


def contents(column: Sequence[bytes | None]) -> bytes:
    elements = [NULL if value is None else _LENGTH(len(value)) + value for value in column]
    return _framed(BYTEA_OID, elements, nulls=None in column)


def numbers(column: Sequence[int]) -> bytes:
    return _framed(INT8_OID, [_NUMBER(8, number) for number in column], nulls=False)


def _framed(oid: int, elements: Sequence[bytes], *, nulls: bool) -> bytes:
    if not elements:
        return _EMPTY(0, 0, oid)
    return _HEAD(1, nulls, oid, len(elements), 1) + b"".join(elements)
