"""What an event looks like at rest: JSON that an auditor can read."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar, get_args

import msgspec

from commands.transact import UnreadableEvent
from domain.catalog import EVENT_TYPES, AnyEvent
from domain.events import Event, JsonObject, Metadata, Recorded, StreamId, WorkspaceId
from domain.upcasters import UPCASTERS, Upcasters, upcast
from infra.vault import Vault

E = TypeVar("E", bound=Event)


class Stored(NamedTuple):
    """A row of the log."""

    global_position: int
    stream_id: str
    stream_version: int
    tag: str
    body: bytes


class _Body(msgspec.Struct, Generic[E], frozen=True, gc=False):
    """What goes into the `state` column.

    The metadata's fields stand beside the event, so that one look at a row tells all.
    """

    event: E
    event_id: str
    schema_version: int
    metadata: Metadata


class _Old(msgspec.Struct, frozen=True):
    event: JsonObject
    event_id: str
    schema_version: int
    metadata: Metadata


class _EventOnly(msgspec.Struct, frozen=True, gc=False):
    event: AnyEvent
    schema_version: int


class _TagOnly(msgspec.Struct, frozen=True):
    type: str


class _Aged(msgspec.Struct, frozen=True):
    event: _TagOnly


class _MetadataOnly(msgspec.Struct, frozen=True):
    metadata: Metadata


class CannotDecode(UnreadableEvent):
    """A stored event that today's classes and upcasters cannot read."""


_UNREADABLE = (msgspec.MsgspecError, ValueError, KeyError, RecursionError)
"""What decoding raises where the bytes are to blame."""


class Codec:
    """Encodes events for the log and back. Personal fields are sealed on the way in
    and stay sealed on the way out: whoever may see them opens them.
    """

    def __init__(
        self,
        vault: Vault,
        *,
        upcasters: Upcasters = UPCASTERS,
        types: Mapping[str, type[Event]] = EVENT_TYPES,
    ) -> None:
        self._vault = vault
        self._upcasters = upcasters
        self._aged = {tag for tag, _ in upcasters}
        self._tags = frozenset(types)
        self._newest = _newest(types, upcasters)
        self._personal = {kind: personal_fields(kind) for kind in types.values()}
        self._encoder = msgspec.json.Encoder()
        self._whole = msgspec.json.Decoder(_Body[AnyEvent])
        self._event = msgspec.json.Decoder(_EventOnly)
        self._metadata = msgspec.json.Decoder(_MetadataOnly)
        self._tag = msgspec.json.Decoder(_Aged)
        self._old = msgspec.json.Decoder(_Old)

    def encode(self, event: Event, event_id: str, metadata: Metadata) -> bytes:
        personal = self._personal.get(type(event), ())
        if personal:
            event = self._sealed(event, personal, metadata.workspace_id)
        return self._encoder.encode(_Body(event, event_id, event.schema_version, metadata))

    def decode(self, row: Stored) -> Recorded[AnyEvent]:
        """Read a row back.

        Raises:
            CannotDecode: No class or upcaster fits.
        """
        try:
            aged = row.tag in self._aged
            body = self._upcast(row.body) if aged else _known(self._whole.decode(row.body))
        except _UNREADABLE as error:
            raise _cannot_decode(row, error) from error
        return Recorded(
            event=body.event,
            event_id=body.event_id,
            stream_id=StreamId(row.stream_id),
            stream_version=row.stream_version,
            global_position=row.global_position,
            metadata=body.metadata,
            schema_version=body.schema_version,
        )

    def events(self, bodies: Sequence[bytes]) -> list[AnyEvent]:
        """Read only the events: what folding needs, in half the time.

        Raises:
            CannotDecode: As `decode`, but without the place.
        """
        try:
            if self._aged:
                return [self._decode_any_age(body).event for body in bodies]
            decode = self._event.decode
            return [_known(decode(body)).event for body in bodies]
        except _UNREADABLE as error:
            raise CannotDecode(str(error)) from error

    def metadata(self, body: bytes) -> Metadata:
        try:
            return self._metadata.decode(body).metadata
        except _UNREADABLE as error:
            raise CannotDecode(str(error)) from error

    def tags_of_others(self, kinds: Iterable[type[Event]]) -> frozenset[str]:
        """Name the tags of which no row can be, once it is read, an event of these kinds."""
        return self._tags - self._aged - {kind.tag() for kind in kinds}

    def _decode_any_age(self, body: bytes) -> _EventOnly | _Body[AnyEvent]:
        aged = self._tag.decode(body).event.type in self._aged
        return self._upcast(body) if aged else _known(self._event.decode(body))

    def _upcast(self, body: bytes) -> _Body[AnyEvent]:
        old = self._old.decode(body)
        version = old.schema_version
        if version > self._newest.get(str(old.event["type"]), version):
            raise _newer(version)
        event = msgspec.convert(self._today(old.event, version), type=AnyEvent)
        return _Body(event, old.event_id, version, old.metadata)

    def _today(self, event: JsonObject, version: int) -> JsonObject:
        try:
            return upcast(event, version, self._upcasters)
        except Exception as error:
            # Whatever an upcaster raises, it is the event that cannot be read.
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def _sealed(self, event: E, fields: tuple[str, ...], workspace_id: WorkspaceId) -> E:
        subject = f"{event.subject_field}:{getattr(event, event.subject_field)}"
        sealed = {
            name: self._vault.seal(workspace_id, subject, getattr(event, name)) for name in fields
        }
        return msgspec.structs.replace(event, **sealed)


B = TypeVar("B", _Body[AnyEvent], _EventOnly)


def _known(body: B) -> B:
    """Refuse a shape that only a later release knows: what it means may be something else."""
    if body.schema_version > body.event.schema_version:
        raise _newer(body.schema_version)
    return body


def _newer(version: int) -> ValueError:
    return ValueError(f"Schema version {version} is newer than this release.")


def _newest(types: Mapping[str, type[Event]], upcasters: Upcasters) -> dict[str, int]:
    newest = {tag: kind.schema_version for tag, kind in types.items()}
    for tag, version in upcasters:
        newest[tag] = max(version + 1, newest.get(tag, 0))
    return newest


def _cannot_decode(row: Stored, error: Exception) -> CannotDecode:
    message = f"{row.tag} at {row.global_position}: {error}"
    return CannotDecode(message, row.stream_id, row.global_position)


def personal_fields(kind: type[Event]) -> tuple[str, ...]:
    """Name the fields of an event type that hold personal data."""
    found = tuple(
        field.name
        for field in msgspec.structs.fields(kind)
        if any(
            isinstance(mark, msgspec.Meta) and (mark.extra or {}).get("personal")
            for mark in get_args(field.type)[1:]
        )
    )
    assert not found or kind.subject_field, f"{kind.__name__} must name its subject_field"
    return found
