"""Traces by OpenTelemetry: a span for each request, and one for each call of a language model.

Imported only where traces are wanted. No span holds what was asked or answered, a query, a header,
or a path but its template.
"""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from commands.processes.model_calls import (
    ModelAnswer,
    ModelCallError,
    ModelProvider,
    ModelRequest,
    ModelTarget,
)

SPANS_WAITING_MAX = 2_048
"""In one process; what is more, because the collector is slow, is dropped."""

EXPORT_MAX_S = 3.0
CLOSE_MAX_S = 5.0
"""How long the last spans have at the end."""

PARENT = {b"traceparent", b"tracestate"}
PROBES = "/health"

_propagator = TraceContextTextMapPropagator()


class Traces:
    """Makes spans and sends them in the background."""

    def __init__(self, exporter: SpanExporter) -> None:
        resource = Resource.create(
            {"service.name": "automatos", "service.version": version("automatos")}
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        # All that waits goes in one request: the end of the process waits for one at most.
        batches = BatchSpanProcessor(
            exporter, max_queue_size=SPANS_WAITING_MAX, max_export_batch_size=SPANS_WAITING_MAX
        )
        self._provider.add_span_processor(batches)
        self._tracer = self._provider.get_tracer("automatos")

    def around(self, app: ASGIApp) -> ASGIApp:
        """Wrap an application: each request is a span, whoever else traced it before."""

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP or scope["path"].startswith(PROBES):
                await app(scope, receive, send)
                return
            with self._span("HTTP", SpanKind.SERVER, _parent(scope)) as span:
                await app(scope, receive, _noting(span, send))
                _name(span, scope)

        return handle

    def of_models(self, models: ModelProvider) -> ModelProvider:
        return _Traced(models, self)

    @contextmanager
    def _span(self, name: str, kind: SpanKind, parent: Context | None = None) -> Generator[Span]:
        # An exception's text may hold what nobody is to read in a trace.
        with self._tracer.start_as_current_span(
            name, parent, kind, record_exception=False, set_status_on_exception=False
        ) as span:
            yield span

    @contextmanager
    def call(self, request: ModelRequest) -> Generator[Span]:
        """Trace a call by the semantic conventions for generative AI."""
        with self._span(f"chat {request.model}", SpanKind.CLIENT) as span:
            span.set_attribute("gen_ai.operation.name", "chat")
            span.set_attribute("gen_ai.provider.name", request.provider)
            span.set_attribute("gen_ai.request.model", request.model)
            yield span

    async def close(self) -> None:
        """Send what is left, within a bound."""
        traces_to.cache_clear()
        try:
            async with asyncio.timeout(CLOSE_MAX_S):
                await asyncio.to_thread(self._provider.shutdown)
        except TimeoutError:
            return


class _Traced:
    """Implements `ModelProvider`: the one it is given, with a span around each call."""

    def __init__(self, models: ModelProvider, traces: Traces) -> None:
        self._models = models
        self._traces = traces

    def target(self, provider: str | None, model: str | None) -> ModelTarget:
        return self._models.target(provider, model)

    async def complete(self, request: ModelRequest) -> ModelAnswer:
        with self._traces.call(request) as span:
            try:
                answer = await self._models.complete(request)
            except ModelCallError as error:
                span.set_attribute("error.type", error.kind)
                span.set_attribute("automatos.in_doubt", error.in_doubt)
                span.set_status(StatusCode.ERROR)
                raise
            _tell(span, answer)
            return answer


def _tell(span: Span, answer: ModelAnswer) -> None:
    span.set_attribute("gen_ai.response.model", answer.model)
    span.set_attribute("gen_ai.response.id", answer.response_id)
    span.set_attribute("gen_ai.response.finish_reasons", [answer.finish_reason])
    tokens = answer.tokens
    if tokens is not None:
        asked = tokens.input + tokens.cache_read + tokens.cache_write
        span.set_attribute("gen_ai.usage.input_tokens", asked)
        span.set_attribute("gen_ai.usage.output_tokens", tokens.output + tokens.reasoning)


def _parent(scope: Scope) -> Context:
    carrier = {
        name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in PARENT
    }
    return _propagator.extract(carrier)


def _noting(span: Span, answer: Send) -> Send:
    async def noted(message: Message) -> None:
        if message["type"] == "http.response.start":
            status = message["status"]
            span.set_attribute("http.response.status_code", status)
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                span.set_attribute("error.type", str(status))
                span.set_status(StatusCode.ERROR)
        await answer(message)

    return noted


def _name(span: Span, scope: Any) -> None:  # noqa: ANN401 its template has no type
    """Name a request when its route is known."""
    method, template = scope["method"], scope.get("path_template")
    span.set_attribute("http.request.method", method)
    span.set_attribute("url.scheme", scope["scheme"])
    if template:
        span.set_attribute("http.route", template)
    span.update_name(f"{method} {template}" if template else method)


@lru_cache(maxsize=1)
def traces_to(endpoint: str) -> Traces:
    """Give this process's traces, sent to a collector that speaks OTLP over HTTP."""
    url = f"{endpoint.rstrip('/')}/v1/traces"
    return Traces(OTLPSpanExporter(url, timeout=EXPORT_MAX_S))
