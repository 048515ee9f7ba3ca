"""uvicorn's HTTP, with what it lacks: an end for clients that do not read, or do not write.

uvicorn closes in order only: it first sends what waits, to the very client that takes nothing. And
it waits for ever for the rest of a request.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from read_api.errors import ApiError, HeadersTooLarge, RequestTooSlow
from read_api.gate import HEADERS_BYTES_MAX, URL_BYTES_MAX
from read_api.raw import spelled
from read_api.streams import BREAK_OFF

HEAD_MAX_S = 10.0
"""How long the head of a request may take, and a new connection to begin one."""

BODY_MAX_S = 30.0
"""How long a body may take then, and a second more for each `BODY_BYTES_S` of it."""

BODY_BYTES_S = 64 * 1024

LOOK_S = 1.0
"""How often a connection is looked at: a request may take so much longer."""

HEAD_BYTES_MAX = HEADERS_BYTES_MAX + URL_BYTES_MAX + 2_048
"""Received of a head that has no end yet, spelled out; one that has is measured by the gate."""

NEVER = float("inf")
IN_BODY = -1


class Http(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Copied into the scope of each of the connection's requests.
        self.app_state = {**self.app_state, BREAK_OFF: transport.abort}
        self._deadline = self.loop.time() + HEAD_MAX_S
        self._head_bytes = 0
        self._look = self.loop.call_later(LOOK_S, self._look_at)

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deadline == NEVER and self.timeout_keep_alive_task is not None:
            # What comes after an answer begins a request, even if it does not look like one.
            self._deadline = self.loop.time() + HEAD_MAX_S
        super().data_received(data)
        if self._head_bytes < 0:
            self._deadline += len(data) / BODY_BYTES_S
        else:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(HeadersTooLarge("The head of the request is too large."))

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        self._deadline = self.loop.time() + HEAD_MAX_S
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_bytes = IN_BODY
        self._deadline = self.loop.time() + BODY_MAX_S
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._deadline = NEVER
        super().on_message_complete()

    def _look_at(self) -> None:
        if self.loop.time() > self._deadline:
            self._refuse(RequestTooSlow("The request did not arrive in the time it has."))
        else:
            self._look = self.loop.call_later(LOOK_S, self._look_at)

    def _refuse(self, error: ApiError) -> None:
        """Say why, if nothing else has been said, and close."""
        if self.transport.is_closing():
            return
        cycle: Any = self.cycle
        if self._head_bytes < 0:
            says = cycle is not None and not cycle.response_started
        else:
            # Of the request before this one.
            says = cycle is None or cycle.response_complete
        if says:
            self.transport.write(_spelled(error))
        self.transport.close()


def _spelled(error: ApiError) -> bytes:
    status, headers, body = spelled(error)
    lines = [(b"content-length", b"%d" % len(body)), (b"connection", b"close"), *headers]
    head = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (status, error.status.phrase.encode(), head, body)
