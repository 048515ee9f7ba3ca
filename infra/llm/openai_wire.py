"""The OpenAI chat completions API, which Hugging Face's router speaks too."""

import re
from typing import TYPE_CHECKING, Final

from commands.processes.model_calls import ModelRequest
from domain.events import JsonObject
from domain.tokens import TokenCounts, openai_tokens
from infra.failpoints import failpoint
from infra.llm.exchange import EventStream, Reply, Timeouts, WholeBody, object_in, receive
from infra.llm.faults import malformed, status_fault, told_fault, transport_fault
from infra.llm.json_values import as_object, as_objects, as_text
from infra.llm.transport import http_client

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletionMessageParam

_FIXED_SAMPLING: Final = re.compile(r"(o\d|gpt-[5-9])(?!.*chat)")
"""Models that think first refuse `max_tokens` and any temperature but their own."""


class OpenAIWire:
    def __init__(self, *, api_key: str, base_url: str, timeouts: Timeouts) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._timeouts = timeouts
        self._client: AsyncOpenAI | None = None

    async def ask(self, request: ModelRequest, reply: Reply) -> None:
        import openai  # noqa: PLC0415

        reader = (
            EventStream(lambda data: _take_event(reply, data))
            if request.stream
            else WholeBody(lambda body: _take_completion(reply, body))
        )
        failpoint("llm.before_openai")
        opened = self._opened_client().chat.completions.with_streaming_response.create(
            model=request.model,
            messages=_messages(request),
            stream=request.stream,
            extra_body=_options(request),
        )
        try:
            await receive(opened, reader, reply, self._timeouts)
        except openai.APIStatusError as refused:
            raise status_fault(refused.response, refused.body) from None
        except openai.APIConnectionError as broken:
            raise transport_fault(broken.__cause__) from None

    def tokens(self, usage: JsonObject) -> TokenCounts:
        return openai_tokens(usage)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    def _opened_client(self) -> "AsyncOpenAI":
        if self._client is None:
            self._client = self._new_client()
        return self._client

    def _new_client(self) -> "AsyncOpenAI":
        """Make a client that belongs to no organisation or project of the environment."""
        from openai import AsyncOpenAI  # noqa: PLC0415

        client = AsyncOpenAI(
            api_key=self._api_key,
            base_url=self._base_url,
            max_retries=0,
            http_client=http_client(self._timeouts),
        )
        client.organization = client.project = None
        return client


def _messages(request: ModelRequest) -> "list[ChatCompletionMessageParam]":
    question: ChatCompletionMessageParam = {"role": "user", "content": request.prompt}
    if not request.system:
        return [question]
    return [{"role": "system", "content": request.system}, question]


def _options(request: ModelRequest) -> JsonObject:
    options: JsonObject = {"stream_options": {"include_usage": True}} if request.stream else {}
    if _FIXED_SAMPLING.match(request.model):
        return options | {"max_completion_tokens": request.max_tokens}
    return options | {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
    }


def _take_event(reply: Reply, data: bytes) -> None:
    if data.startswith(b"[DONE]"):
        reply.ended = True
    elif not reply.ended:
        chunk = object_in(data)
        _take_frame(reply, chunk)
        for choice in _first_choice(chunk):
            _take_choice(reply, choice, as_object(choice.get("delta")))


def _take_completion(reply: Reply, body: JsonObject) -> None:
    _take_frame(reply, body)
    choices = _first_choice(body)
    if not choices:
        raise malformed("the answer holds no choice")
    _take_choice(reply, choices[0], as_object(choices[0].get("message")))
    reply.ended = True


def _take_frame(reply: Reply, body: JsonObject) -> None:
    if error := as_object(body.get("error")):
        raise told_fault(error, begun=reply.begun)
    reply.name(body)
    reply.add_usage(body.get("usage"))


def _first_choice(body: JsonObject) -> list[JsonObject]:
    return [choice for choice in as_objects(body.get("choices")) if not choice.get("index")]


def _take_choice(reply: Reply, choice: JsonObject, message: JsonObject) -> None:
    reply.add_text(as_text(message.get("content")) or as_text(message.get("refusal")))
    reply.finish_reason = as_text(choice.get("finish_reason")) or reply.finish_reason
