"""What goes wrong on the way goes wrong alike for all providers."""

import asyncio
import socket
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Literal, TypeAlias

import pytest

from commands.processes.model_calls import ModelCallError
from infra.llm.exchange import TEXT_BYTES_MAX, Timeouts
from infra.llm.faults import retry_after_s
from tests.llm_calls import (
    HASTY,
    KEYS,
    MODELS,
    PATIENT,
    ask,
    ask_in_vain,
    models_at,
    models_at_url,
    question,
)
from tests.llm_server import Behaviour, LlmServer, answer_text

PROVIDER = pytest.mark.parametrize("provider", ["openai", "anthropic"])
Malformed: TypeAlias = Literal["json", "utf8", "unfinished", "html", "shape"]
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def running() -> Iterator[LlmServer]:
    with LlmServer() as server:
        yield server


@pytest.fixture
def server(running: LlmServer) -> LlmServer:
    running.calls.clear()
    running.log.aborted.clear()
    return running


@PROVIDER
@STREAMED
@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, "invalid_request", False),
        (401, "authentication", False),
        (403, "authentication", False),
        (404, "invalid_request", False),
        (422, "invalid_request", False),
        (429, "rate_limited", True),
        (500, "server_error", True),
        (502, "server_error", True),
        (503, "overloaded", True),
        (504, "server_error", True),
        (529, "overloaded", True),
    ],
)
async def test_a_status_has_one_kind_and_is_asked_once(
    server: LlmServer, provider: str, *, stream: bool, status: int, kind: str, retryable: bool
) -> None:
    server.next(Behaviour(status=status))
    error = await ask_in_vain(server, question(provider, stream=stream))
    assert (error.kind, error.retryable, error.in_doubt) == (kind, retryable, False)
    assert f"status {status}: refused as told" in str(error)
    assert error.retry_after_s is None
    assert len(server.calls) == 1


@PROVIDER
async def test_the_wait_a_provider_wishes_is_told(server: LlmServer, provider: str) -> None:
    server.next(Behaviour(status=429, retry_after="7"), Behaviour(status=529, retry_after="9999"))
    first = await ask_in_vain(server, question(provider, stream=False))
    second = await ask_in_vain(server, question(provider, stream=True))
    assert (first.retry_after_s, second.retry_after_s) == (7.0, 60.0)


def test_a_wait_may_be_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    wait = retry_after_s(soon)
    assert wait is not None
    assert 25 < wait <= 30


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("-3", 0.0),
        ("0.5", 0.5),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0.0),
        ("Wed, 21 Oct 2915 07:28:00 GMT", 60.0),
        ("Wed, 99 Oct 2915 07:28:00 GMT", None),
    ],
)
def test_a_wait_is_never_negative_nor_long_nor_nonsense(header: str, wait: float | None) -> None:
    assert retry_after_s(header) == wait


@PROVIDER
@STREAMED
async def test_an_echoed_key_is_never_told(
    server: LlmServer, provider: str, *, stream: bool
) -> None:
    server.next(Behaviour(status=401, echo_key=True))
    error = await ask_in_vain(server, question(provider, stream=stream))
    assert "[key]" in str(error)
    assert KEYS[provider] not in "".join(traceback.format_exception(error)) + repr(vars(error))


@PROVIDER
async def test_a_redirect_is_not_followed(server: LlmServer, provider: str) -> None:
    server.next(Behaviour(status=307, location=f"{server.url}/v1/messages"))
    error = await ask_in_vain(server, question(provider, stream=False))
    assert (error.kind, error.retryable) == ("invalid_request", False)
    assert len(server.calls) == 1


@PROVIDER
async def test_proxies_of_the_environment_are_not_used(
    server: LlmServer, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await ask(server, question(provider, stream=False))).text


@PROVIDER
@STREAMED
async def test_no_connection_means_not_sent(provider: str, *, stream: bool) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        models = models_at_url(f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ModelCallError, match="no connection") as caught:
            await models.complete(question(provider, stream=stream))
        await models.close()
    assert caught.value.kind == "connection"
    assert caught.value.retryable
    assert not caught.value.in_doubt


@PROVIDER
async def test_a_connection_that_never_opens_times_out_as_not_sent(provider: str) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [_knock(address) for _ in range(4)]
        models = models_at_url(f"http://127.0.0.1:{address[1]}", Timeouts(connect_s=0.2))
        with pytest.raises(ModelCallError, match="no connection") as caught:
            await models.complete(question(provider, stream=False))
        await models.close()
        for filler in fillers:
            filler.close()
    assert not caught.value.in_doubt


def _knock(address: tuple[str, int]) -> socket.socket:
    knocking = socket.socket()
    knocking.settimeout(0)
    knocking.connect_ex(address)
    return knocking


@PROVIDER
@STREAMED
@pytest.mark.parametrize("where", ["before", "middle"])
async def test_a_cut_leaves_doubt(
    server: LlmServer, provider: str, *, stream: bool, where: Literal["before", "middle"]
) -> None:
    server.next(Behaviour(cut=where))
    error = await ask_in_vain(server, question(provider, stream=stream))
    assert (error.kind, error.retryable, error.in_doubt) == ("connection", True, True)
    whole = answer_text(MODELS[provider], "Why is the sky blue?")
    assert whole.startswith(error.partial_text)
    assert bool(error.partial_text) == (stream and where == "middle")


@PROVIDER
@STREAMED
@pytest.mark.parametrize("where", ["before", "middle"])
async def test_a_stall_is_given_up_and_leaves_doubt(
    server: LlmServer, provider: str, *, stream: bool, where: Literal["before", "middle"]
) -> None:
    server.next(Behaviour(stall=where))
    error = await ask_in_vain(server, question(provider, stream=stream), HASTY)
    assert (error.kind, error.retryable, error.in_doubt) == ("timeout", True, True)
    assert bool(error.partial_text) == (stream and where == "middle")
    assert error.latency_ms >= 240
    server.wait_for_aborts(1)


@PROVIDER
async def test_the_first_byte_may_take_longer_than_the_next(
    server: LlmServer, provider: str
) -> None:
    timeouts = Timeouts(first_byte_s=20, between_chunks_s=0.2, total_s=20)
    server.next(Behaviour(delay_s=0.4))
    assert (await ask(server, question(provider, stream=True), timeouts)).text


@PROVIDER
async def test_the_whole_call_is_bounded_too(server: LlmServer, provider: str) -> None:
    timeouts = Timeouts(first_byte_s=20, between_chunks_s=20, total_s=0.3)
    server.next(Behaviour(stall="middle"))
    error = await ask_in_vain(server, question(provider, stream=True), timeouts)
    assert error.kind == "timeout"


@PROVIDER
@STREAMED
@pytest.mark.parametrize("how", ["json", "utf8", "unfinished", "html", "shape"])
async def test_a_broken_format_is_malformed(
    server: LlmServer, provider: str, *, stream: bool, how: Malformed
) -> None:
    server.next(Behaviour(malformed=how))
    error = await ask_in_vain(server, question(provider, stream=stream))
    assert (error.kind, error.retryable, error.in_doubt) == ("malformed", True, True)
    whole = answer_text(MODELS[provider], "Why is the sky blue?")
    assert whole.startswith(error.partial_text)
    assert bool(error.partial_text) == (stream and how in {"json", "unfinished", "shape", "utf8"})


@PROVIDER
async def test_a_body_without_a_byte_is_malformed(server: LlmServer, provider: str) -> None:
    server.next(Behaviour(malformed="empty"))
    assert (await ask_in_vain(server, question(provider, stream=False))).kind == "malformed"


@PROVIDER
@STREAMED
async def test_an_error_inside_an_answer_is_an_error(
    server: LlmServer, provider: str, *, stream: bool
) -> None:
    server.next(Behaviour(error_in_stream="overloaded_error"))
    error = await ask_in_vain(server, question(provider, stream=stream))
    assert (error.kind, error.retryable, error.in_doubt) == ("overloaded", True, stream)
    assert bool(error.partial_text) == stream


@PROVIDER
@STREAMED
async def test_an_answer_longer_than_the_limit_is_cut_and_refused(
    server: LlmServer, provider: str, *, stream: bool
) -> None:
    server.next(Behaviour(text="é" * 4_500_000))
    error = await ask_in_vain(server, question(provider, stream=stream))
    assert error.kind == "malformed"
    assert error.partial_text == "é" * (TEXT_BYTES_MAX // 2)


@PROVIDER
@STREAMED
async def test_a_long_answer_within_the_limit_is_whole(
    server: LlmServer, provider: str, *, stream: bool
) -> None:
    text = "long “answer”\n" * 20_000
    server.next(Behaviour(text=text))
    assert (await ask(server, question(provider, stream=stream))).text == text


@PROVIDER
@STREAMED
async def test_an_empty_answer_is_an_answer(
    server: LlmServer, provider: str, *, stream: bool
) -> None:
    server.next(Behaviour(text="", finish_reason="length"))
    answer = await ask(server, question(provider, stream=stream))
    assert (answer.text, answer.finish_reason) == ("", "length")


@PROVIDER
@STREAMED
async def test_cancelling_hangs_up(server: LlmServer, provider: str, *, stream: bool) -> None:
    server.next(Behaviour(stall="middle"))
    models = models_at(server)
    call = asyncio.create_task(models.complete(question(provider, stream=stream)))
    await asyncio.to_thread(server.wait_for_calls, 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.to_thread(server.wait_for_aborts, 1)
    await models.close()


@PROVIDER
async def test_a_connection_is_used_again(server: LlmServer, provider: str) -> None:
    models = models_at(server)
    before = server.connections_made
    for stream in (True, False, True):
        await models.complete(question(provider, stream=stream))
    await models.close()
    assert server.connections_made - before == 1


@PROVIDER
async def test_a_stream_that_stays_open_after_its_end_is_left(
    server: LlmServer, provider: str
) -> None:
    server.next(Behaviour(linger=True))
    answer = await ask(server, question(provider, stream=True), PATIENT)
    assert answer.text == answer_text(MODELS[provider], "Why is the sky blue?")
    assert answer.tokens is not None
    assert answer.latency_ms < 5000


@PROVIDER
async def test_a_prompt_that_is_no_unicode_is_refused_before_it_is_sent(
    server: LlmServer, provider: str
) -> None:
    error = await ask_in_vain(server, question(provider, stream=False, prompt="\ud800"))
    assert (error.kind, error.retryable) == ("invalid_request", False)
    assert server.calls == []
