"""A stream to a client that does not read: little waits, it is told why, and its place is free."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.events import WorkspaceId
from read_api.auth import Principal
from read_api.errors import TooManyStreams
from read_api.events import STREAM_PAGE_BYTES_MAX, STREAM_PAGE_FIRST, STREAM_PAGE_MAX, _fitting
from read_api.streams import (
    BREAK_OFF,
    END,
    OVERFLOW,
    PIECE_BYTES_MAX,
    EventStream,
    Places,
    _pieces,
)

WAIT_MAX_S = 60.0
SHORT_S = 0.02
ADA = Principal(workspace_id=WorkspaceId("acme"), actor="key:ada")
BOB = Principal(workspace_id=WorkspaceId("acme"), actor="key:bob")
EVE = Principal(workspace_id=WorkspaceId("evil"), actor="key:ada")


class Client:
    """A server's side of a connection, whose client takes so many pieces and then no more.

    Attributes:
        refuses: How many pieces are then refused, until it reads again.
        received: What the client has, and will have.
    """

    def __init__(self, takes: int, *, refuses: int = 1_000_000) -> None:
        self.takes, self.refuses = takes, refuses
        self.received = b""
        self.ended = self.broken_off = False
        self.left = asyncio.Event()

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.head = message
            return
        if self.takes > 0:
            self.takes -= 1
        elif self.refuses > 0:
            self.refuses -= 1
            await asyncio.Event().wait()
        self.received += message["body"]
        self.ended = not message["more_body"]

    async def receive(self) -> Any:
        await self.left.wait()
        return {"type": "http.disconnect"}

    def break_off(self) -> None:
        self.broken_off = True
        self.left.set()


class Frames:
    """What a stream has to tell.

    Attributes:
        closed: The stream has let go of it.
    """

    def __init__(self, frames: Sequence[bytes], *, endless: bool = False) -> None:
        self._frames, self._endless = frames, endless
        self.closed = False

    async def all(self) -> AsyncGenerator[bytes, None]:
        try:
            for frame in self._frames:
                yield frame
            if self._endless:
                await asyncio.Event().wait()
        finally:
            self.closed = True


def frame(size: int, letter: bytes = b"x") -> bytes:
    return b"id: 1\ndata: " + letter * size + END


async def followed(client: Client, frames: Frames, places: Places | None = None) -> None:
    stream = EventStream(
        frames.all(),
        ADA,
        places or Places(1, 1),
        headers={"Cache-Control": "no-store"},
        write_max_s=SHORT_S,
        farewell_max_s=SHORT_S,
    )
    scope: Any = {"state": {BREAK_OFF: client.break_off}}
    respond: Any = stream.to_asgi_response()
    async with asyncio.timeout(WAIT_MAX_S):
        await respond(scope, client.receive, client.send)


async def test_a_client_that_reads_gets_all_and_an_end() -> None:
    client, frames = Client(takes=9), Frames([frame(3), frame(5)])
    await followed(client, frames)
    assert client.received == frame(3) + frame(5)
    assert (client.ended, client.broken_off, frames.closed) == (True, False, True)
    assert client.head["status"] == 200
    assert dict(client.head["headers"]) == {
        b"content-type": b"text/event-stream",
        b"cache-control": b"no-store",
    }


async def test_a_client_that_reads_again_in_time_is_told_why_its_stream_ends() -> None:
    client, frames = Client(takes=1, refuses=1), Frames([frame(3), frame(5)])
    await followed(client, frames)
    assert client.received == frame(3) + OVERFLOW
    assert (client.ended, client.broken_off, frames.closed) == (True, False, True)


async def test_a_client_that_never_reads_is_broken_off() -> None:
    client, frames = Client(takes=0), Frames([frame(3)])
    await followed(client, frames)
    assert (client.ended, client.broken_off, frames.closed) == (False, True, True)


async def test_a_client_that_stops_within_a_frame_is_told_nothing_that_would_be_taken_for_it() -> (
    None
):
    client, frames = Client(takes=1, refuses=1), Frames([frame(2 * PIECE_BYTES_MAX)])
    await followed(client, frames)
    assert client.received == frame(2 * PIECE_BYTES_MAX)[:PIECE_BYTES_MAX]
    assert (client.ended, client.broken_off) == (False, True)


async def test_a_client_that_leaves_ends_a_quiet_stream() -> None:
    client, frames = Client(takes=9), Frames([], endless=True)
    following = asyncio.create_task(followed(client, frames))
    client.left.set()
    await following
    assert (client.received, client.broken_off, frames.closed) == (b"", False, True)


# What is handed over at once.


@given(
    st.lists(
        st.sampled_from([0, 1, 70, PIECE_BYTES_MAX - 14, PIECE_BYTES_MAX, 3 * PIECE_BYTES_MAX]),
        max_size=5,
    )
)
def test_pieces_are_bounded_and_end_with_a_frame_where_they_can(sizes: list[int]) -> None:
    frames = [frame(size) for size in sizes]
    pieces = list(_pieces(b"".join(frames)))
    assert b"".join(pieces) == b"".join(frames)
    assert all(0 < len(piece) <= PIECE_BYTES_MAX for piece in pieces)
    large = sum(len(each) // PIECE_BYTES_MAX for each in frames)
    assert sum(not piece.endswith(END) for piece in pieces) <= large


@given(st.lists(st.integers(0, 10 * STREAM_PAGE_BYTES_MAX), min_size=1, max_size=20))
def test_the_next_page_is_no_larger_than_the_bounds_if_its_events_are_like_the_last(
    sizes: list[int],
) -> None:
    limit = STREAM_PAGE_FIRST
    for size in sizes:
        before, limit = limit, _fitting(limit, size)
        assert 1 <= limit <= min(STREAM_PAGE_MAX, 2 * before)
        assert limit == 1 or limit * size <= STREAM_PAGE_BYTES_MAX


def test_pages_of_small_events_grow_to_the_largest() -> None:
    limit = STREAM_PAGE_FIRST
    for _ in range(10):
        limit = _fitting(limit, 500)
    assert limit == STREAM_PAGE_MAX


# Places.


async def test_a_place_is_free_again_however_a_stream_ends() -> None:
    places = Places(1, 1)
    for takes in (9, 0):
        await followed(Client(takes=takes), Frames([frame(3)]), places)
    with places.taken(ADA):
        pass


async def test_a_stream_for_which_there_is_no_place_is_refused_before_it_begins() -> None:
    places, client, frames = Places(1, 1), Client(takes=9), Frames([frame(3)])
    with places.taken(BOB), pytest.raises(TooManyStreams):
        await followed(client, frames, places)
    assert client.received == b""


def test_a_key_has_so_many_places_and_a_workspace_so_many_of_all_its_keys() -> None:
    places = Places(per_workspace=3, per_principal=2)
    with places.taken(ADA), places.taken(ADA):
        with pytest.raises(TooManyStreams, match="A key may have 2"), places.taken(ADA):
            pass
        with places.taken(BOB):
            with pytest.raises(TooManyStreams, match="A workspace may have 3"), places.taken(BOB):
                pass
            with places.taken(EVE), places.taken(EVE):
                pass
        with places.taken(BOB):
            pass
