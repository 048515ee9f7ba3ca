"""What every slice shares: the event base, stream ids, and the recorded envelope."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Annotated, ClassVar, Generic, NewType, TypeAlias, TypeVar

import msgspec

WorkspaceId = NewType("WorkspaceId", str)
StreamId = NewType("StreamId", str)
CommandId = NewType("CommandId", str)

PLATFORM_WORKSPACE = WorkspaceId("00000000-0000-0000-0000-000000000000")
"""Reserved for facts about the installation itself; no tenant may have it."""

T = TypeVar("T")
Personal: TypeAlias = Annotated[T, msgspec.Meta(extra={"personal": True})]
"""Marks an event field as personal data, or a secret: the codec stores it sealed with its subject's
key."""

JsonObject: TypeAlias = dict[str, object]
"""A JSON object whose shape is its author's business, kept and given back as it came."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", gc=False):
    """A fact, in the past tense. Never changed or removed once recorded.

    The `tag` is the stored name: renaming a class is free, changing a tag is
    a migration. New fields need a default; anything else needs an upcaster
    and a higher `schema_version`.

    Attributes:
        subject_field: Names the field that tells whose personal data the
            event holds. An event with a `Personal` field must set it.
    """

    schema_version: ClassVar[int] = 1
    subject_field: ClassVar[str] = ""

    @classmethod
    def tag(cls) -> str:
        return str(cls.__struct_config__.tag)


class Blob(msgspec.Struct, frozen=True):
    """Where a text too long or too private for an event lies.

    Attributes:
        address: HMAC-SHA-256 of the content under the workspace's key, hex:
            equal texts of one workspace share it, and nobody without the key
            can test a guess against it.
        size: Bytes of the content, UTF-8.
    """

    address: str
    size: int


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """Who and why, kept beside the fact and never read by a decision.

    Attributes:
        actor: Who asked: `key:<id>`, `cli:<command>` or `process:<name>`.
        command_id: Shared by all events one command recorded.
        occurred_at: UTC; never earlier than the event before it in its stream.
    """

    workspace_id: WorkspaceId
    actor: str
    correlation_id: str
    command_id: CommandId
    occurred_at: datetime
    causation_id: str | None = None


E = TypeVar("E", bound=Event)
S = TypeVar("S")
E_co = TypeVar("E_co", bound=Event, covariant=True)


class Recorded(msgspec.Struct, Generic[E_co], frozen=True, kw_only=True):
    """An event as the store gives it back.

    Attributes:
        event_id: UUIDv7, unique over all installations.
        stream_version: Position in its stream, 1 for the first event.
        global_position: Position among all events of all streams, ascending
            in commit order.
        schema_version: Shape under which the event was stored.
    """

    event: E_co
    event_id: str
    stream_id: StreamId
    stream_version: int
    global_position: int
    metadata: Metadata
    schema_version: int = 1


@dataclass(frozen=True, slots=True)
class Aggregate(Generic[S, E]):
    """A stream category and how to fold one of its streams into a state."""

    category: str
    initial: S
    evolve: Callable[[S, E], S]

    def stream_id(self, workspace_id: WorkspaceId, entity_id: int | str) -> StreamId:
        """Name a stream `category-tenant+entity`, the message-db convention."""
        return StreamId(f"{self.category}-{workspace_id}+{entity_id}")

    def fold(self, events: Iterable[E], state: S | None = None) -> S:
        return reduce(self.evolve, events, self.initial if state is None else state)
