from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.tokens import (
    TOKENS_MAX,
    Cost,
    TokenCounts,
    TokenRates,
    anthropic_tokens,
    cost_of,
    openai_tokens,
)

KEYS = [
    "prompt_tokens",
    "completion_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens_details",
    "thinking_tokens",
]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
some_keys = st.sampled_from(KEYS)
any_json = scalars | st.lists(scalars, max_size=2) | st.dictionaries(some_keys, scalars, max_size=4)
hostile = st.dictionaries(some_keys, any_json, max_size=6)
count = st.integers(min_value=0, max_value=TOKENS_MAX)


def test_openai_counts_cached_and_reasoning_tokens_inside_their_totals() -> None:
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 500,
        "total_tokens": 1500,
        "prompt_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 300},
        "completion_tokens_details": {"reasoning_tokens": 450},
    }
    assert openai_tokens(usage) == TokenCounts(
        input=100, cache_read=600, cache_write=300, output=50, reasoning=450
    )


def test_anthropic_counts_prompt_kinds_apart_and_thinking_inside_the_output() -> None:
    usage = {
        "input_tokens": 100,
        "cache_creation_input_tokens": 300,
        "cache_read_input_tokens": 600,
        "output_tokens": 500,
        "output_tokens_details": {"thinking_tokens": 450},
    }
    assert anthropic_tokens(usage) == TokenCounts(
        input=100, cache_read=600, cache_write=300, output=50, reasoning=450
    )


@pytest.mark.parametrize("details", [None, {}, {"cached_tokens": None}, [], "x", 7])
def test_a_usage_without_details_is_input_and_output(details: object) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": details}
    assert openai_tokens(usage) == TokenCounts(input=7, output=3)
    usage = {"input_tokens": 7, "output_tokens": 3, "output_tokens_details": details}
    assert anthropic_tokens(usage) == TokenCounts(input=7, output=3)


@pytest.mark.parametrize(
    ("told", "counted"),
    [
        (None, 0),
        (-5, 0),
        ("12", 0),
        (True, 0),
        ([12], 0),
        ({}, 0),
        (float("nan"), 0),
        (float("inf"), 0),
        (12.5, 0),
        (12.0, 12),
        (-12.0, 0),
        (12, 12),
        (10**400, TOKENS_MAX),
        (1e300, TOKENS_MAX),
    ],
)
def test_a_count_is_a_whole_number_from_zero_to_the_limit(told: object, counted: int) -> None:
    assert openai_tokens({"prompt_tokens": told}) == TokenCounts(input=counted)
    assert anthropic_tokens({"output_tokens": told}) == TokenCounts(output=counted)


@pytest.mark.parametrize("take_apart", [openai_tokens, anthropic_tokens])
@given(usage=any_json | hostile)
def test_no_usage_is_refused(take_apart: Callable[[object], TokenCounts], usage: object) -> None:
    tokens = take_apart(usage)
    kinds = (tokens.input, tokens.cache_read, tokens.cache_write, tokens.output, tokens.reasoning)
    assert all(type(kind) is int and 0 <= kind <= TOKENS_MAX for kind in kinds)


@given(count, count, hostile, hostile)
def test_openai_kinds_add_up_to_the_total_whatever_the_details(
    prompt: int, completion: int, read: dict[str, object], written: dict[str, object]
) -> None:
    tokens = openai_tokens(
        {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "prompt_tokens_details": read,
            "completion_tokens_details": written,
        }
    )
    assert tokens.input + tokens.cache_read + tokens.cache_write == prompt
    assert tokens.output + tokens.reasoning == completion
    assert tokens.total == prompt + completion


@given(count, count, count, count, hostile)
def test_anthropic_kinds_add_up_to_the_total_whatever_the_details(
    fresh: int, written: int, read: int, output: int, details: dict[str, object]
) -> None:
    tokens = anthropic_tokens(
        {
            "input_tokens": fresh,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": read,
            "output_tokens": output,
            "output_tokens_details": details,
        }
    )
    assert tokens.total == fresh + written + read + output


FREE = Decimal(0)


def rates(**known: Decimal) -> TokenRates:
    kinds = ("input", "cache_read", "cache_write", "output")
    return TokenRates(**{kind: known.get(kind, FREE) for kind in kinds})


def test_a_cost_is_told_per_kind_and_reasoning_costs_as_output() -> None:
    charged = TokenRates(
        input=Decimal("1.25"),
        cache_read=Decimal("0.125"),
        cache_write=Decimal("1.5"),
        output=Decimal(10),
    )
    tokens = TokenCounts(input=3, cache_read=4, cache_write=2, output=5, reasoning=7)
    cost = cost_of(tokens, charged, price_source="here")
    assert cost == Cost(
        input_nano_usd=3750,
        cache_read_nano_usd=500,
        cache_write_nano_usd=3000,
        output_nano_usd=50_000,
        reasoning_nano_usd=70_000,
        price_source="here",
    )
    assert cost.total_nano_usd == 127_250


@pytest.mark.parametrize(("tokens", "nano_usd"), [(1, 0), (3, 2), (5, 2), (7, 4), (2, 1)])
def test_halves_are_rounded_to_even(tokens: int, nano_usd: int) -> None:
    half = rates(input=Decimal("0.0005"))
    assert cost_of(TokenCounts(input=tokens), half, price_source="").input_nano_usd == nano_usd


@given(count, st.decimals(min_value=0, max_value=1000, places=9))
def test_a_cost_is_rounded_once_from_the_exact_product(tokens: int, rate: Decimal) -> None:
    cost = cost_of(TokenCounts(output=tokens), rates(output=rate), price_source="")
    with localcontext(prec=60):
        exact = rate * 1000 * tokens
        assert cost.output_nano_usd == exact.to_integral_value(ROUND_HALF_EVEN)
    assert cost.total_nano_usd == cost.output_nano_usd


def test_the_dearest_call_fits_64_bits() -> None:
    dear = cost_of(TokenCounts(output=TOKENS_MAX), rates(output=Decimal(600)), price_source="")
    assert dear.total_nano_usd < 2**63
