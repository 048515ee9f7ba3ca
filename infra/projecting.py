"""Applies events to read models: whole batches, and past events that cannot be projected.

A batch that fails is tried again one projector at a time, then in halves, down to the event at
fault. That one, by then tried alone, parks its workspace's slice of that projector: the projector
skips the workspace from there on, and everybody else's events are projected as ever.
"""

import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from domain.catalog import AnyEvent
from domain.events import CommandId, Event, Metadata, Recorded, StreamId, WorkspaceId
from infra.event_store.codec import CannotDecode, Codec, Stored
from infra.failpoints import FailpointReached, failpoint
from infra.read_store import will_pass
from projections.projector import (
    Passed,
    Projector,
    move_checkpoint,
    park,
    project_all,
    standings,
)

ERROR_MAX = 1_000
"""Characters of an error kept beside what it parked."""

log = structlog.get_logger(__name__)


class PartitionLost(Exception):
    """Somebody else projects this partition by now; nothing was written."""


class ProjectorStopped(Exception):
    """A projector cannot write at all, whatever the event."""


class Unreadable(Event, frozen=True, kw_only=True, tag="unreadable"):
    """Stands for an event that today's classes and upcasters cannot read. Never recorded."""

    error: str


class Slice(NamedTuple):
    """Some events of one partition, in order.

    Attributes:
        upto: A position up to which these are all that the partition has.
        guard: Called in each transaction; raises `PartitionLost` to have it undone.
    """

    events: Sequence[Recorded[AnyEvent]]
    partition: int = 0
    upto: int = 0
    guard: Callable[[Connection], None] = lambda _: None


class Applier:
    """Belongs to one thread at a time.

    Attributes:
        failed: Projectors that stopped for a reason that no event is to blame for; restart.
    """

    def __init__(self, engine: Engine, projectors: Sequence[Projector]) -> None:
        self._engine = engine
        self._projectors = tuple(projectors)
        self.failed: dict[str, str] = {}

    @property
    def going(self) -> list[Projector]:
        return [p for p in self._projectors if p.name not in self.failed]

    def standings(self, partition: int = 0) -> dict[str, Passed]:
        """Tell how far each projector is."""
        with self._engine.begin() as connection:
            return standings(connection, [p.name for p in self._projectors], partition)

    def apply(self, part: Slice) -> dict[str, Passed]:
        """Project what is new to each projector; tell how far each is then.

        Raises:
            PartitionLost: It is somebody else's.
            Exception: A fault that passes by itself: see `will_pass`.
        """
        going = self.going
        try:
            return self._write(going, part)
        except Exception as error:
            if _is_ours(error):
                raise
            return self._apart(going, part)

    def _apart(self, going: Sequence[Projector], part: Slice) -> dict[str, Passed]:
        passed: dict[str, Passed] = {}
        for projector in going:
            try:
                passed[projector.name] = self._isolate(projector, part)
            except ProjectorStopped as stopped:
                self.failed[projector.name] = str(stopped)
                log.critical(
                    "a projector has stopped", projector=projector.name, error=str(stopped)
                )
        return passed

    def _isolate(self, projector: Projector, part: Slice) -> Passed:
        """Project into one read model; when that fails, in halves."""
        try:
            return self._write([projector], part)[projector.name]
        except Exception as error:
            if _is_ours(error):
                raise
            if not _is_of_an_event(error):
                at = part.events[0].global_position if part.events else part.upto
                raise ProjectorStopped(f"event {at}: {told(error)}") from error
            if len(part.events) == 1:
                return self._park(projector, part, error)
        half = len(part.events) // 2
        self._isolate(projector, part._replace(events=part.events[:half], upto=0))
        return self._isolate(projector, part._replace(events=part.events[half:]))

    def _write(self, going: Sequence[Projector], part: Slice) -> dict[str, Passed]:
        failpoint("projector.before_apply")
        with self._engine.begin() as connection:
            part.guard(connection)
            _refuse_unreadable(connection, going, part)
            passed = project_all(connection, going, part.events, part.partition, upto=part.upto)
            failpoint("projector.in_transaction")
        failpoint("projector.after_commit")
        return passed

    def _park(self, projector: Projector, part: Slice, error: Exception) -> Passed:
        [recorded] = part.events
        passed = max(recorded.global_position, part.upto)
        with self._engine.begin() as connection:
            part.guard(connection)
            standings(connection, [projector.name], part.partition)
            park(connection, projector.name, recorded, told(error))
            move_checkpoint(connection, projector.name, passed, part.partition)
            failpoint("park.in_transaction")
        failpoint("park.after_commit")
        log.critical(
            "a workspace is parked at an event that cannot be projected",
            projector=projector.name,
            workspace_id=recorded.metadata.workspace_id,
            position=recorded.global_position,
            exc_info=error,
        )
        return self.standings(part.partition)[projector.name]


def _refuse_unreadable(connection: Connection, going: Sequence[Projector], part: Slice) -> None:
    """Fail on an event that nobody can read: a projector cannot know that it may ignore it."""
    broken = [recorded for recorded in part.events if why_unreadable(recorded.event)]
    if not broken:
        return
    for passed in standings(connection, [p.name for p in going], part.partition).values():
        for recorded in broken:
            new = recorded.global_position > passed.position
            if new and recorded.metadata.workspace_id not in passed.parked:
                raise CannotDecode(why_unreadable(recorded.event))


def why_unreadable(event: object) -> str | None:
    return event.error if isinstance(event, Unreadable) else None


def _is_ours(error: Exception) -> bool:
    """Tell a fault that the caller deals with from one of an event or a projector."""
    return isinstance(error, PartitionLost | FailpointReached | MemoryError) or will_pass(error)


def _is_of_an_event(error: Exception) -> bool:
    of_a_database = isinstance(error, DBAPIError | sqlite3.OperationalError)
    return not of_a_database or isinstance(error, DataError | IntegrityError)


def told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:ERROR_MAX].replace("\0", "\ufffd")


def readable(codec: Codec, row: Stored) -> Recorded[AnyEvent]:
    """Decode a row; one that cannot be decoded is stood for by `Unreadable`."""
    try:
        return codec.decode(row)
    except CannotDecode as error:
        event: Any = Unreadable(error=str(error))
        return Recorded(
            event=event,
            event_id="",
            stream_id=StreamId(row.stream_id),
            stream_version=row.stream_version,
            global_position=row.global_position,
            metadata=_metadata(codec, row),
        )


def _metadata(codec: Codec, row: Stored) -> Metadata:
    try:
        return codec.metadata(row.body)
    except CannotDecode:
        return Metadata(
            workspace_id=workspace_of(row),
            actor="",
            correlation_id="",
            command_id=CommandId(""),
            occurred_at=datetime.fromtimestamp(0, UTC),
        )


def workspace_of(row: Stored) -> WorkspaceId:
    """Tell a row's workspace from its stream's name, `category-workspace+entity`."""
    return WorkspaceId(row.stream_id.partition("-")[2].partition("+")[0])
