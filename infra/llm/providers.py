"""All language models behind the one port, with what is left when there is no key."""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import import_module
from typing import Final

import msgspec

from commands.processes.model_calls import (
    FailureKind,
    ModelAnswer,
    ModelCallError,
    ModelRequest,
    ModelTarget,
)
from domain.tokens import Cost, TokenCounts
from infra.failpoints import failpoint
from infra.llm.anthropic_wire import AnthropicWire
from infra.llm.exchange import Reply, Timeouts, Wire
from infra.llm.faults import Fault
from infra.llm.offline import OFFLINE, OFFLINE_COST, OFFLINE_MODEL, OfflineWire
from infra.llm.openai_wire import OpenAIWire
from infra.prices import PriceBook

BASE_URLS: Final[Mapping[str, str]] = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "huggingface": "https://router.huggingface.co/v1",
}

_LIBRARIES: Final[Mapping[str, tuple[str, ...]]] = {
    "openai": ("openai.resources.chat.completions", "genai_prices.data"),
    "anthropic": ("anthropic.resources.messages", "genai_prices.data"),
    "huggingface": ("openai.resources.chat.completions", "genai_prices.data"),
}
"""What the first call to a provider imports, for a second or more."""

_RETRYABLE: Final[frozenset[FailureKind]] = frozenset(
    {"rate_limited", "overloaded", "server_error", "timeout", "connection", "malformed"}
)


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which models an installation can ask.

    Attributes:
        api_keys: By provider; empty or absent for none.
        base_urls: By provider, where they differ from `BASE_URLS`.
        offline_when_no_key: Answer with the offline model instead of refusing.
    """

    api_keys: Mapping[str, str] = {}
    base_urls: Mapping[str, str] = {}
    default_provider: str = "openai"
    default_model: str = "gpt-5-mini"
    offline_when_no_key: bool = False
    timeouts: Timeouts = Timeouts()

    def __post_init__(self) -> None:
        for provider, url in self.base_urls.items():
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"The base URL of {provider} must begin with http:// or https://")

    def __repr__(self) -> str:
        """Keys stay out of logs and tracebacks."""
        return f"ModelSettings(providers={sorted(p for p, key in self.api_keys.items() if key)})"


def utc_now() -> datetime:
    return datetime.now(UTC)


class LanguageModels:
    """Implements `ModelProvider`. Clients are made at the first call and kept until `close`."""

    def __init__(
        self,
        settings: ModelSettings,
        prices: PriceBook,
        *,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._settings = settings
        self._prices = prices
        self._now = now
        self._loaded: set[str] = set()
        self._wires = {provider: _wire(settings, provider) for provider in BASE_URLS} | {
            OFFLINE: OfflineWire()
        }

    def target(self, provider: str | None, model: str | None) -> ModelTarget:
        chosen = provider or self._settings.default_provider
        if chosen == OFFLINE:
            return ModelTarget(provider=OFFLINE, model=OFFLINE_MODEL)
        if self._missing_key(chosen) and self._settings.offline_when_no_key:
            return ModelTarget(
                provider=OFFLINE, model=OFFLINE_MODEL, substituted=f"no key for {chosen}"
            )
        self._checked_wire(chosen)
        return ModelTarget(provider=chosen, model=model or self._default_model(chosen))

    async def complete(self, request: ModelRequest) -> ModelAnswer:
        failpoint("llm.intent_stored")
        wire = self._checked_wire(request.provider)
        await self._load(request.provider)
        reply = Reply()
        started = time.monotonic()
        try:
            await _ask(wire, request, reply)
        except Fault as fault:
            raise self._error(request, reply, fault, _ms_since(started)) from None
        failpoint("llm.response_read")
        tokens, cost = self._metered(request, reply)
        return ModelAnswer(
            text=reply.text,
            provider=request.provider,
            model=reply.model or request.model,
            response_id=reply.response_id,
            finish_reason=reply.finish_reason,
            usage=reply.usage,
            tokens=tokens,
            cost=cost,
            latency_ms=_ms_since(started),
        )

    async def close(self) -> None:
        for wire in self._wires.values():
            await wire.close()

    async def _load(self, provider: str) -> None:
        """Import in a thread, so that the loop's other work goes on."""
        for library in _LIBRARIES.get(provider, ()):
            if library not in self._loaded:
                await asyncio.to_thread(import_module, library)
                self._loaded.add(library)

    def _missing_key(self, provider: str) -> bool:
        return provider in BASE_URLS and not self._settings.api_keys.get(provider)

    def _default_model(self, provider: str) -> str:
        if provider != self._settings.default_provider:
            raise _not_configured(f"No model is named for {provider}.")
        return self._settings.default_model

    def _checked_wire(self, provider: str) -> Wire:
        if provider not in self._wires:
            raise _not_configured(f"There is no provider {provider!r}.")
        if self._missing_key(provider):
            raise _not_configured(f"There is no key for {provider}.")
        key = self._settings.api_keys.get(provider, "")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise _not_configured(f"The key for {provider} holds characters that no key has.")
        return self._wires[provider]

    def _error(
        self, request: ModelRequest, reply: Reply, fault: Fault, latency_ms: int
    ) -> ModelCallError:
        tokens, cost = self._metered(request, reply)
        return ModelCallError(
            self._without_key(f"{request.provider}: {fault}", request.provider),
            kind=fault.kind,
            retryable=fault.kind in _RETRYABLE,
            retry_after_s=fault.retry_after_s,
            in_doubt=fault.in_doubt,
            partial_text=reply.text,
            usage=reply.usage,
            tokens=tokens,
            cost=cost,
            latency_ms=latency_ms,
        )

    def _without_key(self, message: str, provider: str) -> str:
        key = self._settings.api_keys.get(provider, "")
        return message.replace(key, "[key]") if key else message

    def _metered(
        self, request: ModelRequest, reply: Reply
    ) -> tuple[TokenCounts | None, Cost | None]:
        if reply.usage is None:
            return None, None
        tokens = self._wires[request.provider].tokens(reply.usage)
        if request.provider == OFFLINE:
            return tokens, OFFLINE_COST
        names = dict.fromkeys((reply.model or request.model, request.model))
        costs = (
            self._prices.cost(request.provider, name, tokens, at=self._now()) for name in names
        )
        return tokens, next((cost for cost in costs if cost is not None), None)


async def _ask(wire: Wire, request: ModelRequest, reply: Reply) -> None:
    try:
        await wire.ask(request, reply)
    except UnicodeEncodeError:
        raise Fault("the prompt is not valid Unicode", kind="invalid_request") from None


def _wire(settings: ModelSettings, provider: str) -> Wire:
    kind = AnthropicWire if provider == "anthropic" else OpenAIWire
    return kind(
        api_key=settings.api_keys.get(provider, ""),
        base_url=settings.base_urls.get(provider) or BASE_URLS[provider],
        timeouts=settings.timeouts,
    )


def _ms_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def _not_configured(message: str) -> ModelCallError:
    return ModelCallError(message, kind="not_configured", retryable=False)
