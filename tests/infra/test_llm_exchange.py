"""Taking answers apart, without a network."""

from itertools import pairwise

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.events import JsonObject
from infra.llm.exchange import MESSAGE_BYTES_MAX, EventStream, Reply, Timeouts, WholeBody
from infra.llm.faults import Fault, told_fault, transport_fault
from infra.llm.json_values import decode_object
from infra.llm.openai_wire import OpenAIWire, _take_event

events = st.lists(st.binary(min_size=1).filter(lambda data: not {10, 13} & {*data}), max_size=5)


@given(events, st.lists(st.integers(min_value=0, max_value=200)), st.sampled_from([b"\n", b"\r\n"]))
def test_events_are_the_same_however_the_network_cuts_them(
    sent: list[bytes], cuts: list[int], line_end: bytes
) -> None:
    body = b"".join(
        b": ping" + 2 * line_end + b"event: x" + line_end + b"data: " + data + 2 * line_end
        for data in sent
    )
    taken: list[bytes] = []
    stream = EventStream(taken.append)
    edges = sorted({0, len(body), *(cut for cut in cuts if cut <= len(body))})
    for start, end in pairwise(edges):
        stream.feed(body[start:end])
    stream.end()
    assert taken == sent


def test_data_over_several_lines_is_one_event() -> None:
    taken: list[bytes] = []
    EventStream(taken.append).feed(b"data: one\ndata:two\nid: 7\nretry: 1\n\n\n\n")
    assert taken == [b"one\ntwo"]


def test_a_message_without_end_is_malformed() -> None:
    megabyte = b"data: " + b"x" * 1_000_000
    with pytest.raises(Fault, match="one message is longer") as caught:
        feed_for_ever(EventStream(lambda _: None), megabyte)
    assert caught.value.kind == "malformed"
    with pytest.raises(Fault, match="one message is longer"):
        feed_for_ever(EventStream(lambda _: None), megabyte + b"\n")
    with pytest.raises(Fault, match="one message is longer"):
        feed_for_ever(WholeBody(lambda _: None), megabyte)


def feed_for_ever(reader: EventStream | WholeBody, chunk: bytes) -> None:
    for _ in range(MESSAGE_BYTES_MAX // len(chunk) + 2):
        reader.feed(chunk)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"1", b"null", b'{"a":1}x', b'{"a"', b'{"a":"\xff"}', b"[" * 100_000],
)
def test_what_is_no_json_object_is_none(data: bytes) -> None:
    assert decode_object(data) is None


def test_a_lone_surrogate_is_no_text() -> None:
    assert decode_object(b'{"a":"\\ud800"}') is None


def test_nothing_after_done_is_read() -> None:
    reply = Reply()
    for data in (b'{"id":"1","choices":[]}', b"[DONE]", b'{"id":"2"}', b"not json"):
        _take_event(reply, data)
    assert reply.response_id == "1"


def test_only_the_first_choice_is_the_answer() -> None:
    reply = Reply()
    _take_event(
        reply,
        b'{"choices":[{"index":1,"delta":{"content":"no"},"finish_reason":"stop"},'
        b'{"index":0,"delta":{"content":"yes"}}]}',
    )
    assert (reply.text, reply.finish_reason) == ("yes", "")


def test_a_refusal_is_the_text_of_an_answer() -> None:
    reply = Reply()
    _take_event(reply, b'{"choices":[{"index":0,"delta":{"content":null,"refusal":"I will not"}}]}')
    assert reply.text == "I will not"


@pytest.mark.parametrize(
    ("error", "kind", "in_doubt"),
    [
        (httpx2.ConnectError("x"), "connection", False),
        (httpx2.ConnectTimeout("x"), "connection", False),
        (httpx2.PoolTimeout("x"), "connection", False),
        (httpx2.ReadTimeout("x"), "timeout", True),
        (httpx2.WriteTimeout("x"), "timeout", True),
        (httpx2.ReadError("x"), "connection", True),
        (httpx2.RemoteProtocolError("x"), "connection", True),
        (httpx2.DecodingError("x"), "malformed", True),
        (OSError("x"), "connection", True),
        (None, "connection", True),
    ],
)
def test_a_failed_connection_is_in_doubt_once_it_was_there(
    error: BaseException | None, kind: str, *, in_doubt: bool
) -> None:
    fault = transport_fault(error)
    assert (fault.kind, fault.in_doubt) == (kind, in_doubt)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": "rate_limit_exceeded", "message": "slow"}, "rate_limited"),
        ({"code": 502, "message": "upstream"}, "server_error"),
        ({}, "server_error"),
    ],
)
def test_an_error_told_by_its_code_has_a_kind(error: JsonObject, kind: str) -> None:
    assert told_fault(error, begun=False).kind == kind


async def test_a_wire_never_used_has_nothing_to_close() -> None:
    await OpenAIWire(api_key="k", base_url="http://127.0.0.1:9", timeouts=Timeouts()).close()
