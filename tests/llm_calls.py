"""What the tests of both wire formats share."""

import pytest

from commands.processes.model_calls import ModelAnswer, ModelCallError, ModelRequest
from infra.llm.exchange import Timeouts
from infra.llm.providers import LanguageModels, ModelSettings
from infra.prices import PriceBook
from tests.llm_server import LlmServer

KEYS = {
    "openai": "sk-secret-of-openai",
    "anthropic": "sk-ant-secret",
    "huggingface": "hf_secret",
}
MODELS = {
    "openai": "gpt-4o-mini",
    "anthropic": "claude-opus-5",
    "huggingface": "meta/llama:groq",
}
PATIENT = Timeouts(connect_s=5, first_byte_s=20, between_chunks_s=20, total_s=40)
HASTY = Timeouts(connect_s=5, first_byte_s=0.25, between_chunks_s=0.25, total_s=20)


def models_at(server: LlmServer, timeouts: Timeouts = PATIENT) -> LanguageModels:
    return models_at_url(server.url, timeouts)


def models_at_url(url: str, timeouts: Timeouts = PATIENT) -> LanguageModels:
    base_urls = {"openai": f"{url}/v1", "anthropic": url, "huggingface": f"{url}/v1"}
    return LanguageModels(
        ModelSettings(api_keys=KEYS, base_urls=base_urls, timeouts=timeouts), PriceBook()
    )


def question(
    provider: str, *, stream: bool, prompt: str = "Why is the sky blue?", model: str = ""
) -> ModelRequest:
    return ModelRequest(
        provider=provider,
        model=model or MODELS[provider],
        system="Be brief.",
        prompt=prompt,
        stream=stream,
    )


async def ask(
    server: LlmServer, request: ModelRequest, timeouts: Timeouts = PATIENT
) -> ModelAnswer:
    models = models_at(server, timeouts)
    try:
        return await models.complete(request)
    finally:
        await models.close()


async def ask_in_vain(
    server: LlmServer, request: ModelRequest, timeouts: Timeouts = PATIENT
) -> ModelCallError:
    with pytest.raises(ModelCallError) as caught:
        await ask(server, request, timeouts)
    return caught.value
