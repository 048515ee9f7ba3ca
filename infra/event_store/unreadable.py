"""Rows of the log that nobody can decode: what stands for them where others have to go on."""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any

from domain.catalog import AnyEvent
from domain.events import CommandId, Event, Metadata, Recorded, StreamId, WorkspaceId
from infra.event_store.codec import CannotDecode, Codec, Stored


class Unreadable(Event, frozen=True, kw_only=True, tag="unreadable"):
    """Stands for an event that today's classes and upcasters cannot read. Never recorded.

    Attributes:
        said: What kind of event it is by its row's tag; empty where that tells nothing.
    """

    error: str
    said: str = ""


def readable(codec: Codec, row: Stored) -> Recorded[AnyEvent]:
    """Decode a row; one that cannot be decoded is stood for by `Unreadable`."""
    try:
        return codec.decode(row)
    except CannotDecode as error:
        known = row.tag in codec.tags_of_others(())
        event: Any = Unreadable(error=str(error), said=row.tag if known else "")
        return Recorded(
            event=event,
            event_id="",
            stream_id=StreamId(row.stream_id),
            stream_version=row.stream_version,
            global_position=row.global_position,
            metadata=_metadata(codec, row),
        )


def concerns(event: object, folds: Collection[type[Event]]) -> bool:
    """Tell whether an event is, or may be, one of these kinds."""
    if isinstance(event, Unreadable):
        return not event.said or event.said in {kind.tag() for kind in folds}
    return type(event) in folds


def refuse_unreadable(events: Iterable[Recorded[AnyEvent]]) -> None:
    """Raises:
    CannotDecode: One of them cannot be read.
    """
    for recorded in events:
        event: object = recorded.event
        if isinstance(event, Unreadable):
            raise CannotDecode(event.error)


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
