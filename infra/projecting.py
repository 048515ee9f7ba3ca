"""Applies events to read models: whole batches, and past events that cannot be projected.

A batch that fails is tried again one projector at a time, then in halves, down to the event at
fault. That one, by then tried alone, parks its workspace's slice of that projector: the projector
skips the workspace from there on, and everybody else's events are projected as ever. A slice whose
fault may pass then waits to be tried again, see `infra.parking`; any other one for an operator.
"""

import sqlite3
from collections.abc import Callable, Sequence
from time import monotonic
from typing import NamedTuple

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from domain.catalog import AnyEvent
from domain.events import Recorded, WorkspaceId
from infra.event_store.codec import CannotDecode
from infra.event_store.unreadable import Unreadable, concerns, refuse_unreadable
from infra.failpoints import FailpointReached, failpoint
from infra.read_store import told, will_pass
from projections.projector import (
    Passed,
    Projector,
    move_checkpoint,
    park,
    project_all,
    standings,
    waiting_slices,
)

RETRY_AFTER_S = (1.0, 5.0, 25.0)
"""Pauses before the tries that a slice gets by itself, the first after it was parked."""

log = structlog.get_logger(__name__)

__all__ = [
    "Applier",
    "PartitionLost",
    "Place",
    "ProjectorStopped",
    "Slice",
    "is_ours",
    "tell_parked",
    "tries",
]


class PartitionLost(Exception):
    """Somebody else projects this partition by now; nothing was written."""


class ProjectorStopped(Exception):
    """A projector cannot write at all, whatever the event."""


class Place(NamedTuple):
    """Where a slice is."""

    projector: Projector
    workspace_id: WorkspaceId
    partition: int


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

    Args:
        clock: Tells seconds; it never goes back.

    Attributes:
        failed: Projectors that stopped for a reason that no event is to blame for; restart.
        waiting: Parked slices that are to be tried again, and when.
    """

    def __init__(
        self,
        engine: Engine,
        projectors: Sequence[Projector],
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.engine = engine
        self._projectors = tuple(projectors)
        self._clock = clock
        self.failed: dict[str, str] = {}
        self.waiting: dict[Place, float] = {}

    @property
    def going(self) -> list[Projector]:
        return [p for p in self._projectors if p.name not in self.failed]

    def standings(self, partition: int = 0) -> dict[str, Passed]:
        """Tell how far each projector is."""
        with self.engine.begin() as connection:
            return standings(connection, [p.name for p in self._projectors], partition)

    def take_up(
        self, partition: int = 0, belongs: Callable[[WorkspaceId], bool] = lambda _: True
    ) -> None:
        """Go on with the tries that whoever projected a partition before has left."""
        projectors = {projector.name: projector for projector in self._projectors}
        with self.engine.begin() as connection:
            left = waiting_slices(connection, list(projectors))
        for name, workspace_id, tries_left in left:
            if belongs(workspace_id):
                self.wait(Place(projectors[name], workspace_id, partition), tries_left)

    def put_down(self, partition: int) -> None:
        """Leave a partition's tries to whoever projects it next."""
        self.waiting = {p: at for p, at in self.waiting.items() if p.partition != partition}

    def wait(self, place: Place, tries_left: int) -> None:
        self.waiting[place] = self._clock() + RETRY_AFTER_S[-tries_left]

    def due(self) -> list[Place]:
        """Give the slices whose time has come, each again after a while until it is taken out."""
        now = self._clock()
        found = [place for place, at in self.waiting.items() if at <= now]
        self.waiting.update(dict.fromkeys(found, now + RETRY_AFTER_S[0]))
        return found

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
            if is_ours(error):
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
            if is_ours(error):
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
        with self.engine.begin() as connection:
            part.guard(connection)
            _refuse_unreadable(connection, going, part)
            passed = project_all(connection, going, part.events, part.partition, upto=part.upto)
            failpoint("projector.in_transaction")
        failpoint("projector.after_commit")
        return passed

    def _park(self, projector: Projector, part: Slice, error: Exception) -> Passed:
        [recorded] = part.events
        passed = max(recorded.global_position, part.upto)
        tries_left = tries(error)
        with self.engine.begin() as connection:
            part.guard(connection)
            standings(connection, [projector.name], part.partition)
            park(connection, projector.name, recorded, told(error), tries_left)
            move_checkpoint(connection, projector.name, passed, part.partition)
            failpoint("park.in_transaction")
        failpoint("park.after_commit")
        place = Place(projector, recorded.metadata.workspace_id, part.partition)
        if tries_left:
            self.wait(place, tries_left)
        tell_parked(place, recorded.global_position, told(error), tries_left)
        return self.standings(part.partition)[projector.name]


def tell_parked(place: Place, position: int, error: str, tries_left: int) -> None:
    """Log that a slice is parked: an alert once nobody but an operator can help."""
    where = {"projector": place.projector.name, "workspace_id": place.workspace_id}
    if tries_left:
        log.warning(
            "an event could not be projected; its workspace waits",
            **where,
            position=position,
            error=error,
            tries_left=tries_left,
        )
    else:
        log.error(
            "a workspace is parked at an event that cannot be projected",
            **where,
            position=position,
            error=error,
        )


def tries(error: Exception) -> int:
    """Tell how often a slice is tried again by itself before it waits for an operator.

    Never after what the same event meets each time: bytes that nobody can decode, and a value
    that its column cannot hold.
    """
    is_for_good = isinstance(error, CannotDecode | DataError | OverflowError)
    return 0 if is_for_good else len(RETRY_AFTER_S)


def _refuse_unreadable(connection: Connection, going: Sequence[Projector], part: Slice) -> None:
    """Fail on an event that nobody can read, if a projector might have had to project it."""
    broken = [r for r in part.events if isinstance(_event(r), Unreadable)]
    if not broken:
        return
    passed = standings(connection, [p.name for p in going], part.partition)
    for projector in going:
        before, _, parked = passed[projector.name]
        refuse_unreadable(
            recorded
            for recorded in broken
            if concerns(recorded.event, projector.folds)
            and recorded.global_position > before
            and recorded.metadata.workspace_id not in parked
        )


def _event(recorded: Recorded[AnyEvent]) -> object:
    return recorded.event


def is_ours(error: Exception) -> bool:
    """Tell a fault that the caller deals with from one of an event or a projector."""
    return isinstance(error, PartitionLost | FailpointReached | MemoryError) or will_pass(error)


def _is_of_an_event(error: Exception) -> bool:
    of_a_database = isinstance(error, DBAPIError | sqlite3.OperationalError)
    return not of_a_database or isinstance(error, DataError | IntegrityError)
