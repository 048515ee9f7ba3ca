"""What a row of the log is on Kafka: the stored bytes, and CloudEvents' attributes as headers."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, cast
from urllib.parse import quote

import msgspec
from kafka.partitioner.default import murmur2  # type: ignore[import-untyped]

from domain.events import WorkspaceId
from infra.event_store.codec import Stored
from infra.event_store.unreadable import workspace_of

WORKSPACES_CACHED_MAX = 10_000
"""Workspaces whose partition and source are remembered: hashing is slow in Python."""

DIGITS_MAX = 19
"""Of a 64-bit number."""

Headers = list[tuple[str, bytes]]

_SPECVERSION = ("ce_specversion", b"1.0")
_CONTENT_TYPE = ("content-type", b"application/json")


class MalformedRecord(Exception):
    """A record that the relay cannot have written."""


class Record(NamedTuple):
    """What is sent. The value is the stored body, byte for byte."""

    key: bytes
    value: bytes
    headers: Headers


class Received(NamedTuple):
    """What came back.

    Attributes:
        prev: Position of the event published to the partition before this one, 0 at first:
            who has not seen that one has missed something.
    """

    partition: int
    prev: int
    stored: Stored
    workspace_id: WorkspaceId


UNKNOWN_TIME = "1970-01-01T00:00:00Z"
"""Of a damaged event."""


class _Who(msgspec.Struct, frozen=True, gc=False):
    """Attributes:
    occurred_at: As it is stored, which is RFC 3339.
    """

    workspace_id: str
    correlation_id: str
    occurred_at: str
    causation_id: str | None = None
    traceparent: str | None = None


class About(msgspec.Struct, frozen=True, gc=False):
    """The part of a stored body that headers are made of."""

    event_id: str
    metadata: _Who


_about = msgspec.json.Decoder(About)
_hash = cast("Callable[[bytes], int]", murmur2)


def about(row: Stored) -> About:
    """Read what is said of an event beside the event itself.

    Of a damaged row the log itself still tells the place: it is published like any other, so
    that everybody else's events go on, and who reads it meets the damage.
    """
    try:
        return _about.decode(row.body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        who = _Who(workspace_of(row), correlation_id="", occurred_at=UNKNOWN_TIME)
        return About(event_id=f"damaged-{row.global_position}", metadata=who)


@lru_cache(WORKSPACES_CACHED_MAX)
def partition_of(workspace_id: str, partitions: int) -> int:
    """Tell where a workspace's events are: where any Kafka client puts this key by default."""
    return (_hash(workspace_id.encode()) & 0x7FFFFFFF) % partitions


@lru_cache(WORKSPACES_CACHED_MAX)
def _source(workspace_id: str, category: str) -> bytes:
    return f"/automatos/ws/{quote(workspace_id, safe='')}/{category}".encode()


def record(row: Stored, said: About, prev: int) -> Record:
    """Give a row as it is published.

    Args:
        prev: Position of the event before it in the partition.
    """
    who = said.metadata
    workspace = who.workspace_id.encode()
    headers = [
        _SPECVERSION,
        ("ce_id", said.event_id.encode()),
        ("ce_source", _source(who.workspace_id, row.stream_id.partition("-")[0])),
        ("ce_type", row.tag.encode()),
        ("ce_subject", row.stream_id.encode()),
        ("ce_time", who.occurred_at.encode()),
        _CONTENT_TYPE,
        ("position", b"%d" % row.global_position),
        ("prev", b"%d" % prev),
        ("streamversion", b"%d" % row.stream_version),
        ("workspaceid", workspace),
        ("correlationid", who.correlation_id.encode()),
    ]
    if who.causation_id is not None:
        headers.append(("causationid", who.causation_id.encode()))
    if who.traceparent is not None:
        headers.append(("traceparent", who.traceparent.encode()))
    return Record(workspace, row.body, headers)


def received(
    partition: int, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
) -> Received:
    """Read a record back.

    Raises:
        MalformedRecord: A header or the value is missing, or they contradict each other.
    """
    if key is None or value is None:
        raise MalformedRecord("It has no key, or no value.")
    named = dict(headers)
    position, prev = _number(named, "position"), _number(named, "prev")
    stored = Stored(
        position,
        _text(named, "ce_subject"),
        _number(named, "streamversion"),
        _text(named, "ce_type"),
        value,
    )
    workspace_id = _text(named, "workspaceid")
    if prev >= position:
        raise MalformedRecord(f"It is at {position}, yet comes after {prev}.")
    if workspace_id.encode() != key:
        raise MalformedRecord(f"Its key is not its workspace, {workspace_id!r}.")
    return Received(partition, prev, stored, WorkspaceId(workspace_id))


def _text(headers: Mapping[str, bytes], name: str) -> str:
    try:
        return headers[name].decode()
    except KeyError as error:
        raise MalformedRecord(f"It has no header {name}.") from error
    except UnicodeDecodeError as error:
        raise MalformedRecord(f"Its header {name} is no text.") from error


def _number(headers: Mapping[str, bytes], name: str) -> int:
    text = headers.get(name, b"")
    if not (text.isdigit() and len(text) <= DIGITS_MAX):
        raise MalformedRecord(f"Its header {name} is no position: {text[:DIGITS_MAX]!r}.")
    return int(text)
