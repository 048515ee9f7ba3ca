"""Traces tell how requests and calls of models went, and nothing of what they hold."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands.processes.model_calls import ModelCallError
from infra.settings import Settings
from infra.tracing import Traces, traces_to
from tests.collector import Collector
from tests.llm_calls import KEYS, MODELS, models_at, question
from tests.llm_server import Behaviour, LlmServer
from tests.read_api.conftest import serving

CANARY = "canary-4711"


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


def attributes(span: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
    }


async def test_requests_are_spans_named_by_their_route_and_take_up_the_caller_s_trace(
    collector: Collector, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path, otel_exporter_otlp_endpoint=collector.url)
    async with serving(tmp_path, settings) as served:
        client = served.tenants[0].http
        parent = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
        headers = {**parent, "X-Canary": CANARY}
        await client.get(f"/api/agents/17?search={CANARY}", headers=headers)
        await client.get(f"/{CANARY}")
        await client.post("/api/agents", json={"name": CANARY, "system_prompt": CANARY})
        await client.get("/health")
    found = {span.name: span for span in collector.spans()}
    assert set(found) == {"GET /api/agents/{agent_id}", "GET", "POST /api/agents"}
    span = found["GET /api/agents/{agent_id}"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("a" * 32, "b" * 16)
    assert attributes(span) == {
        "http.request.method": "GET",
        "http.route": "/api/agents/{agent_id}",
        "http.response.status_code": 404,
        "url.scheme": "http",
    }
    assert attributes(found["POST /api/agents"])["http.response.status_code"] == 201
    sent = b"".join(collector.bodies)
    for secret in (CANARY, served.tenants[0].key, served.tenants[0].workspace_id):
        assert secret.encode() not in sent


async def test_a_run_s_calls_are_spans_without_what_was_asked_or_answered(
    collector: Collector, tmp_path: Path
) -> None:
    settings = Settings(
        data_dir=tmp_path, llm_provider="offline", otel_exporter_otlp_endpoint=collector.url
    )
    async with serving(tmp_path, settings) as served:
        tenant = served.tenants[0]
        workflow = await tenant.three_steps()
        assert (await tenant.ended_run(workflow["id"]))["status"] == "completed"
    calls = [span for span in collector.spans() if span.name.startswith("chat ")]
    assert len(calls) == 3
    told = attributes(calls[0])
    assert told["gen_ai.provider.name"] == "offline"
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.usage.input_tokens"] > 0
    assert told["gen_ai.usage.output_tokens"] > 0
    assert b"rivers" not in b"".join(collector.bodies)


async def test_a_call_that_fails_says_why_in_our_words_only(
    collector: Collector,
) -> None:
    traces = traces_to(collector.url)
    with LlmServer() as server:
        server.next(Behaviour(status=500, echo_key=True))
        models = models_at(server)
        with pytest.raises(ModelCallError):
            await traces.of_models(models).complete(question("openai", stream=False, prompt=CANARY))
        await models.close()
    await traces.close()
    (span,) = collector.spans()
    told = attributes(span)
    assert span.name == f"chat {MODELS['openai']}"
    assert (told["error.type"], span.status.code) == ("server_error", 2)
    for secret in (CANARY, KEYS["openai"]):
        assert secret.encode() not in b"".join(collector.bodies)


async def test_a_collector_that_is_away_costs_a_process_little(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, otel_exporter_otlp_endpoint="http://127.0.0.1:1")
    async with asyncio.timeout(60), serving(tmp_path, settings) as served:
        assert (await served.tenants[0].http.get("/api/agents")).status_code == 200


def test_one_process_has_one_kind_of_traces() -> None:
    traces_to.cache_clear()
    first: Traces = traces_to("http://127.0.0.1:1")
    assert traces_to("http://127.0.0.1:1") is first
