import subprocess
import sys
from datetime import UTC, datetime
from fractions import Fraction
from importlib.metadata import version

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given
from hypothesis import strategies as st

from domain.tokens import Cost, TokenCounts
from infra.prices import PriceBook

NOW = datetime(2026, 11, 1, tzinfo=UTC)
BOOK = PriceBook()
SELLERS = [
    provider
    for provider in get_snapshot().providers
    if provider.id in {"openai", "anthropic"} or provider.id.startswith("huggingface_")
]
MODELS = [
    (provider.id, model.id)
    for provider in SELLERS
    for model in provider.models
    if provider.find_model(model.id)
]
PROMPT_SIZES = [0, 1, 999, 128_000, 128_001, 200_000, 200_001, 272_000, 272_001, 3_000_000]


def library_nano_usd(seller: str, model: str, tokens: TokenCounts, at: datetime) -> Fraction:
    usage = Usage(
        input_tokens=tokens.input + tokens.cache_read + tokens.cache_write,
        cache_read_tokens=tokens.cache_read,
        cache_write_tokens=tokens.cache_write,
        output_tokens=tokens.output + tokens.reasoning,
    )
    price = calc_price(usage, model, provider_id=seller, genai_request_timestamp=at)
    return Fraction(price.total_price) * 10**9


def assert_agrees(seller: str, model: str, tokens: TokenCounts, at: datetime = NOW) -> None:
    cost = BOOK.cost(seller, model, tokens, at=at)
    assert cost is not None, model
    kinds = 5
    difference = abs(cost.total_nano_usd - library_nano_usd(seller, model, tokens, at))
    assert difference <= Fraction(kinds, 2)


@pytest.mark.parametrize("seller", [provider.id for provider in SELLERS])
def test_every_model_costs_what_the_library_says(seller: str) -> None:
    for _, model in [pair for pair in MODELS if pair[0] == seller]:
        for size in PROMPT_SIZES:
            tokens = TokenCounts(
                input=size - size // 3 - size // 7,
                cache_read=size // 3,
                cache_write=size // 7,
                output=777,
                reasoning=333,
            )
            assert_agrees(seller, model, tokens)


counts = st.integers(min_value=0, max_value=5_000_000)


@given(
    st.sampled_from(MODELS),
    st.builds(
        TokenCounts,
        input=counts,
        cache_read=counts,
        cache_write=counts,
        output=counts,
        reasoning=counts,
    ),
    st.datetimes(datetime(2023, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_any_call_costs_what_the_library_says(
    pair: tuple[str, str], tokens: TokenCounts, at: datetime
) -> None:
    assert_agrees(*pair, tokens, at)


def test_a_price_that_changed_is_that_of_the_day_of_the_call() -> None:
    tokens = TokenCounts(input=1)
    before = BOOK.cost("openai", "o3", tokens, at=datetime(2025, 6, 9, tzinfo=UTC))
    after = BOOK.cost("openai", "o3", tokens, at=datetime(2025, 6, 11, tzinfo=UTC))
    assert before is not None
    assert after is not None
    assert (before.total_nano_usd, after.total_nano_usd) == (10_000, 2_000)


def test_a_cost_names_each_kind_and_its_source() -> None:
    tokens = TokenCounts(input=1, cache_read=1, cache_write=1, output=1, reasoning=1)
    assert BOOK.cost("anthropic", "claude-opus-5", tokens, at=NOW) == Cost(
        input_nano_usd=5_000,
        cache_read_nano_usd=500,
        cache_write_nano_usd=6_250,
        output_nano_usd=25_000,
        reasoning_nano_usd=25_000,
        price_source=f"genai-prices {version('genai-prices')}",
    )


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "no-such-model"),
        ("nobody", "gpt-5"),
        ("huggingface", "meta-llama/Llama-3.3-70B-Instruct"),
        ("huggingface", "meta-llama/Llama-3.3-70B-Instruct:fastest"),
        ("openai", ""),
    ],
)
def test_an_unknown_model_has_no_cost_instead_of_none(provider: str, model: str) -> None:
    assert BOOK.cost(provider, model, TokenCounts(input=1), at=NOW) is None


def test_a_model_routed_by_hugging_face_costs_what_its_seller_asks() -> None:
    model = "meta-llama/Llama-3.3-70B-Instruct"
    cost = BOOK.cost("huggingface", f"{model}:groq", TokenCounts(input=100), at=NOW)
    assert cost == BOOK.cost("huggingface_groq", model, TokenCounts(input=100), at=NOW)
    assert cost is not None
    assert cost.total_nano_usd == 59_000


ALONE = """
import sys
refused = []
sys.addaudithook(
    lambda event, args: refused.append(event) or sys.exit(event)
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}
    else None
)
import infra.llm.providers, infra.prices
late = {"genai_prices", "openai", "anthropic", "httpx2"} & sys.modules.keys()
assert not late, late
from datetime import UTC, datetime
from domain.tokens import TokenCounts
models = infra.llm.providers.LanguageModels(
    infra.llm.providers.ModelSettings(api_keys={"openai": "k"}), infra.prices.PriceBook()
)
models.target(None, None)
assert not {"genai_prices", "openai", "httpx2"} & sys.modules.keys()
cost = infra.prices.PriceBook().cost("openai", "gpt-5", TokenCounts(input=8), at=datetime.now(UTC))
assert cost.total_nano_usd == 10_000
assert not refused
"""


def test_the_library_is_loaded_late_and_stays_off_the_network() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
