"""What a model call costs, from the price book that ships with `genai-prices`."""

from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING

from domain.tokens import Cost, TokenCounts, TokenRates, cost_of

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice

_RATE_UNIT = 1_000_000


class PriceBook:
    """Prices bundled with the library: nothing is fetched, so a rebuild needs no network.

    The library is imported at the first question, because that takes 0.4 s.
    """

    def cost(self, provider: str, model: str, tokens: TokenCounts, *, at: datetime) -> Cost | None:
        """None when the book does not know the model."""
        price = _price(provider, model, at)
        if price is None:
            return None
        return cost_of(tokens, _rates(price, tokens), price_source=_source())


def _price(provider: str, model: str, at: datetime) -> "ModelPrice | None":
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415

    seller, name = _sold_as(provider, model)
    try:
        _, found = get_snapshot().find_provider_model(name, None, seller, None)
    except LookupError:
        return None
    return found.get_prices(at)


def _sold_as(provider: str, model: str) -> tuple[str, str]:
    """Name seller and model: of a routed one, `openai/gpt-oss-120b:groq`, groq sets the price."""
    if provider != "huggingface":
        return provider, model
    name, _, seller = model.rpartition(":")
    return f"huggingface_{seller}", name


def _rates(price: "ModelPrice", tokens: TokenCounts) -> TokenRates:
    """Pick the rates of the tier these tokens fall into.

    A kind without a rate of its own is charged as the kind it is part of, as
    `genai_prices.decompose.compute_leaf_values` does.
    """
    prompt = tokens.input + tokens.cache_read + tokens.cache_write
    whole = _rate(price, "input_mtok", prompt) or Decimal(0)
    read, written = (_rate(price, key, prompt) for key in ("cache_read_mtok", "cache_write_mtok"))
    return TokenRates(
        input=whole,
        cache_read=whole if read is None else read,
        cache_write=whole if written is None else written,
        output=_rate(price, "output_mtok", prompt) or Decimal(0),
    )


def _rate(price: "ModelPrice", key: str, prompt: int) -> Decimal | None:
    from genai_prices.types import calc_unit_price  # noqa: PLC0415

    rate = getattr(price, key)
    return None if rate is None else calc_unit_price(rate, _RATE_UNIT, prompt, _RATE_UNIT)


@cache
def _source() -> str:
    from genai_prices import __version__  # noqa: PLC0415

    return f"genai-prices {__version__}"
