from collections.abc import Iterator
from typing import Literal

import pytest

from domain.tokens import TokenCounts
from tests.llm_calls import ask, ask_in_vain, question
from tests.llm_server import Behaviour, LlmServer, answer_text, anthropic_usage, word_count

STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
PROMPT = "Why is the sky blue?"
TEXT = answer_text("claude-opus-5", PROMPT)


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
    answer = await ask(server, question("anthropic", stream=stream))
    (call,) = server.calls
    assert answer.text == TEXT
    assert answer.provider == "anthropic"
    assert answer.model == "claude-opus-5"
    assert answer.response_id == f"msg_{call.number}"
    assert answer.finish_reason == "end_turn"
    assert answer.tokens == TokenCounts(input=7, output=word_count(TEXT))
    assert answer.cost is not None
    assert answer.cost.total_nano_usd == 7 * 5000 + word_count(TEXT) * 25000


@STREAMED
async def test_the_final_usage_wins_and_what_it_leaves_out_stays(
    server: LlmServer, *, stream: bool
) -> None:
    detailed = Behaviour(usage="detailed")
    server.next(detailed)
    answer = await ask(server, question("anthropic", stream=stream))
    assert answer.usage == anthropic_usage(server.calls[0], TEXT, detailed)
    assert answer.tokens == TokenCounts(
        input=7, cache_read=900, cache_write=100, output=word_count(TEXT), reasoning=300
    )


@STREAMED
@pytest.mark.parametrize("usage", ["none", "null"])
async def test_missing_usage_is_unknown_not_free(
    server: LlmServer, *, stream: bool, usage: Literal["none", "null"]
) -> None:
    server.next(Behaviour(usage=usage))
    answer = await ask(server, question("anthropic", stream=stream))
    assert answer.text == TEXT
    assert (answer.usage, answer.tokens, answer.cost) == (None, None, None)


@STREAMED
async def test_sampling_settings_are_left_out_because_they_are_refused(
    server: LlmServer, *, stream: bool
) -> None:
    await ask(server, question("anthropic", stream=stream))
    (call,) = server.calls
    told = {key: value for key, value in call.body.items() if key != "stream"}
    assert told == {
        "model": "claude-opus-5",
        "max_tokens": 2000,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": PROMPT}],
    }
    assert call.authorization.removeprefix("Bearer ") == "sk-ant-secret"


async def test_a_stream_without_message_stop_is_whole_after_the_stop_reason(
    server: LlmServer,
) -> None:
    server.next(Behaviour(no_end=True))
    answer = await ask(server, question("anthropic", stream=True))
    assert answer.text == TEXT
    assert answer.tokens is not None


async def test_what_a_broken_stream_had_cost_is_told(server: LlmServer) -> None:
    server.next(Behaviour(cut="middle"))
    error = await ask_in_vain(server, question("anthropic", stream=True))
    assert error.usage == {"input_tokens": 7, "output_tokens": 1, "service_tier": "standard"}
    assert error.tokens == TokenCounts(input=7, output=1)
    assert error.cost is not None
    assert error.cost.input_nano_usd == 35_000


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("overloaded_error", "overloaded"),
        ("rate_limit_error", "rate_limited"),
        ("api_error", "server_error"),
        ("timeout_error", "timeout"),
        ("invalid_request_error", "invalid_request"),
        ("authentication_error", "authentication"),
    ],
)
async def test_an_error_event_keeps_its_kind(server: LlmServer, name: str, kind: str) -> None:
    server.next(Behaviour(error_in_stream=name, error_first=True))
    error = await ask_in_vain(server, question("anthropic", stream=True))
    assert (error.kind, error.in_doubt) == (kind, False)


async def test_the_environment_adds_nothing_to_a_call(
    server: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE"):
        monkeypatch.setenv(name, "ambient")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    await ask(server, question("anthropic", stream=False))
    (call,) = server.calls
    assert "ambient" not in call.authorization
    assert "ambient" not in "".join(call.headers.values())
