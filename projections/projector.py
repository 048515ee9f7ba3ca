"""What a projector is, the rows it writes, and the checkpoint that makes it exactly-once."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    Table,
    Text,
    bindparam,
    select,
)

from domain.catalog import AnyEvent
from domain.events import Event, Recorded, WorkspaceId
from projections.rows import READ_MODELS, AskedRows, Row, Rows, micros

checkpoints = Table(
    "checkpoints",
    READ_MODELS,
    Column("projector", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("global_position", BigInteger, nullable=False),
)

parked_slices = Table(
    "parked_slices",
    READ_MODELS,
    Column("projector", Text, primary_key=True),
    Column("workspace_id", Text, primary_key=True),
    Column("position", BigInteger, nullable=False, comment="of the event at fault"),
    Column("stream_id", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("occurred_at", BigInteger, nullable=False, comment="the event at fault"),
    Column(
        "tries_left",
        Integer,
        nullable=False,
        server_default="0",
        comment="until it waits for an operator",
    ),
)
"""Workspaces whose events a projector skips, from one on that it could not project."""

LOOK_AHEAD_MIN = 4
"""Events from which on a batch first finds out which rows it will ask for: a server that is
elsewhere then answers once, and not once per row."""


class Batch:
    """The rows of all tables that a batch of events touches.

    Args:
        instead: Tables to write in place of others: a rebuild's, beside the live ones.
    """

    def __init__(
        self, connection: Connection, instead: Mapping[Table, Table] | None = None
    ) -> None:
        self._connection = connection
        self._instead = instead or {}
        self._rows: dict[Table, Rows] = {}

    def rows(self, table: Table) -> Rows:
        known = self._rows.get(table)
        if known is None:
            known = self._open(self._instead.get(table, table))
            self._rows[table] = known
        return known

    def _open(self, table: Table) -> Rows:
        return Rows(self._connection, table)

    def look_ahead(self, projector: "Projector", events: Sequence[Recorded[AnyEvent]]) -> None:
        """Fold the events once for nothing, to read at once what they will ask for.

        What depends on what was read is not foreseen, and is read when it is asked for.
        """
        ahead = _Ahead(self._connection)
        for recorded in events:
            projector.project(recorded, ahead)
        for table, keys in ahead.asked():
            self.rows(table).fetch(keys)

    def flush(self) -> None:
        for rows in self._rows.values():
            rows.flush()


class _Ahead(Batch):
    def _open(self, table: Table) -> Rows:
        return AskedRows(self._connection, table)

    def asked(self) -> Iterator[tuple[Table, list[tuple[Any, ...]]]]:
        for table, rows in self._rows.items():
            if isinstance(rows, AskedRows):
                yield table, rows.asked


class Projector(Protocol):
    """Folds events into the tables of one read model.

    It refuses nothing, reads no stream, clock or network, and ignores what it
    does not know: so the same events give the same rows, whenever and wherever.

    Attributes:
        folds: Kinds of events that it does not ignore; it need not be shown any other.
    """

    name: ClassVar[str]
    folds: ClassVar[frozenset[type[Event]]]
    tables: ClassVar[tuple[Table, ...]]

    def project(self, recorded: Recorded[AnyEvent], batch: Batch) -> None: ...


def checkpoint(connection: Connection, projector: str, partition: int = 0) -> int:
    """Tell the last position a projector has passed; 0 if none."""
    found = connection.execute(
        select(checkpoints.c.global_position).where(
            checkpoints.c.projector == projector, checkpoints.c.partition == partition
        )
    )
    return found.scalar() or 0


def move_checkpoint(
    connection: Connection, projector: str, position: int, partition: int = 0
) -> None:
    rows = Rows(connection, checkpoints)
    rows.put(_checkpoint_row(projector, position, partition))
    rows.flush()


def project(
    connection: Connection, projector: Projector, events: Sequence[Recorded[AnyEvent]]
) -> int:
    """Project what is new of some events; tell the position then passed."""
    return project_all(connection, [projector], events)[projector.name].position


class Passed(NamedTuple):
    """How far a projector has come.

    Attributes:
        touched: One of the events just passed was of a kind that it folds.
        parked: Workspaces whose events it skips, with the position from which on.
    """

    position: int
    touched: bool = False
    parked: Mapping[WorkspaceId, int] = MappingProxyType({})


def project_all(
    connection: Connection,
    projectors: Sequence[Projector],
    events: Sequence[Recorded[AnyEvent]],
    partition: int = 0,
    *,
    upto: int = 0,
) -> dict[str, Passed]:
    """Project into several read models what is new to each; tell the positions then passed.

    Call it in a transaction of its own: checkpoints and rows move together, so
    an event that comes again finds the checkpoint past it and is dropped.

    Args:
        upto: A position up to which these are all that the partition has.
    """
    last = max(upto, events[-1].global_position if events else 0)
    passed = standings(connection, [p.name for p in projectors], partition)
    moved = Rows(connection, checkpoints)
    for projector in projectors:
        name, (before, _, parked) = projector.name, passed[projector.name]
        if last <= before:
            continue
        new = [
            recorded
            for recorded in events
            if type(recorded.event) in projector.folds
            and recorded.global_position > before
            and recorded.metadata.workspace_id not in parked
        ]
        fold(connection, projector, new)
        passed[name] = Passed(last, bool(new), parked)
        moved.put(_checkpoint_row(name, last, partition))
    moved.flush()
    return passed


def fold(
    connection: Connection,
    projector: Projector,
    events: Sequence[Recorded[AnyEvent]],
    instead: Mapping[Table, Table] | None = None,
) -> None:
    """Project events whatever the checkpoint, and write the rows."""
    batch = Batch(connection, instead)
    if len(events) >= LOOK_AHEAD_MIN and connection.dialect.name == "postgresql":
        batch.look_ahead(projector, events)
    for recorded in events:
        projector.project(recorded, batch)
    batch.flush()


def standings(
    connection: Connection, projectors: Sequence[str], partition: int = 0
) -> dict[str, Passed]:
    """Tell how far projectors are, and let nobody else move them until the transaction ends."""
    at = {"names": list(projectors), "partition": partition}
    found = connection.execute(_CHECKPOINTS, at)
    positions = {row.projector: row.global_position for row in found}
    parked: dict[str, dict[WorkspaceId, int]] = {}
    for name, workspace_id, position in connection.execute(_PARKED, at):
        parked.setdefault(name, {})[WorkspaceId(workspace_id)] = position
    return {n: Passed(positions.get(n, 0), parked=parked.get(n, {})) for n in projectors}


_CHECKPOINTS = (
    select(checkpoints.c.projector, checkpoints.c.global_position)
    .where(
        checkpoints.c.partition == bindparam("partition"),
        checkpoints.c.projector.in_(bindparam("names", expanding=True)),
    )
    .order_by(checkpoints.c.projector)
    .with_for_update()
)
_PARKED = select(
    parked_slices.c.projector, parked_slices.c.workspace_id, parked_slices.c.position
).where(parked_slices.c.projector.in_(bindparam("names", expanding=True)))


def waiting_slices(
    connection: Connection, projectors: Sequence[str]
) -> list[tuple[str, WorkspaceId, int]]:
    """List the parked slices that are tried again by themselves, with the tries left."""
    columns = (parked_slices.c.projector, parked_slices.c.workspace_id, parked_slices.c.tries_left)
    waiting = parked_slices.c.tries_left > 0, parked_slices.c.projector.in_(projectors)
    found = connection.execute(select(*columns).where(*waiting).order_by(*columns))
    return [(name, WorkspaceId(workspace_id), left) for name, workspace_id, left in found]


def park(
    connection: Connection,
    projector: str,
    recorded: Recorded[AnyEvent],
    error: str,
    tries_left: int = 0,
) -> None:
    """Have a projector skip a workspace's events from this one on."""
    rows = Rows(connection, parked_slices)
    rows.put(
        {
            "projector": projector,
            "workspace_id": recorded.metadata.workspace_id,
            "position": recorded.global_position,
            "stream_id": recorded.stream_id,
            "error": error,
            "occurred_at": micros(recorded.metadata.occurred_at),
            "tries_left": tries_left,
        }
    )
    rows.flush()


def unpark(connection: Connection, projector: str, workspace_id: WorkspaceId) -> None:
    rows = Rows(connection, parked_slices)
    rows.delete(projector, workspace_id)
    rows.flush()


def _checkpoint_row(projector: str, position: int, partition: int = 0) -> Row:
    return {"projector": projector, "partition": partition, "global_position": position}
