from collections.abc import Iterator
from typing import Literal

import pytest

from domain.tokens import TokenCounts
from tests.llm_calls import HASTY, ask, ask_in_vain, question
from tests.llm_server import Behaviour, LlmServer, answer_text, openai_usage, word_count

STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
PROMPT = "Why is the sky blue?"
TEXT = answer_text("gpt-4o-mini", PROMPT)


@pytest.fixture(scope="module")
def running() -> Iterator[LlmServer]:
    with LlmServer() as server:
        yield server


@pytest.fixture
def server(running: LlmServer) -> LlmServer:
    running.calls.clear()
    return running


@STREAMED
async def test_an_answer_is_text_names_usage_tokens_and_cost(
    server: LlmServer, *, stream: bool
) -> None:
    answer = await ask(server, question("openai", stream=stream))
    (call,) = server.calls
    assert answer.text == TEXT
    assert answer.provider == "openai"
    assert answer.model == "gpt-4o-mini-2026-01-01"
    assert answer.response_id == f"chatcmpl-{call.number}"
    assert answer.finish_reason == "stop"
    assert answer.usage == openai_usage(call, TEXT, Behaviour())
    assert answer.tokens == TokenCounts(input=7, output=word_count(TEXT))
    assert answer.cost is not None
    assert answer.cost.total_nano_usd == 7 * 150 + word_count(TEXT) * 600
    assert answer.latency_ms >= 0


@STREAMED
async def test_cached_and_reasoning_tokens_are_counted_once(
    server: LlmServer, *, stream: bool
) -> None:
    server.next(Behaviour(usage="detailed"))
    answer = await ask(server, question("openai", stream=stream))
    assert answer.usage == openai_usage(server.calls[0], TEXT, Behaviour(usage="detailed"))
    assert answer.tokens == TokenCounts(
        input=7, cache_read=900, cache_write=100, output=word_count(TEXT), reasoning=300
    )
    assert answer.tokens.total == answer.usage["total_tokens"]


async def test_usage_in_the_chunk_that_ends_the_choice_counts(server: LlmServer) -> None:
    server.next(Behaviour(usage_with_choice=True))
    answer = await ask(server, question("openai", stream=True))
    assert answer.tokens == TokenCounts(input=7, output=word_count(TEXT))


@STREAMED
@pytest.mark.parametrize("usage", ["none", "null"])
async def test_missing_usage_is_unknown_not_free(
    server: LlmServer, *, stream: bool, usage: Literal["none", "null"]
) -> None:
    server.next(Behaviour(usage=usage))
    answer = await ask(server, question("openai", stream=stream))
    assert answer.text == TEXT
    assert (answer.usage, answer.tokens, answer.cost) == (None, None, None)


@STREAMED
async def test_everything_asked_is_told(server: LlmServer, *, stream: bool) -> None:
    await ask(server, question("openai", stream=stream))
    (call,) = server.calls
    assert call.body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": PROMPT},
    ]
    expected = {"max_tokens": 2000, "temperature": 0.7, "top_p": 1.0}
    assert expected.items() <= call.body.items()
    assert call.body.get("stream_options") == ({"include_usage": True} if stream else None)
    assert call.authorization == "Bearer sk-secret-of-openai"


@pytest.mark.parametrize("model", ["gpt-5", "gpt-5.1-mini", "o3", "o4-mini"])
async def test_models_with_fixed_sampling_are_not_told_any(server: LlmServer, model: str) -> None:
    await ask(server, question("openai", stream=False, model=model))
    body = server.calls[0].body
    assert body["max_completion_tokens"] == 2000
    assert not {"max_tokens", "temperature", "top_p", "presence_penalty"} & body.keys()


@pytest.mark.parametrize("model", ["gpt-5-chat-latest", "gpt-4o", "openai/gpt-oss-120b"])
async def test_other_models_are_told_the_temperature(server: LlmServer, model: str) -> None:
    await ask(server, question("openai", stream=False, model=model))
    assert server.calls[0].body["temperature"] == 0.7


async def test_no_system_prompt_is_no_system_message(server: LlmServer) -> None:
    request = question("openai", stream=False)
    await ask(server, type(request)(provider="openai", model="m", system="", prompt="Hi"))
    assert server.calls[0].body["messages"] == [{"role": "user", "content": "Hi"}]


@STREAMED
async def test_hugging_face_speaks_the_same_format(server: LlmServer, *, stream: bool) -> None:
    answer = await ask(server, question("huggingface", stream=stream))
    assert answer.text == answer_text("meta/llama:groq", PROMPT)
    assert answer.provider == "huggingface"
    assert server.calls[0].authorization == "Bearer hf_secret"


async def test_a_stream_without_done_is_whole_when_the_choice_has_ended(server: LlmServer) -> None:
    server.next(Behaviour(no_end=True))
    assert (await ask(server, question("openai", stream=True))).text == TEXT


@pytest.mark.parametrize("behaviour", [Behaviour(cut="after"), Behaviour(stall="after")])
async def test_a_break_after_the_last_word_costs_only_what_was_to_come(
    server: LlmServer, behaviour: Behaviour
) -> None:
    server.next(behaviour)
    answer = await ask(server, question("openai", stream=True), HASTY)
    assert answer.text == TEXT


async def test_a_stream_of_nothing_but_its_end_is_malformed(server: LlmServer) -> None:
    server.next(Behaviour(malformed="empty"))
    assert (await ask_in_vain(server, question("openai", stream=True))).kind == "malformed"


async def test_the_environment_adds_nothing_to_a_call(
    server: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "ambient")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    await ask(server, question("huggingface", stream=False))
    assert "ambient" not in {server.calls[0].authorization, *server.calls[0].headers.values()}
