"""Events at rest: readable JSON, sealed where personal, brought up to date when read."""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.agents import AgentArchived, AgentId, AgentTagged
from domain.catalog import EVENT_TYPES, AnyEvent
from domain.events import CommandId, Event, JsonObject, Metadata, Personal
from domain.upcasters import STEPS_MAX, Upcasters
from infra.event_store.codec import CannotDecode, Codec, Stored, personal_fields
from infra.vault import Vault
from tests.contracts.stores import ACME, NOON
from tests.strategies import any_event, events_of

SECRET = "Ada Lovelace, 10 December 1815"
PERSONAL = [kind for kind in EVENT_TYPES.values() if personal_fields(kind)]

metadata = st.builds(
    Metadata,
    workspace_id=st.just(ACME),
    actor=st.text(max_size=5),
    correlation_id=st.text(max_size=5),
    command_id=st.text(max_size=5).map(CommandId),
    occurred_at=st.datetimes(timezones=st.just(NOON.tzinfo)),
    causation_id=st.none() | st.text(max_size=5),
)
ABOUT = Metadata(
    workspace_id=ACME, actor="a", correlation_id="c", command_id=CommandId("d"), occurred_at=NOON
)


@pytest.fixture(scope="module")
def vault() -> Iterator[Vault]:
    with closing(Vault()) as vault:
        yield vault


@pytest.fixture(scope="module")
def codec(vault: Vault) -> Codec:
    return Codec(vault)


def stored(tag: str, body: bytes, position: int = 7) -> Stored:
    return Stored(position, "agent-acme+1", 3, tag, body)


def old(event: Mapping[str, object], version: int = 1) -> Stored:
    """Give a row as an earlier release wrote it."""
    body = {
        "event": event,
        "event_id": "e",
        "schema_version": version,
        "metadata": msgspec.to_builtins(ABOUT),
    }
    return stored(str(event["type"]), json.dumps(body).encode())


def opened(event: Any, vault: Vault) -> Any:
    """Open the personal fields of an event."""
    fields = personal_fields(type(event))
    plain = {name: vault.open(ACME, getattr(event, name)) for name in fields}
    return msgspec.structs.replace(event, **plain)


def folded(codec: Codec, row: Stored) -> AnyEvent:
    """Read a row as those do who fold."""
    (only,) = codec.events([row.body])
    return only


# There and back.


@given(any_event(), metadata)
def test_every_event_comes_back_as_it_was(
    codec: Codec, vault: Vault, event: AnyEvent, about: Metadata
) -> None:
    row = stored(event.tag(), codec.encode(event, "id", about))
    recorded = codec.decode(row)
    assert opened(recorded.event, vault) == event
    assert opened(folded(codec, row), vault) == event
    assert recorded.metadata == codec.metadata(row.body) == about
    assert (recorded.event_id, recorded.schema_version) == ("id", event.schema_version)
    place = (recorded.stream_id, recorded.stream_version, recorded.global_position)
    assert place == ("agent-acme+1", 3, 7)


@given(any_event())
def test_a_row_tells_what_happened_to_whoever_reads_json(codec: Codec, event: AnyEvent) -> None:
    body = json.loads(codec.encode(event, "id", ABOUT))
    assert list(body) == ["event", "event_id", "schema_version", "metadata"]
    assert body["event"]["type"] == event.tag()
    assert (body["event_id"], body["schema_version"]) == ("id", 1)
    assert body["metadata"] == msgspec.to_builtins(ABOUT)


# Personal fields.


def test_some_events_are_personal() -> None:
    assert PERSONAL


def test_an_event_with_a_personal_field_must_name_its_subject() -> None:
    class Anonymous(Event, frozen=True, kw_only=True, tag="anonymous"):
        name: Personal[str]

    class Missing(Event, frozen=True, kw_only=True, tag="missing"):
        name: str

    with pytest.raises(AssertionError, match="Anonymous must name its subject_field"):
        personal_fields(Anonymous)
    assert personal_fields(Missing) == ()


@pytest.mark.parametrize("kind", PERSONAL)
@given(data=st.data())
def test_a_personal_field_is_nowhere_in_the_stored_bytes(
    codec: Codec, vault: Vault, kind: type[Event], data: st.DataObject
) -> None:
    event = data.draw(events_of(kind))
    secret = msgspec.structs.replace(event, **dict.fromkeys(personal_fields(kind), SECRET))
    body = codec.encode(secret, "id", ABOUT)
    assert SECRET.encode() not in body
    assert opened(codec.decode(stored(kind.tag(), body)).event, vault) == secret


# Upcasters.


def renamed_field(event: JsonObject) -> JsonObject:
    return {"tags" if key == "labels" else key: value for key, value in event.items()}


def renamed_type(event: JsonObject) -> JsonObject:
    return {**event, "type": "agent_tagged"}


def listed(event: JsonObject) -> JsonObject:
    return {**event, "tags": str(event["tags"]).split()}


@pytest.mark.parametrize(
    ("upcasters", "row"),
    [
        (
            {("agent_tagged", 1): renamed_field},
            old({"type": "agent_tagged", "agent_id": 1, "labels": ["a", "b"]}),
        ),
        (
            {("agent_labelled", 1): renamed_type},
            old({"type": "agent_labelled", "agent_id": 1, "tags": ["a", "b"]}),
        ),
        (
            {
                ("agent_labelled", 1): lambda event: renamed_type(renamed_field(event)),
                ("agent_tagged", 2): listed,
            },
            old({"type": "agent_labelled", "agent_id": 1, "labels": "a b"}),
        ),
        (
            {("agent_tagged", 1): renamed_field},
            old({"type": "agent_tagged", "agent_id": 1, "tags": ["a", "b"]}, version=2),
        ),
    ],
    ids=["renamed field", "renamed type", "chain of two", "already in today's shape"],
)
def test_an_old_event_is_read_in_todays_shape(
    vault: Vault, upcasters: Upcasters, row: Stored
) -> None:
    codec = Codec(vault, upcasters=upcasters)
    wanted = AgentTagged(agent_id=AgentId(1), tags=("a", "b"))
    recorded = codec.decode(row)
    assert recorded.event == folded(codec, row) == wanted
    assert (recorded.event_id, recorded.metadata) == ("e", ABOUT)
    assert f'"schema_version": {recorded.schema_version}'.encode() in row.body


@given(any_event())
def test_the_way_through_upcasters_loses_nothing(
    codec: Codec, vault: Vault, event: AnyEvent
) -> None:
    unchanged = Codec(vault, upcasters={(tag, 1): dict for tag in EVENT_TYPES})
    row = stored(event.tag(), codec.encode(event, "id", ABOUT))
    assert unchanged.decode(row) == codec.decode(row)
    assert folded(unchanged, row) == folded(codec, row)


def test_upcasters_that_go_in_circles_are_found_out(vault: Vault) -> None:
    circle: Upcasters = {("agent_tagged", n): dict for n in range(1, STEPS_MAX + 2)}
    codec = Codec(vault, upcasters=circle)
    row = old({"type": "agent_tagged", "agent_id": 1, "tags": []})
    for read in (codec.decode, partial(folded, codec)):
        with pytest.raises(CannotDecode, match="do not come to an end"):
            read(row)


# What cannot be read.


GOOD = old({"type": "agent_archived", "agent_id": 1}).body


@pytest.mark.parametrize(
    ("tag", "body"),
    [
        ("agent_exploded", GOOD.replace(b"agent_archived", b"agent_exploded")),
        ("agent_archived", GOOD[:-20]),
        ("agent_archived", b""),
        ("agent_archived", b"{}"),
        ("agent_archived", GOOD.replace(b'"agent_id": 1', b'"agent_id": "one"')),
        ("agent_archived", GOOD.replace(b'"agent_id": 1', b'"other": 1')),
        ("agent_archived", GOOD.replace(b'"agent_id"', b'"\xff\xfe"')),
    ],
    ids=["unknown", "cut short", "empty", "no event", "wrong type", "no field", "no text"],
)
def test_what_cannot_be_read_is_named_with_its_place(codec: Codec, tag: str, body: bytes) -> None:
    row = stored(tag, body, position=41)
    with pytest.raises(CannotDecode, match=rf"^{tag} at 41: "):
        codec.decode(row)
    with pytest.raises(CannotDecode):
        folded(codec, row)


@pytest.mark.parametrize("field", [b'"type"', b'"agent_id"', b'"event"'])
def test_an_old_event_that_cannot_be_read_is_named_with_its_place(
    vault: Vault, field: bytes
) -> None:
    codec = Codec(vault, upcasters={("agent_archived", 1): lambda event: {**event}})
    row = stored("agent_archived", GOOD.replace(field, b'"other"'), position=41)
    with pytest.raises(CannotDecode, match=r"^agent_archived at 41: "):
        codec.decode(row)
    with pytest.raises(CannotDecode):
        folded(codec, row)


@pytest.mark.parametrize("body", [b"{", GOOD.replace(b'"metadata"', b'"other"'), b"\xff"])
def test_circumstances_that_cannot_be_read_are_refused(codec: Codec, body: bytes) -> None:
    with pytest.raises(CannotDecode):
        codec.metadata(body)


def test_a_field_that_a_later_release_added_is_passed_over(codec: Codec) -> None:
    row = old({"type": "agent_archived", "agent_id": 1, "reason": "r", "added": {"later": 1}})
    assert codec.decode(row).event == AgentArchived(agent_id=AgentId(1), reason="r")
