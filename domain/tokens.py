"""Tokens of one model call, counted once each, and what they cost."""

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Final, cast

import msgspec

TOKENS_MAX: Final = 10**12
"""Larger counts are cut to this: no model reads so much, and the cost still fits 64 bits."""


class TokenCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Disjoint kinds: their sum is everything the provider bills.

    Attributes:
        input: Prompt tokens read neither from nor into a cache.
        cache_read: Prompt tokens served from the provider's cache.
        cache_write: Prompt tokens written to the provider's cache.
        output: Answer tokens without the reasoning ones.
        reasoning: Tokens the model spent on thinking, billed as output.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.input + self.cache_read + self.cache_write + self.output + self.reasoning


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Price of one call per token kind, in billionths of a US dollar.

    Attributes:
        price_source: Library and version the rates came from, so that a
            rebuild or an auditor never has to ask it again.
    """

    input_nano_usd: int = 0
    cache_read_nano_usd: int = 0
    cache_write_nano_usd: int = 0
    output_nano_usd: int = 0
    reasoning_nano_usd: int = 0
    price_source: str = ""

    @property
    def total_nano_usd(self) -> int:
        return (
            self.input_nano_usd
            + self.cache_read_nano_usd
            + self.cache_write_nano_usd
            + self.output_nano_usd
            + self.reasoning_nano_usd
        )


class TokenRates(msgspec.Struct, frozen=True, kw_only=True):
    """What one model charges, in US dollars per million tokens. Reasoning is charged as output."""

    input: Decimal
    cache_read: Decimal
    cache_write: Decimal
    output: Decimal


def cost_of(tokens: TokenCounts, rates: TokenRates, *, price_source: str) -> Cost:
    return Cost(
        input_nano_usd=_nano_usd(tokens.input, rates.input),
        cache_read_nano_usd=_nano_usd(tokens.cache_read, rates.cache_read),
        cache_write_nano_usd=_nano_usd(tokens.cache_write, rates.cache_write),
        output_nano_usd=_nano_usd(tokens.output, rates.output),
        reasoning_nano_usd=_nano_usd(tokens.reasoning, rates.output),
        price_source=price_source,
    )


def _nano_usd(tokens: int, usd_per_million: Decimal) -> int:
    """Round half to even, once, on the exact product."""
    return round(Fraction(usd_per_million) * 1000 * tokens)


def openai_tokens(usage: object) -> TokenCounts:
    """Take apart the usage of a chat completion. Total: whatever a provider sends is counted.

    `prompt_tokens` includes the cached ones and `completion_tokens` the
    reasoning ones (openai/types/completion_usage.py), so the parts are cut
    to what their whole leaves: a provider that contradicts itself is billed
    by its totals.
    """
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    read_in, written_out = (
        _part(usage, "prompt_tokens_details"),
        _part(usage, "completion_tokens_details"),
    )
    cache_read = min(_count(read_in, "cached_tokens"), prompt)
    cache_write = min(_count(read_in, "cache_write_tokens"), prompt - cache_read)
    reasoning = min(_count(written_out, "reasoning_tokens"), completion)
    return TokenCounts(
        input=prompt - cache_read - cache_write,
        cache_read=cache_read,
        cache_write=cache_write,
        output=completion - reasoning,
        reasoning=reasoning,
    )


def anthropic_tokens(usage: object) -> TokenCounts:
    """Take apart the usage of a message. Total: whatever a provider sends is counted.

    The prompt's kinds are disjoint already; thinking is part of
    `output_tokens` (anthropic/types/usage.py).
    """
    output = _count(usage, "output_tokens")
    thinking = _count(_part(usage, "output_tokens_details"), "thinking_tokens")
    reasoning = min(thinking, output)
    return TokenCounts(
        input=_count(usage, "input_tokens"),
        cache_read=_count(usage, "cache_read_input_tokens"),
        cache_write=_count(usage, "cache_creation_input_tokens"),
        output=output - reasoning,
        reasoning=reasoning,
    )


def _part(usage: object, key: str) -> object:
    return cast("Mapping[str, object]", usage).get(key) if isinstance(usage, Mapping) else None


def _count(usage: object, key: str) -> int:
    match _part(usage, key):
        case bool():
            return 0
        case int(count):
            return min(max(count, 0), TOKENS_MAX)
        case float(count) if count.is_integer():
            return min(max(int(count), 0), TOKENS_MAX)
        case _:
            return 0
