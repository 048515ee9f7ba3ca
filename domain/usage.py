"""Usage: every call to a language model, as intent before it and outcome after it.

Spend is a projection of these facts, so it cannot be lost without the answer
being lost with it. Whoever calls a model records them in its own stream.
"""

from typing import TypeAlias

import msgspec

from domain.events import Blob, Event, JsonObject
from domain.tokens import Cost, TokenCounts


class CallSubject(msgspec.Struct, frozen=True, kw_only=True):
    """On whose behalf a call was made.

    Attributes:
        agent_version: Stream version of the agent whose prompt and model were used.
        step: Index of the run's step.
    """

    agent_id: int
    agent_version: int
    workflow_id: int | None = None
    run_id: int | None = None
    step: int | None = None
    step_id: str | None = None


class ModelCallRequested(Event, frozen=True, kw_only=True, tag="model_call_requested"):
    """About to ask. Recorded before a byte is sent.

    Attributes:
        provider: Who is asked. `offline` is no language model but the built-in
            extractive one, and labels every event of its calls.
        asked_provider: What the agent, or its workspace's settings, name, where
            that differs; then `substituted` says why.
        repeats: The call in doubt that this one repeats, if it does.
    """

    call_id: str
    subject: CallSubject
    provider: str
    model: str
    asked_provider: str | None = None
    asked_model: str | None = None
    substituted: str = ""
    prompt: Blob
    temperature: float
    max_tokens: int
    repeats: str | None = None


class ModelCallCompleted(Event, frozen=True, kw_only=True, tag="model_call_completed"):
    """The model answered, whole.

    Attributes:
        usage: The provider's own usage object, verbatim; None when it sent none.
        cost: None when the price book did not know the model, or there was no usage.
        latency_ms: Wall time of the call in milliseconds.
    """

    call_id: str
    subject: CallSubject
    provider: str
    model: str
    response_id: str
    finish_reason: str
    output: Blob
    usage: JsonObject | None
    tokens: TokenCounts | None
    cost: Cost | None
    latency_ms: int


class ModelCallFailed(Event, frozen=True, kw_only=True, tag="model_call_failed"):
    """The model gave no whole answer.

    Attributes:
        in_doubt: The provider may have worked, and may bill, all the same.
        partial: What had arrived of an answer that broke off.
    """

    call_id: str
    subject: CallSubject
    provider: str
    model: str
    kind: str
    error: str
    in_doubt: bool = False
    partial: Blob | None = None
    usage: JsonObject | None = None
    tokens: TokenCounts | None = None
    cost: Cost | None = None
    latency_ms: int = 0


class ModelCallInDoubt(Event, frozen=True, kw_only=True, tag="model_call_in_doubt"):
    """The process died between asking and recording: paid or not, nobody can tell."""

    call_id: str
    subject: CallSubject
    provider: str
    model: str


ModelCallOutcome: TypeAlias = ModelCallCompleted | ModelCallFailed
UsageEvent: TypeAlias = ModelCallRequested | ModelCallCompleted | ModelCallFailed | ModelCallInDoubt
