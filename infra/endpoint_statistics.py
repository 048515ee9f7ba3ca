"""What all processes have counted of endpoints: a table beside the read models, only added to."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import BigInteger, Column, Engine, MetaData, String, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from infra.failpoints import failpoint
from read_api.endpoint_statistics import BUCKETS_MS, Calls, EndpointStatistics

FLUSH_EVERY_S = 5.0
"""How much of the counting a process that is killed may take with it."""

MICROSECONDS = 1_000_000

_metadata = MetaData()
_buckets = [f"within_{bound}_ms" for bound in BUCKETS_MS] + ["longer"]

endpoint_calls = Table(
    "endpoint_calls",
    _metadata,
    Column("endpoint", String, primary_key=True),
    Column("status", BigInteger, primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("total_us", BigInteger, nullable=False),
    Column("min_us", BigInteger, nullable=False),
    Column("max_us", BigInteger, nullable=False),
    Column("last_called_us", BigInteger, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in _buckets),
)
_SUMS = ("calls", "total_us", *_buckets)

log = structlog.get_logger(__name__)


class EndpointTable:
    """Implements `read_api.endpoint_statistics.Totals`, in threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def make(self) -> "EndpointTable":
        """Make the table in a file; in PostgreSQL a migration does."""
        with self._engine.begin() as connection:
            _metadata.create_all(connection)
            failpoint("endpoint_statistics.in_making")
        failpoint("endpoint_statistics.made")
        return self

    def close(self) -> None:
        self._engine.dispose()

    async def add(self, counted: Sequence[Calls]) -> None:
        await asyncio.to_thread(self._add, counted)

    async def all(self) -> list[Calls]:
        return await asyncio.to_thread(self._all)

    def _add(self, counted: Sequence[Calls]) -> None:
        # In one order, so that two processes never wait for each other's rows.
        rows = sorted(map(_row, counted), key=lambda row: (row["endpoint"], row["status"]))
        adding = _adding(self._engine.dialect.name)
        failpoint("endpoint_statistics.before_add")
        with self._engine.begin() as connection:
            connection.execute(adding, rows)
            failpoint("endpoint_statistics.in_transaction")
        failpoint("endpoint_statistics.after_add")

    def _all(self) -> list[Calls]:
        with self._engine.connect() as connection:
            found = connection.execute(select(endpoint_calls)).mappings().all()
        return [
            Calls(
                endpoint=row["endpoint"],
                status=row["status"],
                calls=row["calls"],
                total_us=row["total_us"],
                min_us=row["min_us"],
                max_us=row["max_us"],
                last_called=datetime.fromtimestamp(row["last_called_us"] / MICROSECONDS, UTC),
                buckets=[row[name] for name in _buckets],
            )
            for row in found
        ]


def _row(calls: Calls) -> dict[str, Any]:
    return {
        "endpoint": calls.endpoint,
        "status": calls.status,
        "calls": calls.calls,
        "total_us": calls.total_us,
        "min_us": calls.min_us,
        "max_us": calls.max_us,
        "last_called_us": int(calls.last_called.timestamp() * MICROSECONDS),
        **dict(zip(_buckets, calls.buckets, strict=True)),
    }


def _adding(dialect: str) -> Any:  # noqa: ANN401 two dialects' statements
    """Give the statement that adds rows to those that are there."""
    postgres = dialect == "postgresql"
    insert: Any = (postgresql if postgres else sqlite).insert(endpoint_calls)
    least, most = (func.least, func.greatest) if postgres else (func.min, func.max)
    here, new = endpoint_calls.c, insert.excluded
    changed = {name: here[name] + new[name] for name in _SUMS}
    changed["min_us"] = least(here.min_us, new.min_us)
    changed["max_us"] = most(here.max_us, new.max_us)
    changed["last_called_us"] = most(here.last_called_us, new.last_called_us)
    return insert.on_conflict_do_update(index_elements=["endpoint", "status"], set_=changed)


async def flush_for_ever(statistics: EndpointStatistics) -> None:
    """Add what is counted every few seconds, and a last time when cancelled."""
    try:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            await flushed(statistics)
    finally:
        await flushed(statistics)


async def flushed(statistics: EndpointStatistics) -> None:
    """Add what is counted; if the database does not answer, later."""
    try:
        await statistics.flush()
    except SQLAlchemyError as error:
        log.info("statistics cannot be written yet", error=type(error).__name__)
