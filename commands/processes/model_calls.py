"""The port through which a process manager asks a language model."""

from typing import Literal, Protocol, TypeAlias

import msgspec

from domain.events import JsonObject
from domain.tokens import Cost, TokenCounts

FailureKind: TypeAlias = Literal[
    "rate_limited",
    "overloaded",
    "server_error",
    "timeout",
    "connection",
    "malformed",
    "invalid_request",
    "authentication",
    "not_configured",
]


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One question to one model; everything the provider is told.

    Attributes:
        provider: `openai`, `anthropic`, `huggingface` or `offline`.
        system: System prompt; empty for none.
        stream: Ask for the answer in pieces; the outcome is the same.
    """

    provider: str
    model: str
    system: str
    prompt: str
    temperature: float = 0.7
    max_tokens: int = 2000
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    stream: bool = False


class ModelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the provider answered, and what it says that it cost.

    Attributes:
        provider: Who really answered.
        model: The model named in the answer, which may be more exact than the one asked.
        finish_reason: In the provider's own words.
        usage: The provider's usage object, verbatim; None when it sent none.
        tokens: `usage` in our disjoint kinds; None when there is no usage.
        cost: None when the price book does not know the model, or there is no usage.
        latency_ms: Wall time of the call in milliseconds.
    """

    text: str
    provider: str
    model: str
    response_id: str
    finish_reason: str
    usage: JsonObject | None
    tokens: TokenCounts | None
    cost: Cost | None
    latency_ms: int


class ModelCallError(Exception):
    """The provider gave no whole answer.

    Attributes:
        kind: Why, in our words.
        retryable: Whether the same request may succeed later.
        retry_after_s: The provider's own wish in seconds, at most 60; None if it has none.
        in_doubt: Whether the request may have been worked on, and billed, all the same:
            true for timeouts and cuts after it was sent.
        partial_text: What had arrived of a stream that broke off.
        usage: Usage object received before the break, verbatim.
        latency_ms: Wall time until the failure in milliseconds.
    """

    def __init__(  # noqa: PLR0913 one keyword per fact about the failure
        self,
        message: str,
        *,
        kind: FailureKind,
        retryable: bool,
        retry_after_s: float | None = None,
        in_doubt: bool = False,
        partial_text: str = "",
        usage: JsonObject | None = None,
        tokens: TokenCounts | None = None,
        cost: Cost | None = None,
        latency_ms: int = 0,
    ) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.in_doubt = in_doubt
        self.partial_text = partial_text
        self.usage = usage
        self.tokens = tokens
        self.cost = cost
        self.latency_ms = latency_ms


class ModelTarget(msgspec.Struct, frozen=True, kw_only=True):
    """The provider and model a request will really go to.

    Attributes:
        substituted: Why the target is not the one the agent names; empty when it is.
    """

    provider: str
    model: str
    substituted: str = ""


class ModelProvider(Protocol):
    """Language models behind one door. `infra.llm` implements it."""

    def target(self, provider: str | None, model: str | None) -> ModelTarget:
        """Resolve what an agent asks for; None asks for the installation's default.

        Raises:
            ModelCallError: `not_configured`: no key, or no such provider.
        """
        ...

    async def complete(self, request: ModelRequest) -> ModelAnswer:
        """Ask once: never retries by itself.

        Raises:
            ModelCallError: No whole answer, whatever the provider's own reason.
        """
        ...
