"""One request and its answer on the wire, whoever the provider is."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import msgspec

from commands.processes.model_calls import ModelRequest
from domain.events import JsonObject
from domain.tokens import TokenCounts
from infra.failpoints import failpoint
from infra.llm.faults import Fault, malformed, transport_fault
from infra.llm.json_values import as_object, as_text, decode_object

TEXT_BYTES_MAX: Final = 8_000_000
MESSAGE_BYTES_MAX: Final = 32_000_000
"""One JSON text, which may spell a byte of the answer with six."""
DRAIN_S: Final = 0.2
"""Wait after the last event for the body to end, so that the connection can be used again."""


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long each part of a call may take, in seconds."""

    connect_s: float = 5.0
    first_byte_s: float = 60.0
    between_chunks_s: float = 30.0
    total_s: float = 300.0


class Reply:
    """What has arrived of one answer so far.

    Attributes:
        finish_reason: Comes with or after the last piece of text.
        ended: The provider said that nothing more will come.
    """

    def __init__(self) -> None:
        self.response_id = ""
        self.model = ""
        self.finish_reason = ""
        self.usage: JsonObject | None = None
        self.ended = False
        self._pieces: list[str] = []
        self._size = 0

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def whole(self) -> bool:
        return bool(self.finish_reason) or (self.ended and self.begun)

    @property
    def begun(self) -> bool:
        return bool(self.response_id or self._pieces or self.usage)

    def name(self, message: JsonObject) -> None:
        self.response_id = as_text(message.get("id")) or self.response_id
        self.model = as_text(message.get("model")) or self.model

    def add_text(self, piece: str) -> None:
        room = TEXT_BYTES_MAX - self._size
        encoded = piece.encode()
        self._size += len(encoded)
        if len(encoded) <= room:
            self._pieces.append(piece)
            return
        self._pieces.append(encoded[: max(room, 0)].decode(errors="ignore"))
        raise malformed(f"the answer is longer than {TEXT_BYTES_MAX} bytes")

    def add_usage(self, usage: object) -> None:
        """Put what is told later over what was told first; null replaces nothing."""
        known, told = self.usage or {}, as_object(usage)
        news = {key: told[key] for key in told if told[key] is not None or key not in known}
        self.usage = known | news or None


class Wire(Protocol):
    """One provider's HTTP API."""

    async def ask(self, request: ModelRequest, reply: Reply) -> None:
        """Fill the reply as it arrives.

        Raises:
            Fault: It did not become whole.
        """
        ...

    def tokens(self, usage: JsonObject) -> TokenCounts: ...

    async def close(self) -> None: ...


class Reader(Protocol):
    """Takes a body apart, chunk by chunk."""

    def feed(self, chunk: bytes) -> None: ...

    def end(self) -> None: ...


class WholeBody:
    """Hands over a body of one JSON object when it is complete."""

    def __init__(self, take: Callable[[JsonObject], None]) -> None:
        self._take = take
        self._body = bytearray()

    def feed(self, chunk: bytes) -> None:
        self._body += chunk
        _check_size(self._body)

    def end(self) -> None:
        self._take(object_in(bytes(self._body)))


class EventStream:
    """Hands over the data of each server-sent event; names and comments are ignored.

    Lines end with LF or CRLF, as all providers send them.
    """

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._line = bytearray()
        self._data = bytearray()

    def feed(self, chunk: bytes) -> None:
        first, *others = chunk.split(b"\n")
        self._line += first
        for following in others:
            self._end_line()
            self._line += following
        _check_size(self._line)

    def end(self) -> None:
        """A last event without its blank line is dropped, as the standard wants."""

    def _end_line(self) -> None:
        line = bytes(self._line).removesuffix(b"\r")
        self._line.clear()
        if line.startswith(b"data:"):
            self._data += line[5:].removeprefix(b" ") + b"\n"
            _check_size(self._data)
        elif not line and self._data:
            data = bytes(self._data[:-1])
            self._data.clear()
            self._take(data)


def _check_size(gathered: bytearray) -> None:
    if len(gathered) > MESSAGE_BYTES_MAX:
        raise malformed(f"one message is longer than {MESSAGE_BYTES_MAX} bytes")


class Body(Protocol):
    def iter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]: ...


async def receive(
    opened: AbstractAsyncContextManager[Body], reader: Reader, reply: Reply, timeouts: Timeouts
) -> None:
    """Send a request and read its answer within the deadlines.

    Whatever breaks once the text is whole only costs what would have come
    after it (the usage), not the answer, which is paid for.

    Raises:
        Fault: The answer is not whole.
    """
    try:
        await _read(opened, reader, reply, timeouts)
        reader.end()
    except Fault as fault:
        if fault.kind == "malformed" or not reply.whole:
            raise
    if not reply.whole:
        raise malformed("the answer stopped before its end")


async def _read(
    opened: AbstractAsyncContextManager[Body], reader: Reader, reply: Reply, timeouts: Timeouts
) -> None:
    import anyio  # noqa: PLC0415
    import httpx2  # noqa: PLC0415

    now = asyncio.get_running_loop().time
    end = now() + timeouts.total_s
    try:
        async with asyncio.timeout_at(min(end, now() + timeouts.first_byte_s)) as deadline:
            async with opened as body:
                failpoint("llm.request_sent")
                async for chunk in body.iter_bytes():
                    reader.feed(chunk)
                    if reply.ended:
                        end = min(end, now() + DRAIN_S)
                    deadline.reschedule(min(end, now() + timeouts.between_chunks_s))
    except TimeoutError:
        raise Fault("the provider took too long", kind="timeout", in_doubt=True) from None
    except (httpx2.RequestError, OSError, anyio.EndOfStream) as broken:
        raise transport_fault(broken) from None


def object_in(data: bytes) -> JsonObject:
    found = decode_object(data)
    if found is None:
        raise malformed("the answer is not a JSON object")
    return found
