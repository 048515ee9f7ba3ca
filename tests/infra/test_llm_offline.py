import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.processes.model_calls import ModelAnswer, ModelCallError, ModelRequest, ModelTarget
from domain.tokens import Cost, TokenCounts
from infra.llm.offline import (
    OFFLINE_MODEL,
    SENTENCE_CHARS_MAX,
    SENTENCES_MAX,
    OfflineWire,
    _sentences,
)
from infra.llm.providers import LanguageModels, ModelSettings
from infra.prices import PriceBook

PROMPT = """Tell what the report says about turbines.

The mill was built in 1921. Its turbines were replaced in 2019 by a firm from Graz.
Bread is sold on Sundays. The new turbines give 40 kW of power. Parking is free.
The turbines stand still when the water is low.

How much power do the turbines give?"""
OFFLINE = LanguageModels(ModelSettings(), PriceBook())


def request(prompt: str, *, system: str = "", max_tokens: int = 2000) -> ModelRequest:
    return ModelRequest(
        provider="offline",
        model=OFFLINE_MODEL,
        system=system,
        prompt=prompt,
        max_tokens=max_tokens,
    )


async def answer(prompt: str, *, system: str = "", max_tokens: int = 2000) -> ModelAnswer:
    return await OFFLINE.complete(request(prompt, system=system, max_tokens=max_tokens))


async def test_the_sentence_that_answers_comes_out_of_the_prompt() -> None:
    given_answer = await answer(PROMPT, max_tokens=12)
    assert given_answer.text == "The new turbines give 40 kW of power."


async def test_chosen_sentences_keep_their_order() -> None:
    text = (await answer(PROMPT)).text
    assert text.index("2019") < text.index("40 kW") < text.index("stand still")


async def test_the_system_prompt_hints_at_what_is_wanted() -> None:
    prompt = "Summarise.\nCats sleep a lot.\nDogs bark at night.\nBirds sing.\nIn one sentence."
    assert (await answer(prompt, system="You know dogs.", max_tokens=6)).text == (
        "Dogs bark at night."
    )


async def test_the_answer_says_who_gave_it_and_that_it_was_free() -> None:
    given_answer = await answer("What now?", system="Be brief.")
    assert given_answer.provider == "offline"
    assert given_answer.model == "extractive-bm25"
    assert given_answer.finish_reason == "stop"
    assert given_answer.text == "What now?"
    assert given_answer.usage == {
        "input_tokens": 6,
        "output_tokens": 3,
        "counted_by": "offline word pieces",
    }
    assert given_answer.tokens == TokenCounts(input=6, output=3)
    assert given_answer.cost == Cost(price_source="offline: free")


async def test_the_same_question_has_the_same_answer_in_every_installation() -> None:
    first, second = await answer(PROMPT), await answer(PROMPT)
    assert first.text == second.text
    assert first.response_id == second.response_id
    assert first.response_id != (await answer(PROMPT + "!")).response_id


@given(st.text(max_size=400), st.text(max_size=40), st.integers(min_value=0, max_value=60))
async def test_an_answer_is_within_bounds_and_made_of_the_prompt(
    prompt: str, system: str, max_tokens: int
) -> None:
    told = await answer(prompt, system=system, max_tokens=max_tokens)
    assert told.tokens is not None
    assert told.tokens.output <= max_tokens
    assert set(told.text.split()) <= {part for word in prompt.split() for part in _parts(word)}


def _parts(word: str) -> list[str]:
    """Sentences may end, and a cut may fall, inside what has no spaces."""
    return [
        word[start:end] for start in range(len(word)) for end in range(start + 1, len(word) + 1)
    ]


async def test_the_end_of_a_very_long_prompt_is_read() -> None:
    filler = "Nothing to see in this line.\n" * 5000
    prompt = f"Read this.\n{filler}The password is mackerel.\nWhat is the password?"
    assert (await answer(prompt, max_tokens=8)).text == "The password is mackerel."


@pytest.mark.parametrize(
    "prompt",
    [
        "a\n" * 131_072,
        "word " * 52_428,
        "x" * 262_144,
        "The quick brown fox jumps over the lazy dog again. " * 5_140,
        "!" * 262_144,
        " \n" * 131_072,
        "".join(f"term{n} is {n}. " for n in range(16_000)),
    ],
    ids=["lines", "words", "one word", "sentences", "marks", "blank", "terms"],
)
async def test_the_work_on_a_long_prompt_is_bounded(prompt: str) -> None:
    read = _sentences(prompt[: 256 * 1024])
    assert sum(map(len, read)) <= 256 * 1024
    assert max(map(len, read), default=0) <= SENTENCE_CHARS_MAX
    assert len(read) <= SENTENCES_MAX + 256 * 1024 // SENTENCE_CHARS_MAX
    await answer(prompt[: 256 * 1024])


async def test_a_sentence_that_stands_there_twice_is_said_once() -> None:
    quoted = "The turbines turn. Birds sing.\nThe turbines turn.\nWhat do the turbines do?"
    text = (await answer(f"Tell about turbines.\n{quoted}")).text
    assert text.count("The turbines turn.") == 1


async def test_the_offline_wire_has_nothing_to_close() -> None:
    await OfflineWire().close()
    await LanguageModels(ModelSettings(), PriceBook()).close()


KEYED = ModelSettings(
    api_keys={"openai": "k", "anthropic": ""}, default_provider="openai", default_model="gpt-5"
)
FALLING_BACK = ModelSettings(
    api_keys={"openai": "k"}, default_model="gpt-5", offline_when_no_key=True
)


def target(settings: ModelSettings, provider: str | None, model: str | None) -> ModelTarget:
    return LanguageModels(settings, PriceBook()).target(provider, model)


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        (None, None, ModelTarget(provider="openai", model="gpt-5")),
        (None, "gpt-4o", ModelTarget(provider="openai", model="gpt-4o")),
        ("openai", None, ModelTarget(provider="openai", model="gpt-5")),
        ("openai", "o3", ModelTarget(provider="openai", model="o3")),
        ("offline", None, ModelTarget(provider="offline", model="extractive-bm25")),
    ],
)
def test_a_target_is_what_is_named_or_the_default(
    provider: str | None, model: str | None, expected: ModelTarget
) -> None:
    assert target(KEYED, provider, model) == expected


def test_without_a_key_the_offline_model_answers_and_says_why() -> None:
    assert target(FALLING_BACK, "anthropic", "claude-opus-5") == ModelTarget(
        provider="offline", model="extractive-bm25", substituted="no key for anthropic"
    )
    assert target(ModelSettings(offline_when_no_key=True), None, None) == ModelTarget(
        provider="offline", model="extractive-bm25", substituted="no key for openai"
    )


@pytest.mark.parametrize(
    ("settings", "provider", "model"),
    [
        (KEYED, "anthropic", "claude-opus-5"),
        (KEYED, "huggingface", "m"),
        (KEYED, "nobody", "m"),
        (FALLING_BACK, "nobody", "m"),
        (ModelSettings(), None, None),
        (ModelSettings(api_keys={"anthropic": "k"}), "anthropic", None),
        (ModelSettings(api_keys={"openai": "two words"}), "openai", "m"),
        (ModelSettings(api_keys={"openai": "line\n"}), "openai", "m"),
        (ModelSettings(api_keys={"openai": "schlüssel"}), "openai", "m"),
    ],
)
async def test_what_cannot_be_asked_is_not_configured(
    settings: ModelSettings, provider: str | None, model: str | None
) -> None:
    with pytest.raises(ModelCallError) as caught:
        target(settings, provider, model)
    assert (caught.value.kind, caught.value.retryable) == ("not_configured", False)


async def test_asking_a_provider_without_a_key_is_not_configured() -> None:
    told = ModelRequest(provider="anthropic", model="m", system="", prompt="Hi")
    with pytest.raises(ModelCallError) as caught:
        await LanguageModels(FALLING_BACK, PriceBook()).complete(told)
    assert caught.value.kind == "not_configured"


def test_a_base_url_that_is_none_stops_the_start() -> None:
    with pytest.raises(ValueError, match="openai must begin with"):
        ModelSettings(base_urls={"openai": "localhost:1"})


def test_settings_never_show_a_key() -> None:
    shown = repr(ModelSettings(api_keys={"openai": "sk-secret", "anthropic": ""}))
    assert shown == "ModelSettings(providers=['openai'])"


async def test_a_prompt_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(ModelCallError) as caught:
        await answer("\ud800")
    assert caught.value.kind == "invalid_request"
