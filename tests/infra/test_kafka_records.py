"""What a row of the log is on Kafka, and that nothing of it is lost on the way."""

import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from domain.events import CommandId, Metadata, WorkspaceId
from infra.event_store.codec import Codec, Stored
from infra.kafka.records import (
    MalformedRecord,
    Received,
    Record,
    about,
    partition_of,
    received,
    record,
)
from infra.vault import Vault
from tests.contracts.stores import NOON, tagged

ROOT = Path(__file__).resolve().parents[2]
EVENT_ID = "01a2044b-7467-770c-8928-dc2ea431a571"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)
positions = st.integers(1, 2**63 - 1)


def metadata(
    workspace_id: str = "acme", *, causation_id: str | None = None, at: datetime = NOON
) -> Metadata:
    return Metadata(
        workspace_id=WorkspaceId(workspace_id),
        actor="key:k1",
        correlation_id="c1",
        command_id=CommandId("m1"),
        occurred_at=at,
        causation_id=causation_id,
    )


def row(of: Metadata, position: int = 7, *, version: int = 1) -> Stored:
    body = Codec(Vault()).encode(tagged("new"), EVENT_ID, of)
    return Stored(position, f"agent-{of.workspace_id}+ada", version, "agent_tagged", body)


def published(stored: Stored, prev: int = 0) -> Record:
    return record(stored, about(stored), prev)


def parsed(sent: Record) -> BaseCloudEvent:
    """Read a record as the foreign library does."""
    return from_binary(KafkaMessage(dict(sent.headers), sent.key, sent.value), JSONFormat())


@given(names, st.data())
def test_a_row_survives_the_wire(workspace_id: str, data: st.DataObject) -> None:
    position, version = data.draw(positions), data.draw(positions)
    stored = row(metadata(workspace_id), position, version=version)
    prev = data.draw(st.integers(0, position - 1))
    sent = published(stored, prev)
    back = received(3, *sent)
    assert back == Received(3, prev, stored, WorkspaceId(workspace_id))


def test_the_value_is_the_stored_body() -> None:
    stored = row(metadata())
    assert published(stored).value is stored.body


def test_a_foreign_library_reads_a_record_as_a_cloud_event() -> None:
    stored = row(metadata("a/b", at=datetime(2026, 1, 31, 12, 0, 0, 250, tzinfo=UTC)))
    event = parsed(published(stored))
    assert event.get_specversion() == "1.0"
    assert event.get_id() == EVENT_ID
    assert event.get_source() == "/automatos/ws/a%2Fb/agent"
    assert event.get_type() == "agent_tagged"
    assert event.get_subject() == "agent-a/b+ada"
    assert event.get_time() == datetime(2026, 1, 31, 12, 0, 0, 250, tzinfo=UTC)
    assert event.get_datacontenttype() == "application/json"
    assert event.get_data() == msgspec.json.decode(stored.body)


@given(names, names)
def test_every_record_is_a_cloud_event(workspace_id: str, other: str) -> None:
    event = parsed(published(row(metadata(workspace_id, causation_id=other))))
    assert event.get_id() == EVENT_ID


def test_our_own_headers_tell_the_place_and_the_conversation() -> None:
    headers = dict(published(row(metadata(causation_id="e0"), 9, version=4), prev=5).headers)
    assert {name: headers[name] for name in headers if not name.startswith("ce_")} == {
        "content-type": b"application/json",
        "position": b"9",
        "prev": b"5",
        "streamversion": b"4",
        "workspaceid": b"acme",
        "correlationid": b"c1",
        "causationid": b"e0",
    }


def test_the_page_for_consumers_lists_every_header_in_its_order() -> None:
    page = (ROOT / "docs" / "analytics.md").read_text("utf-8")
    section = page.partition("\n## Kafka\n")[2].partition("\n## ")[0]
    body = msgspec.json.decode(row(metadata(causation_id="e0")).body)
    body["metadata"]["traceparent"] = TRACEPARENT
    sent = published(row(metadata())._replace(body=msgspec.json.encode(body)))
    assert re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE) == [h[0] for h in sent.headers]


def test_an_event_without_a_cause_names_none() -> None:
    assert "causationid" not in dict(published(row(metadata())).headers)


def test_a_trace_goes_on_where_the_metadata_carry_one() -> None:
    stored = row(metadata())
    assert "traceparent" not in dict(published(stored).headers)
    body = msgspec.json.decode(stored.body)
    body["metadata"]["traceparent"] = TRACEPARENT
    traced = stored._replace(body=msgspec.json.encode(body))
    assert dict(published(traced).headers)["traceparent"] == TRACEPARENT.encode()


@pytest.mark.parametrize(
    ("workspace_id", "hashed"),
    [("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536)],
)
def test_a_workspace_is_where_the_java_client_puts_its_key(workspace_id: str, hashed: int) -> None:
    """Hashes from Apache Kafka's own `UtilsTest.testMurmur2`."""
    assert partition_of(workspace_id, 12) == (hashed & 0x7FFFFFFF) % 12


@pytest.mark.parametrize(
    "name",
    ["position", "prev", "streamversion", "workspaceid", "ce_type", "ce_subject"],
)
def test_a_record_without_one_of_its_headers_is_malformed(name: str) -> None:
    key, value, headers = published(row(metadata()))
    with pytest.raises(MalformedRecord, match=name):
        received(0, key, value, [header for header in headers if header[0] != name])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("position", b"-1"),
        ("position", b"1_0"),
        ("position", b"1" * 20),
        ("prev", b"7"),
        ("ce_type", b"\xff"),
        ("workspaceid", b"globex"),
    ],
)
def test_a_record_whose_headers_make_no_sense_is_malformed(name: str, value: bytes) -> None:
    key, body, headers = published(row(metadata()))
    with pytest.raises(MalformedRecord):
        received(0, key, body, [*headers, (name, value)])


@pytest.mark.parametrize(("key", "value"), [(None, b"{}"), (b"acme", None)])
def test_a_record_without_key_or_value_is_malformed(key: bytes | None, value: bytes | None) -> None:
    with pytest.raises(MalformedRecord):
        received(0, key, value, published(row(metadata())).headers)


@pytest.mark.parametrize("body", [b"\xff", b"{}", b"not json", b'{"event_id":1}'])
def test_a_damaged_row_is_published_at_its_place_with_its_workspace(body: bytes) -> None:
    said = about(Stored(7, "agent-acme+1", 1, "agent_renamed", body))
    assert (said.event_id, said.metadata.workspace_id) == ("damaged-7", "acme")
