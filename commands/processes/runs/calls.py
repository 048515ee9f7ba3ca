"""A model call as it is recorded: about to be made, answered, failed."""

import msgspec

from commands.processes.model_calls import ModelAnswer, ModelCallError, ModelRequest, ModelTarget
from domain.agents import ModelConfig
from domain.events import Blob
from domain.usage import CallSubject, ModelCallCompleted, ModelCallFailed, ModelCallRequested

ERROR_MAX = 500
"""Characters of a provider's complaint that are kept."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A call about to be made.

    Attributes:
        asked: What the agent names, or else its workspace's settings; a provider that is empty is
            whatever the models take.
    """

    step: int
    attempt: int
    subject: CallSubject
    target: ModelTarget
    asked: ModelConfig
    request: ModelRequest


def requested(prepared: Prepared, call_id: str, prompt: Blob) -> ModelCallRequested:
    named = bool(prepared.target.substituted and prepared.asked.provider)
    asked = prepared.asked if named else None
    return ModelCallRequested(
        call_id=call_id,
        subject=prepared.subject,
        provider=prepared.target.provider,
        model=prepared.target.model,
        asked_provider=asked.provider if asked else None,
        asked_model=asked.model_id if asked else None,
        substituted=prepared.target.substituted,
        prompt=prompt,
        temperature=prepared.request.temperature,
        max_tokens=prepared.request.max_tokens,
    )


def completed(
    prepared: Prepared, call_id: str, answer: ModelAnswer, output: Blob
) -> ModelCallCompleted:
    return ModelCallCompleted(
        call_id=call_id,
        subject=prepared.subject,
        provider=answer.provider,
        model=answer.model,
        response_id=answer.response_id,
        finish_reason=answer.finish_reason,
        output=output,
        usage=answer.usage,
        tokens=answer.tokens,
        cost=answer.cost,
        latency_ms=answer.latency_ms,
    )


def failed(
    prepared: Prepared, call_id: str, error: ModelCallError, partial: Blob | None
) -> ModelCallFailed:
    return ModelCallFailed(
        call_id=call_id,
        subject=prepared.subject,
        provider=prepared.target.provider,
        model=prepared.target.model,
        kind=error.kind,
        error=str(error)[:ERROR_MAX],
        in_doubt=error.in_doubt,
        partial=partial,
        usage=error.usage,
        tokens=error.tokens,
        cost=error.cost,
        latency_ms=error.latency_ms,
    )
