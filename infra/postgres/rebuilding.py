"""Rebuilding a read model in PostgreSQL, as the owner of its tables."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, Table, create_engine

from infra.postgres.connections import sqlalchemy_url
from infra.postgres.migrations import EVERY_WORKSPACE, WORKSPACE_SETTING, secure
from infra.read_store import Log, rebuild
from projections.projector import Projector

REBUILD_LOCK = 727_003
"""Advisory lock of whoever rebuilds; 727001 is the log's own, 727002 the migration's."""

LOCK_TIMEOUT_S = 10
"""How long the swap waits for readers of the old table, who wait behind it as long."""


class RebuildIsUnderWay(Exception):
    """Another process rebuilds a read model of this database."""


class InDatabase:
    """Implements `infra.read_store.Ground`."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions

    def hold(self, connection: Connection) -> None:
        # Readers of checkpoints go on. Whoever projects locks a row first, and waits here.
        connection.exec_driver_sql("LOCK TABLE checkpoints IN EXCLUSIVE MODE")

    def settle(self, connection: Connection, table: Table) -> None:
        _rename_key(connection, table.name)
        for index in table.indexes:
            index.create(connection)
        secure(connection, table)


def _rename_key(connection: Connection, name: str) -> None:
    """Give the primary key the live one's name, so that the next rebuild's can have its own."""
    found = connection.exec_driver_sql(
        "SELECT conname FROM pg_constraint WHERE contype = 'p' AND conrelid = to_regclass(%s)",
        (f'"{name}"',),
    ).scalar_one()
    connection.exec_driver_sql(f'ALTER TABLE "{name}" RENAME CONSTRAINT "{found}" TO "{name}_pkey"')


def open_owner_engine(url: str) -> Engine:
    """Open the database as who made the tables: `automatos_app` may not make any."""
    options = f"-c {WORKSPACE_SETTING}={EVERY_WORKSPACE} -c lock_timeout={LOCK_TIMEOUT_S}s"
    return create_engine(sqlalchemy_url(url), connect_args={"options": options})


async def rebuild_in_database(
    log: Log,
    url: str,
    projector: Projector,
    partitions: int,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> int:
    """Do as `infra.read_store.rebuild` does, beside any number of projectors and readers.

    Raises:
        RebuildIsUnderWay: Nothing was changed.
    """
    engine = open_owner_engine(url)
    try:
        with _alone(engine):
            ground = InDatabase(partitions)
            return await rebuild(log, engine, projector, on_progress, ground=ground)
    finally:
        engine.dispose()


@contextmanager
def _alone(engine: Engine) -> Generator[None]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        taken = connection.exec_driver_sql("SELECT pg_try_advisory_lock(%s)", (REBUILD_LOCK,))
        if not taken.scalar_one():
            raise RebuildIsUnderWay("Another rebuild is under way. Wait until it has ended.")
        yield
