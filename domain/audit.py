"""What operators did to read models, in the workspace it was done to."""

from typing import TypeAlias

import msgspec

from domain.errors import Invalid
from domain.events import Aggregate, Event


class ParkedSliceRetried(Event, frozen=True, kw_only=True, tag="parked_slice_retried"):
    """A projector was told to project what it had skipped of the workspace.

    Attributes:
        position: Of the event at which the workspace was parked.
    """

    projector: str
    position: int


class ParkedEventSkipped(Event, frozen=True, kw_only=True, tag="parked_event_skipped"):
    """A projector was told to go on without an event that it cannot project.

    Attributes:
        position: Of the event that is left out.
    """

    projector: str
    position: int
    reason: str


AuditEvent: TypeAlias = ParkedSliceRetried | ParkedEventSkipped


class Trail(msgspec.Struct, frozen=True, tag=True):
    """Nothing is decided on what was done before."""


def evolve(state: Trail, _event: AuditEvent) -> Trail:
    return state


AUDIT: Aggregate[Trail, AuditEvent] = Aggregate(category="audit", initial=Trail(), evolve=evolve)


def retry_slice(_state: Trail, *, projector: str, position: int) -> tuple[AuditEvent, ...]:
    return (ParkedSliceRetried(projector=projector, position=position),)


def skip_event(
    _state: Trail, *, projector: str, position: int, reason: str
) -> tuple[AuditEvent, ...]:
    if not reason.strip():
        raise Invalid("Say why the event is left out.", pointer="/reason")
    return (ParkedEventSkipped(projector=projector, position=position, reason=reason.strip()),)
