"""A language model provider to test against: real HTTP, both wire formats, faults on demand.

In process: `with LlmServer() as server: server.next(Behaviour(status=429))`.
On its own: `python -m tests.llm_server --port 0 --log FILE`, which prints its
port; `POST /control` takes `{"behaviours": [...], "otherwise": {...}}` and
`GET /control` tells the calls so far.
"""

import argparse
import asyncio
import json
import os
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

Json = dict[str, Any]
WAIT_S = 10.0
PIECES = 8


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to answer one call.

    Attributes:
        status: 200, or an error with the provider's own error body.
        echo_key: Repeat the caller's key in the error message.
        text: Instead of the answer made from the prompt.
        delay_s: Before the first byte.
        stall: Send nothing more until the caller hangs up.
        cut: Close the connection.
        malformed: Break the format in one way.
        usage: `detailed` has cache and reasoning tokens.
        usage_with_choice: OpenAI's usage comes in the chunk that ends the choice.
        error_in_stream: Type of an error event sent after half of the text.
        no_end: Leave out `[DONE]` or `message_stop`, but nothing else.
        linger: Keep the body open after the last event.
    """

    status: int = 200
    retry_after: str = ""
    location: str = ""
    echo_key: bool = False
    text: str | None = None
    finish_reason: str = ""
    delay_s: float = 0.0
    stall: Literal["", "before", "middle", "after"] = ""
    cut: Literal["", "before", "middle", "after"] = ""
    malformed: Literal["", "json", "utf8", "unfinished", "html", "empty", "shape"] = ""
    usage: Literal["plain", "detailed", "none", "null"] = "plain"
    usage_with_choice: bool = False
    error_in_stream: str = ""
    error_first: bool = False
    no_end: bool = False
    linger: bool = False


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One received request.

    Attributes:
        number: From 1, in order of arrival, going on over restarts with one log.
        authorization: Kept in memory only, never logged.
    """

    number: int
    path: str
    model: str
    system: str
    prompt: str
    stream: bool
    body: Json
    headers: dict[str, str]
    authorization: str


def answer_text(model: str, prompt: str) -> str:
    """Depend on the request alone, and on every byte of it."""
    digest = sha256(prompt.encode()).hexdigest()[:12]
    return f"{model} answers “{prompt[:120]}” — {digest} ✓"


def word_count(text: str) -> int:
    return len(text.split())


def openai_usage(call: Call, text: str, behaviour: Behaviour) -> Json:
    prompt, completion = word_count(call.system) + word_count(call.prompt), word_count(text)
    if behaviour.usage == "plain":
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": None,
        }
    return {
        "prompt_tokens": prompt + 1000,
        "completion_tokens": completion + 300,
        "total_tokens": prompt + completion + 1300,
        "prompt_tokens_details": {"cached_tokens": 900, "cache_write_tokens": 100},
        "completion_tokens_details": {"reasoning_tokens": 300},
    }


def anthropic_usage(call: Call, text: str, behaviour: Behaviour) -> Json:
    prompt, completion = word_count(call.system) + word_count(call.prompt), word_count(text)
    if behaviour.usage == "plain":
        return {"input_tokens": prompt, "output_tokens": completion}
    return {
        "input_tokens": prompt,
        "cache_creation_input_tokens": 100,
        "cache_read_input_tokens": 900,
        "output_tokens": completion + 300,
        "output_tokens_details": {"thinking_tokens": 300},
        "service_tier": "standard",
    }


class CallLog:
    """Counts calls, and writes each down before and after it is answered."""

    def __init__(self, path: Path | None) -> None:
        self.calls: list[Call] = []
        self.aborted: list[int] = []
        self._path = path
        lines = path.read_text().splitlines() if path and path.exists() else []
        self._number = max((json.loads(line)["number"] for line in lines), default=0)
        self.changed = threading.Condition()

    def received(self, path: str, headers: dict[str, str], body: Json) -> Call:
        self._number += 1
        system, prompt = _told(body)
        call = Call(
            number=self._number,
            path=path,
            model=str(body.get("model")),
            system=system,
            prompt=prompt,
            stream=bool(body.get("stream")),
            body=body,
            headers={k: v for k, v in headers.items() if k not in {"authorization", "x-api-key"}},
            authorization=headers.get("authorization", "") + headers.get("x-api-key", ""),
        )
        line = {
            "number": call.number,
            "event": "received",
            "path": path,
            "model": call.model,
            "prompt_sha256": sha256(prompt.encode()).hexdigest(),
            "prompt": prompt,
        }
        self._write(line)
        with self.changed:
            self.calls.append(call)
            self.changed.notify_all()
        return call

    def answered(self, call: Call, status: int) -> None:
        self._write({"number": call.number, "event": "answered", "status": status})

    def abort(self, call: Call) -> None:
        self._write({"number": call.number, "event": "aborted"})
        with self.changed:
            self.aborted.append(call.number)
            self.changed.notify_all()

    def _write(self, line: Json) -> None:
        if self._path is None:
            return
        with self._path.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _told(body: Json) -> tuple[str, str]:
    messages = body.get("messages") or []
    system = [str(m["content"]) for m in messages if m["role"] == "system"]
    prompt = [str(m["content"]) for m in messages if m["role"] != "system"]
    return "\n".join([*system, *([body["system"]] if body.get("system") else [])]), "\n".join(
        prompt
    )


class LlmServer:
    """Serves from a thread of its own, so that tests may be sync or async."""

    def __init__(self, *, port: int = 0, log: Path | None = None) -> None:
        self.port = port
        self.log = CallLog(log)
        self.otherwise = Behaviour()
        self._script: deque[Behaviour] = deque()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self.connections_made = 0

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT_S)

    @property
    def url(self) -> str:
        """Base URL of the Anthropic API; `/v1` after it is OpenAI's."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def calls(self) -> list[Call]:
        return self.log.calls

    def next(self, *behaviours: Behaviour) -> None:
        """Answer the next calls so, one each."""
        self._script.extend(behaviours)

    def wait_for_calls(self, count: int) -> None:
        with self.log.changed:
            assert self.log.changed.wait_for(lambda: len(self.log.calls) >= count, WAIT_S)

    def wait_for_aborts(self, count: int) -> None:
        """Wait until so many callers hung up on a stalled answer."""
        with self.log.changed:
            assert self.log.changed.wait_for(lambda: len(self.log.aborted) >= count, WAIT_S)

    def control(self, told: Json) -> None:
        self.next(*msgspec.convert(told.get("behaviours", []), list[Behaviour]))
        if "otherwise" in told:
            self.otherwise = msgspec.convert(told["otherwise"], Behaviour)

    def behaviour(self) -> Behaviour:
        return self._script.popleft() if self._script else self.otherwise

    def join(self) -> None:
        self._thread.join()

    def _serve(self) -> None:
        self._loop.run_until_complete(self._listen())
        self._loop.close()

    async def _listen(self) -> None:
        self._stop = asyncio.Event()
        listener = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = listener.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        listener.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_made += 1
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await Connection(self, reader, writer).serve()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


class Connection:
    """One kept-alive HTTP/1.1 connection."""

    def __init__(
        self, server: LlmServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer

    async def serve(self) -> None:
        open_still = True
        while open_still:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ")
            fields = (line.partition(":") for line in head[1:] if line)
            headers = {name.lower(): value.strip() for name, _, value in fields}
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
            told = json.loads(body) if body else {}
            open_still = await self._respond(method, path, headers, told)

    async def _respond(self, method: str, path: str, headers: dict[str, str], body: Json) -> bool:
        if path == "/control":
            return await self._control(method, body)
        if path not in {"/v1/chat/completions", "/v1/messages"}:
            return await self._send(404, b'{"error":{"message":"no such path"}}')
        behaviour = self._server.behaviour()
        call = self._server.log.received(path, headers, body)
        try:
            return await self._answer(call, behaviour)
        except ConnectionError:
            self._server.log.abort(call)
            return False

    async def _control(self, method: str, body: Json) -> bool:
        if method == "POST":
            self._server.control(body)
        calls = [
            {"number": c.number, "model": c.model, "prompt": c.prompt} for c in self._server.calls
        ]
        return await self._send(200, json.dumps({"count": len(calls), "calls": calls}).encode())

    async def _answer(self, call: Call, behaviour: Behaviour) -> bool:
        await asyncio.sleep(behaviour.delay_s)
        if behaviour.stall == "before":
            return await self._stall(call)
        if behaviour.cut == "before":
            return False
        if behaviour.status != 200:
            open_still = await self._refuse(call, behaviour)
        elif call.stream:
            open_still = await self._stream(call, behaviour)
        else:
            open_still = await self._send_whole(call, behaviour)
        if open_still:
            self._server.log.answered(call, behaviour.status)
        return open_still

    async def _stall(self, call: Call) -> bool:
        with suppress(ConnectionError):
            assert await self._reader.read(1) == b""
        self._server.log.abort(call)
        return False

    async def _refuse(self, call: Call, behaviour: Behaviour) -> bool:
        said = f"refused {call.authorization}" if behaviour.echo_key else "refused as told"
        error = {"type": "fake_error", "message": said}
        headers = {"retry-after": behaviour.retry_after, "location": behaviour.location}
        body = json.dumps({"type": "error", "error": error}).encode()
        return await self._send(behaviour.status, body, headers)

    async def _send_whole(self, call: Call, behaviour: Behaviour) -> bool:
        body = whole_body(call, behaviour)
        if behaviour.cut == "middle" or behaviour.stall == "middle":
            self._writer.write(
                _head(200, {"content-length": str(len(body))}) + body[: len(body) // 2]
            )
            await self._writer.drain()
            return await self._stall(call) if behaviour.stall else False
        return await self._send(200, body)

    async def _stream(self, call: Call, behaviour: Behaviour) -> bool:
        head = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
        self._writer.write(_head(200, head))
        events = stream_events(call, behaviour)
        stop_at = {"middle": len(events) // 2, "after": len(events) - 1}.get(
            behaviour.cut or behaviour.stall, len(events)
        )
        async for event in _one_by_one(events[:stop_at]):
            self._writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await self._writer.drain()
        if behaviour.stall or behaviour.linger:
            return await self._stall(call)
        if behaviour.cut:
            return False
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        return True

    async def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> bool:
        head = {"content-type": "application/json", "content-length": str(len(body))}
        self._writer.write(_head(status, head | (headers or {})) + body)
        await self._writer.drain()
        return True


async def _one_by_one(events: list[bytes]) -> AsyncIterator[bytes]:
    for event in events:
        yield event
        await asyncio.sleep(0)


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Told", *(f"{k}: {v}" for k, v in headers.items() if v)]
    return "\r\n".join([*lines, "", ""]).encode()


def _is_openai(call: Call) -> bool:
    return call.path.endswith("/chat/completions")


def whole_body(call: Call, behaviour: Behaviour) -> bytes:
    text = answer_text(call.model, call.prompt) if behaviour.text is None else behaviour.text
    message = (
        _completion(call, text, behaviour) if _is_openai(call) else _message(call, text, behaviour)
    )
    if behaviour.usage == "none":
        del message["usage"]
    if behaviour.error_in_stream:
        message = {"error": {"type": behaviour.error_in_stream, "message": "as told"}}
    if behaviour.malformed == "shape":
        message = {"id": "x", "choices": [], "content": "no list"}
    return _spoilt(json.dumps(message, ensure_ascii=False).encode(), behaviour)


def _spoilt(body: bytes, behaviour: Behaviour) -> bytes:
    match behaviour.malformed:
        case "json" | "unfinished":
            return body[: len(body) // 2]
        case "utf8":
            return body.replace("“".encode(), b"\xff\xfe", 1)
        case "html":
            return b"<html><body>It works!</body></html>"
        case "empty":
            return b""
        case _:
            return body


def _completion(call: Call, text: str, behaviour: Behaviour) -> Json:
    message = {"role": "assistant", "content": text, "refusal": None}
    reason = behaviour.finish_reason or "stop"
    return {
        "id": f"chatcmpl-{call.number}",
        "object": "chat.completion",
        "created": 1,
        "model": f"{call.model}-2026-01-01",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": _usage(call, text, behaviour),
    }


def _message(call: Call, text: str, behaviour: Behaviour) -> Json:
    return {
        "id": f"msg_{call.number}",
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": text}],
        "stop_reason": behaviour.finish_reason or "end_turn",
        "usage": _usage(call, text, behaviour),
    }


def _usage(call: Call, text: str, behaviour: Behaviour) -> Json | None:
    if behaviour.usage in {"none", "null"}:
        return None
    make = openai_usage if _is_openai(call) else anthropic_usage
    return make(call, text, behaviour)


def stream_events(call: Call, behaviour: Behaviour) -> list[bytes]:
    text = answer_text(call.model, call.prompt) if behaviour.text is None else behaviour.text
    make = _openai_stream if _is_openai(call) else _anthropic_stream
    events = list(make(call, text, behaviour))
    if behaviour.error_in_stream:
        error = {"type": behaviour.error_in_stream, "message": "as told"}
        failed = _event("error", {"type": "error", "error": error})
        return [failed] if behaviour.error_first else [*events[: len(events) // 2], failed]
    if behaviour.malformed:
        return _spoilt_events(events, behaviour)
    return events[:-1] if behaviour.no_end else events


def _spoilt_events(events: list[bytes], behaviour: Behaviour) -> list[bytes]:
    half = events[: len(events) // 2]
    match behaviour.malformed:
        case "json" | "shape":
            return [*half, b'event: x\ndata: {"type": "content_block_delta", "cho\n\n', *events]
        case "utf8":
            return [event.replace("“".encode(), b"\xff\xfe", 1) for event in events]
        case "html":
            return [b"<html>\n\n<body>It works!</body></html>\n\n"]
        case "empty":
            return [events[-1]]
        case _:
            return half


def _pieces(text: str) -> Iterator[str]:
    size = max(1, -(-len(text) // PIECES))
    return (text[start : start + size] for start in range(0, len(text), size))


def _event(name: str, data: Json) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _openai_stream(call: Call, text: str, behaviour: Behaviour) -> Iterator[bytes]:
    def chunk(choices: list[Json], usage: Json | None = None) -> bytes:
        told = {
            "id": f"chatcmpl-{call.number}",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": f"{call.model}-2026-01-01",
            "choices": choices,
            "usage": usage,
        }
        return f"data: {json.dumps(told, ensure_ascii=False)}\n\n".encode()

    def choice(delta: Json, reason: str | None = None) -> list[Json]:
        return [{"index": 0, "delta": delta, "finish_reason": reason}]

    usage = _usage(call, text, behaviour)
    asked = call.body.get("stream_options", {}).get("include_usage", False)
    yield b": a comment\n\n"
    yield chunk(choice({"role": "assistant", "content": ""}))
    for piece in _pieces(text):
        yield chunk(choice({"content": piece}))
    last = usage if behaviour.usage_with_choice else None
    yield chunk(choice({}, behaviour.finish_reason or "stop"), last)
    if usage is not None and asked and not behaviour.usage_with_choice:
        yield chunk([], usage)
    yield b"data: [DONE]\r\n\r\n"


def _anthropic_stream(call: Call, text: str, behaviour: Behaviour) -> Iterator[bytes]:
    final = _usage(call, text, behaviour)
    started = None if final is None else final | {"output_tokens": 1, "service_tier": "standard"}
    message: Json = {"id": f"msg_{call.number}", "type": "message", "model": call.model}
    yield _event(
        "message_start", {"type": "message_start", "message": message | {"usage": started}}
    )
    yield _event("ping", {"type": "ping"})
    thought = {"type": "thinking_delta", "thinking": "hm"}
    yield _event("content_block_delta", {"type": "content_block_delta", "delta": thought})
    start = {"type": "content_block_start", "content_block": {"type": "text", "text": ""}}
    yield _event("content_block_start", start)
    for piece in _pieces(text):
        delta = {"type": "text_delta", "text": piece}
        yield _event("content_block_delta", {"type": "content_block_delta", "delta": delta})
    end: Json = {
        "type": "message_delta",
        "delta": {"stop_reason": behaviour.finish_reason or "end_turn"},
    }
    spent = None if final is None else final | {"input_tokens": None, "service_tier": None}
    yield _event("message_delta", end | ({} if spent is None else {"usage": spent}))
    yield _event("message_stop", {"type": "message_stop"})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path, default=None)
    chosen = parser.parse_args(arguments)
    with LlmServer(port=chosen.port, log=chosen.log) as server:
        sys.stdout.write(f"{server.port}\n")
        sys.stdout.flush()
        server.join()


if __name__ == "__main__":
    main()
