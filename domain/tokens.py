"""Tokens of one model call, counted once each, and what they cost."""

import msgspec


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
