"""Parked workspaces: which there are, and how one gets its read model back.

What a workspace has recorded since is projected a page at a time, each in one transaction with
the row that parked it and under the lock on the checkpoint: so no projector skips, or repeats, an
event meanwhile.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import structlog
from sqlalchemy import Connection, Engine, select, update

from domain.audit import AUDIT, ParkedEventSkipped
from domain.catalog import AnyEvent
from domain.events import Recorded, WorkspaceId
from infra.event_store.codec import Codec, Stored
from infra.event_store.store import Log
from infra.event_store.unreadable import concerns, readable, refuse_unreadable
from infra.failpoints import failpoint
from infra.projecting import Applier, Place, is_ours, tell_parked, tries
from infra.read_store import told
from infra.vault import Vault
from projections.projector import Projector, fold, park, parked_slices, standings, unpark
from projections.rows import moment

__all__ = ["Parked", "Place", "Unparker", "bring_back", "leave_out_again", "parked"]

PAGE_MAX = 1_000
"""Events projected in one transaction."""

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Rows(Protocol):
    """The log, as far as a workspace is brought back from it."""

    async def workspace(self, workspace_id: str, *, after: int, limit: int) -> list[Stored]: ...
    async def head(self) -> int: ...


class Run(Protocol):
    """Works on the read models wherever that is done."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


class Parked(NamedTuple):
    """Attributes:
    tries_left: How often it is tried again by itself.
    """

    projector: str
    workspace_id: WorkspaceId
    position: int
    stream_id: str
    error: str
    occurred_at: datetime
    tries_left: int


class Missed(NamedTuple):
    """Attributes:
    upto: A position up to which these are all that the workspace has recorded since.
    """

    rows: Sequence[Stored]
    upto: int


class Fault(NamedTuple):
    recorded: Recorded[AnyEvent]
    error: Exception


def parked(engine: Engine) -> list[Parked]:
    """List what is parked."""
    with engine.begin() as connection:
        found = connection.execute(select(parked_slices).order_by(*parked_slices.primary_key))
        rows = [dict(row) for row in found.mappings()]
    return [Parked(**row)._replace(occurred_at=moment(row["occurred_at"])) for row in rows]


async def bring_back(
    rows: Rows, engine: Engine, place: Place, *, skipped: int | None = None
) -> Parked | None:
    """Do as `Unparker.bring_back` does, here and for an operator."""
    # Personal fields stay sealed, so that no key is needed.
    return await Unparker(rows, engine, Codec(Vault())).bring_back(place, skipped=skipped)


async def leave_out_again(
    log: Log, engine: Engine, projector: Projector, partition: Callable[[WorkspaceId], int]
) -> None:
    """Leave out of a rebuilt read model what operators have left out before."""
    for each in [each for each in parked(engine) if each.projector == projector.name]:
        place = Place(projector, each.workspace_id, partition(each.workspace_id))
        skipped = await _skipped(log, place)
        again: Parked | None = each
        while again is not None and again.position in skipped:
            again = await bring_back(log, engine, place, skipped=again.position)


async def _skipped(log: Log, place: Place) -> set[int]:
    stream_id = AUDIT.stream_id(place.workspace_id, place.projector.name)
    codec, found, after = Codec(Vault()), set[int](), 0
    while rows := await log.stream(stream_id, after=after, limit=PAGE_MAX):
        events = [readable(codec, row).event for row in rows]
        found |= {event.position for event in events if isinstance(event, ParkedEventSkipped)}
        after = rows[-1].stream_version
    return found


async def _here(work: Callable[[], T]) -> T:
    return work()


class Unparker:
    """Args:
    run: Where the read models are worked on; the log is read in the event loop.
    """

    def __init__(self, rows: Rows, engine: Engine, codec: Codec, *, run: Run = _here) -> None:
        self._rows = rows
        self._engine = engine
        self._codec = codec
        self._run = run

    async def try_again(self, applier: Applier) -> bool:
        """Bring back the slices whose time has come, if that works by now; tell if any's had."""
        due = applier.due()
        for place in due:
            again = await self.bring_back(place, by_itself=True)
            applier.waiting.pop(place, None)
            if again is None:
                log.warning(
                    "a parked workspace goes on",
                    projector=place.projector.name,
                    workspace_id=place.workspace_id,
                )
                continue
            if again.tries_left:
                applier.wait(place, again.tries_left)
            tell_parked(place, again.position, again.error, again.tries_left)
        return bool(due)

    async def bring_back(
        self, place: Place, *, skipped: int | None = None, by_itself: bool = False
    ) -> Parked | None:
        """Project what a parked workspace has missed; tell where it is parked again, if it is.

        Args:
            skipped: Position of an event to leave out.
            by_itself: No operator sees to it: what cannot be projected may be tried again.
        """
        # Each lap projects an event at least, or finds that somebody else has.
        while was := await self._run(partial(self._find, place)):
            if by_itself and not was.tries_left:
                return was
            missed = await self._missed(place.workspace_id, was.position)
            chosen = [row for row in missed.rows if row.global_position != skipped]
            lap = partial(self._lap, place, was, missed._replace(rows=chosen), by_itself=by_itself)
            if await self._run(lap):
                return await self._run(partial(self._find, place))
        return None

    def _find(self, place: Place) -> Parked | None:
        wanted = place.projector.name, place.workspace_id
        return next((each for each in parked(self._engine) if each[:2] == wanted), None)

    async def _missed(self, workspace_id: WorkspaceId, since: int) -> Missed:
        head = await self._rows.head()
        rows = await self._rows.workspace(workspace_id, after=since - 1, limit=PAGE_MAX)
        return Missed(rows, head if len(rows) < PAGE_MAX else rows[-1].global_position)

    def _lap(self, place: Place, was: Parked, missed: Missed, *, by_itself: bool) -> bool:
        """Project a page of what was missed; tell whether it is parked again."""
        name, workspace_id = place.projector.name, place.workspace_id
        with self._engine.begin() as connection:
            passed = standings(connection, [name], place.partition)[name]
            if passed.parked.get(workspace_id) != was.position:
                return False
            rows = [row for row in missed.rows if row.global_position <= passed.position]
            fault = _first_fault(connection, place, [readable(self._codec, row) for row in rows])
            if fault is not None:
                left = _tries_left(was, fault) if by_itself else 0
                park(connection, name, fault.recorded, told(fault.error), left)
            elif missed.upto >= passed.position:
                unpark(connection, name, workspace_id)
            else:
                _move(connection, was, missed.upto + 1)
            failpoint("unpark.in_transaction")
        failpoint("unpark.after_commit")
        return fault is not None


def _first_fault(
    connection: Connection, place: Place, events: Sequence[Recorded[AnyEvent]]
) -> Fault | None:
    """Project events up to the first one that cannot be, if there is one."""
    folds = place.projector.folds
    try:
        with connection.begin_nested():
            new = [each for each in events if concerns(each.event, folds)]
            refuse_unreadable(new)
            fold(connection, place.projector, new)
    except Exception as error:
        if is_ours(error) or not events:
            raise
        if len(events) == 1:
            return Fault(events[0], error)
        half = len(events) // 2
        first = _first_fault(connection, place, events[:half])
        return first or _first_fault(connection, place, events[half:])
    return None


def _tries_left(was: Parked, fault: Fault) -> int:
    allowed = tries(fault.error)
    is_the_same = fault.recorded.global_position == was.position
    return min(allowed, was.tries_left - 1) if is_the_same else allowed


def _move(connection: Connection, was: Parked, position: int) -> None:
    here = (
        parked_slices.c.projector == was.projector,
        parked_slices.c.workspace_id == was.workspace_id,
    )
    connection.execute(update(parked_slices).where(*here).values(position=position))
