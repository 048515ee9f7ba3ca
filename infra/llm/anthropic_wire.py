"""The Anthropic messages API."""

from typing import TYPE_CHECKING

from commands.processes.model_calls import ModelRequest
from domain.events import JsonObject
from domain.tokens import TokenCounts, anthropic_tokens
from infra.failpoints import failpoint
from infra.llm.exchange import EventStream, Reply, Timeouts, WholeBody, object_in, receive
from infra.llm.faults import malformed, status_fault, told_fault, transport_fault
from infra.llm.json_values import as_object, as_objects, as_text
from infra.llm.transport import http_client

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic


class AnthropicWire:
    """Sends no sampling settings: since API version 2026-10-21 each of them is a 400."""

    def __init__(self, *, api_key: str, base_url: str, timeouts: Timeouts) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._timeouts = timeouts
        self._client: AsyncAnthropic | None = None

    async def ask(self, request: ModelRequest, reply: Reply) -> None:
        import anthropic  # noqa: PLC0415

        reader = (
            EventStream(lambda data: _take_event(reply, object_in(data)))
            if request.stream
            else WholeBody(lambda body: _take_message(reply, body))
        )
        failpoint("llm.before_anthropic")
        opened = self._opened_client().messages.with_streaming_response.create(
            model=request.model,
            messages=[{"role": "user", "content": request.prompt}],
            max_tokens=request.max_tokens,
            stream=request.stream,
            system=request.system or anthropic.omit,
        )
        try:
            await receive(opened, reader, reply, self._timeouts)
        except anthropic.APIStatusError as refused:
            raise status_fault(refused.response, refused.body) from None
        except anthropic.APIConnectionError as broken:
            raise transport_fault(broken.__cause__) from None

    def tokens(self, usage: JsonObject) -> TokenCounts:
        return anthropic_tokens(usage)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    def _opened_client(self) -> "AsyncAnthropic":
        from anthropic import AsyncAnthropic  # noqa: PLC0415

        if self._client is None:
            self._client = AsyncAnthropic(
                api_key=self._api_key,
                base_url=self._base_url,
                max_retries=0,
                http_client=http_client(self._timeouts),
            )
        return self._client


def _take_message(reply: Reply, message: JsonObject) -> None:
    if error := as_object(message.get("error")):
        raise told_fault(error, begun=reply.begun)
    if not isinstance(message.get("content"), list):
        raise malformed("the answer holds no content")
    reply.name(message)
    reply.add_usage(message.get("usage"))
    for block in as_objects(message.get("content")):
        _take_text(reply, block, kind="text")
    reply.finish_reason = as_text(message.get("stop_reason"))
    reply.ended = True


def _take_event(reply: Reply, event: JsonObject) -> None:
    match event.get("type"):
        case "message_start":
            message = as_object(event.get("message"))
            reply.name(message)
            reply.add_usage(message.get("usage"))
        case "content_block_start":
            _take_text(reply, as_object(event.get("content_block")), kind="text")
        case "content_block_delta":
            _take_text(reply, as_object(event.get("delta")), kind="text_delta")
        case "message_delta":
            reply.finish_reason = as_text(as_object(event.get("delta")).get("stop_reason"))
            reply.add_usage(event.get("usage"))
        case "message_stop":
            reply.ended = True
        case "error":
            raise told_fault(as_object(event.get("error")), begun=reply.begun)
        case _:
            pass


def _take_text(reply: Reply, block: JsonObject, *, kind: str) -> None:
    if block.get("type") == kind:
        reply.add_text(as_text(block.get("text")))
