"""How a live stream is sent: none waits in memory for a client that does not read.

Whatever a stream tells is read from the log when it is to be sent, so a client that is cut off
comes back with the position it has, and goes on there.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from typing import Any

import structlog
from litestar.response import Stream
from litestar.types import (
    ASGIApp,
    HTTPResponseBodyEvent,
    HTTPResponseStartEvent,
    Receive,
    Scope,
    Send,
)

from read_api.auth import Principal
from read_api.errors import TooManyStreams

WRITE_MAX_S = 10.0
"""How long a client may take nothing before its stream is ended."""

FAREWELL_MAX_S = 2.0
"""How long it is then still told why, before the connection is broken off."""

PIECE_BYTES_MAX = 64 * 1024
"""Handed to the server at once, which holds as much again: all that waits for a slow client."""

BREAK_OFF = "break_off"
"""Where the server leaves, in the scope's state, how to end a connection without sending what
waits: closing it in order waits for the very client that does not read."""

END = b"\n\n"
"""Of a frame; within one there is no empty line."""

OVERFLOW = b'event: overflow\ndata: {"reason": "the client reads too slowly"}\n\n'

ENDED = b'event: ended\ndata: {"reason": "the credentials do not open this any more"}\n\n'

log = structlog.get_logger(__name__)


async def never() -> None:
    await asyncio.Event().wait()


class Places:
    """Counts the streams of one process."""

    def __init__(self, per_workspace: int, per_principal: int) -> None:
        self._per_workspace = per_workspace
        self._per_principal = per_principal
        self._taken: Counter[tuple[str, ...]] = Counter()

    @property
    def open(self) -> int:
        return sum(count for place, count in self._taken.items() if len(place) == 1)

    @contextmanager
    def taken(self, principal: Principal) -> Generator[None, None, None]:
        """Hold a place for as long as a stream lasts.

        Raises:
            TooManyStreams: There is none left.
        """
        workspace, own = (principal.workspace_id,), (principal.workspace_id, principal.actor)
        if self._taken[own] >= self._per_principal:
            raise TooManyStreams(f"A key may have {self._per_principal} streams at once.")
        if self._taken[workspace] >= self._per_workspace:
            raise TooManyStreams(f"A workspace may have {self._per_workspace} streams at once.")
        self._taken.update((workspace, own))
        try:
            yield
        finally:
            self._taken.subtract((workspace, own))
            # Only those counted are kept: a process meets any number of workspaces.
            self._taken = +self._taken


class EventStream(Stream):
    """Server-Sent Events to one client, until they end, it leaves, or it stops reading.

    Args:
        frames: Whole frames in each piece.
        headers: Besides the content type.
        ended: Returns when the principal may not read on.
    """

    def __init__(  # noqa: PLR0913 named at the one call
        self,
        frames: AsyncGenerator[bytes, None],
        principal: Principal,
        places: Places,
        *,
        headers: Mapping[str, str],
        ended: Callable[[], Awaitable[None]] = never,
        write_max_s: float = WRITE_MAX_S,
        farewell_max_s: float = FAREWELL_MAX_S,
    ) -> None:
        super().__init__(frames)
        self._frames = frames
        self._principal = principal
        self._places = places
        self._head = [(b"content-type", b"text/event-stream")]
        self._head += [(name.lower().encode(), v.encode()) for name, v in headers.items()]
        self._ended = ended
        self._whole = True
        self._write_max_s = write_max_s
        self._farewell_max_s = farewell_max_s

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIApp:  # type: ignore[override]
        return self._respond

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._frames):
            with self._places.taken(self._principal):
                start: HTTPResponseStartEvent = {
                    "type": "http.response.start",
                    "status": HTTPStatus.OK,
                    "headers": self._head,
                }
                await send(start)
                await self._follow(scope, receive, send)

    async def _follow(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_left(receive))
        ending = asyncio.ensure_future(self._ended())
        tasks = (sending, leaving, ending)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not (sending.done() or leaving.done()):
                # Not another event, not even of those that are waiting to be sent.
                sending.cancel()
                await asyncio.wait((sending,))
                taken = await self._say(ENDED, send)
                ending.result()
            else:
                taken = not sending.done() or sending.result()
            break_off = scope["state"].get(BREAK_OFF)
            if not taken and break_off is not None:
                break_off()
                await leaving
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, send: Send) -> bool:
        """Tell whether all has been taken, be it only that there is no more."""
        async for frames in self._frames:
            for piece in _pieces(frames):
                if not await _taken(send, piece, within_s=self._write_max_s):
                    log.info("a client does not read its stream", actor=self._principal.actor)
                    return await self._say(OVERFLOW, send)
                self._whole = piece.endswith(END)
        return await _taken(send, b"", within_s=self._write_max_s, more=False)

    async def _say(self, farewell: bytes, send: Send) -> bool:
        # After a part of a frame it would be taken for the rest of it.
        return self._whole and await _taken(
            send, farewell, within_s=self._farewell_max_s, more=False
        )


def _pieces(frames: bytes) -> Iterator[bytes]:
    """Divide frames where one ends, and within one only if it is too large itself."""
    at = 0
    while at < len(frames):
        found = frames.rfind(END, at, at + PIECE_BYTES_MAX)
        end = at + PIECE_BYTES_MAX if found < 0 else found + len(END)
        yield frames[at:end]
        at = end


async def _taken(send: Send, body: bytes, *, within_s: float, more: bool = True) -> bool:
    """Hand something to the server once the client has taken what came before; if it has not
    within the time, nothing of this is sent.
    """
    message: HTTPResponseBodyEvent = {
        "type": "http.response.body",
        "body": body,
        "more_body": more,
    }
    try:
        async with asyncio.timeout(within_s):
            await send(message)
    except TimeoutError:
        return False
    return True


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
