"""Settings of a workspace: what may be set, what holds, and what nobody is told."""

from typing import Any

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain import settings
from domain.agents import ModelConfig
from domain.effective import Effective, Installed, default_model, effective, told
from domain.errors import (
    DomainError,
    Invalid,
    NameIsTaken,
    NotFound,
    SettingIsRequired,
    TooLong,
    TooMany,
)
from domain.events import WorkspaceId
from domain.setting_values import VALUE_BYTES_MAX, Rules, ValueType, checked
from domain.settings import (
    CATALOG,
    MASK,
    MAX_TOKENS,
    MODEL,
    PROVIDER,
    RULES,
    SETTINGS,
    SETTINGS_MAX,
    TEMPERATURE,
    Change,
    Definition,
    SecretSettingChanged,
    SettingChanged,
    SettingDefined,
    SettingDescribed,
    SettingName,
    SettingRemoved,
    SettingReset,
    SettingsEvent,
    WorkspaceSettings,
    setting_id,
)
from tests.given import given
from tests.strategies import events_of

COLOUR = Definition(category="brand", key="colour", default="red", description="Of buttons.")
NOTE = Definition(category="brand", key="note")
TOKEN = Definition(category="mail", key="token", is_sensitive=True)
NEEDED = Definition(category="mail", key="host", is_required=True)
MADE = SettingDefined(definition=COLOUR)
BLUE = SettingChanged(setting=COLOUR.name, value="blue")
SECRET = SecretSettingChanged(setting=TOKEN.name, value="hunter2")
COOL = SettingChanged(setting=TEMPERATURE, value="0.1")

HERE = Installed(provider="openai", models={"openai": "gpt", "anthropic": "claude", "offline": "x"})
NUMBERS: list[tuple[str, str]] = [(TEMPERATURE, "0"), (TEMPERATURE, "2"), (MAX_TOKENS, "1000000")]


def one(setting: str, value: str | None) -> dict[str, Any]:
    return {"changes": [Change(setting=SettingName(setting), value=value)]}


# Defining.


def test_a_workspace_makes_a_setting_of_its_own() -> None:
    given(SETTINGS).when(settings.define, definition=COLOUR, value=None).then(MADE)
    given(SETTINGS).when(settings.define, definition=COLOUR, value="blue").then(MADE, BLUE)
    given(SETTINGS).when(settings.define, definition=TOKEN, value="hunter2").then(
        SettingDefined(definition=TOKEN), SECRET
    )


@pytest.mark.parametrize("taken", [COLOUR, CATALOG[MODEL]], ids=["own", "platform's"])
def test_a_name_is_taken_once(taken: Definition) -> None:
    given(SETTINGS, MADE).when(settings.define, definition=taken, value=None).then_refused(
        NameIsTaken, pointer="/key"
    )


def test_what_is_removed_may_be_made_again() -> None:
    given(SETTINGS, MADE, SettingRemoved(setting=COLOUR.name)).when(
        settings.define, definition=COLOUR, value=None
    ).then(MADE)


def test_a_workspace_makes_so_many_settings_and_no_more() -> None:
    made = [SettingDefined(definition=Definition(category="a", key=f"k{n}")) for n in range(200)]
    assert len(made) == SETTINGS_MAX
    given(SETTINGS, *made[1:]).when(settings.define, definition=COLOUR, value=None).then(MADE)
    given(SETTINGS, *made).when(settings.define, definition=COLOUR, value=None).then_refused(
        TooMany
    )


def test_a_sensitive_setting_has_no_default_which_would_stand_in_the_log() -> None:
    definition = msgspec.structs.replace(TOKEN, default="hunter2")
    given(SETTINGS).when(settings.define, definition=definition, value=None).then_refused(
        Invalid, pointer="/default_value"
    )


def test_a_default_is_of_the_settings_type() -> None:
    definition = Definition(category="a", key="n", value_type="number", default="many")
    given(SETTINGS).when(settings.define, definition=definition, value=None).then_refused(
        Invalid, pointer="/default_value"
    )


def test_a_required_setting_always_has_a_value() -> None:
    given(SETTINGS).when(settings.define, definition=NEEDED, value=None).then_refused(
        Invalid, pointer="/value"
    )
    set_ = SettingChanged(setting=NEEDED.name, value="mx")
    given(SETTINGS, SettingDefined(definition=NEEDED), set_).when(
        settings.change, **one(NEEDED.name, None)
    ).then_refused(Invalid, pointer="/value")
    given(SETTINGS, SettingDefined(definition=NOTE)).when(
        settings.describe, setting=NOTE.name, is_required=True
    ).then_refused(Invalid, pointer="/is_required")


# Changing.


def test_a_setting_is_given_another_value_once() -> None:
    given(SETTINGS, MADE).when(settings.change, **one(COLOUR.name, "blue")).then(BLUE)
    given(SETTINGS, MADE, BLUE).when(settings.change, **one(COLOUR.name, "blue")).then_nothing()


def test_no_value_is_the_default() -> None:
    given(SETTINGS, MADE, BLUE).when(settings.change, **one(COLOUR.name, None)).then(
        SettingReset(setting=COLOUR.name)
    )
    given(SETTINGS, MADE).when(settings.change, **one(COLOUR.name, None)).then_nothing()
    given(SETTINGS, COOL).when(settings.change, **one(TEMPERATURE, None)).then(
        SettingReset(setting=TEMPERATURE)
    )


def test_the_mask_sent_back_leaves_a_secret_as_it_is() -> None:
    made = SettingDefined(definition=TOKEN)
    given(SETTINGS, made, SECRET).when(settings.change, **one(TOKEN.name, MASK)).then_nothing()
    other = SecretSettingChanged(setting=TOKEN.name, value="other")
    given(SETTINGS, made, SECRET).when(settings.change, **one(TOKEN.name, "other")).then(other)
    plain = SettingChanged(setting=COLOUR.name, value=MASK)
    given(SETTINGS, MADE).when(settings.change, **one(COLOUR.name, MASK)).then(plain)


def test_several_are_changed_together_or_not_at_all() -> None:
    good = Change(setting=TEMPERATURE, value="0.1", pointer="/0/value")
    bad = Change(setting=MAX_TOKENS, value="none", pointer="/1/value")
    fine = msgspec.structs.replace(bad, value="7")
    tokens = SettingChanged(setting=MAX_TOKENS, value="7")
    given(SETTINGS).when(settings.change, changes=[good, bad]).then_refused(
        Invalid, pointer="/1/value"
    )
    given(SETTINGS).when(settings.change, changes=[good, fine]).then(COOL, tokens)
    twice = msgspec.structs.replace(good, pointer="/2/value")
    given(SETTINGS).when(settings.change, changes=[good, fine, twice]).then_refused(
        Invalid, pointer="/2/value"
    )


def test_what_nobody_made_cannot_be_changed() -> None:
    given(SETTINGS).when(settings.change, **one("brand.colour", "blue")).then_refused(NotFound)


def test_what_a_setting_means_may_be_told_anew() -> None:
    described = SettingDescribed(setting=COLOUR.name, description="Of all.", is_required=False)
    given(SETTINGS, MADE).when(settings.describe, setting=COLOUR.name, description="Of all.").then(
        described
    )
    given(SETTINGS, MADE, described).when(
        settings.describe, setting=COLOUR.name, description="Of all."
    ).then_nothing()
    given(SETTINGS, MADE).when(settings.describe, setting=COLOUR.name, is_required=True).then(
        SettingDescribed(setting=COLOUR.name, description="Of buttons.", is_required=True)
    )
    given(SETTINGS).when(settings.describe, setting=MODEL, description="x").then_refused(
        Invalid, pointer="/description"
    )
    given(SETTINGS).when(settings.describe, setting=MODEL, is_required=False).then_refused(
        Invalid, pointer="/is_required"
    )
    given(SETTINGS).when(settings.describe, setting=MODEL, is_required=True).then_nothing()


def test_a_required_setting_is_not_removed() -> None:
    needed = SettingDescribed(setting=COLOUR.name, description="", is_required=True)
    given(SETTINGS, MADE, needed).when(settings.remove, setting=COLOUR.name).then_refused(
        SettingIsRequired
    )
    given(SETTINGS).when(settings.remove, setting=MODEL).then_refused(SettingIsRequired)
    given(SETTINGS, MADE).when(settings.remove, setting=COLOUR.name).then(
        SettingRemoved(setting=COLOUR.name)
    )
    given(SETTINGS).when(settings.remove, setting=COLOUR.name).then_refused(NotFound)


def test_defaults_hold_again_where_there_are_any() -> None:
    made = SettingDefined(definition=TOKEN), SettingDefined(definition=NOTE)
    noted = SettingChanged(setting=NOTE.name, value="kept")
    history = given(SETTINGS, MADE, BLUE, *made, SECRET, noted, COOL)
    cooled, coloured = SettingReset(setting=TEMPERATURE), SettingReset(setting=COLOUR.name)
    history.when(settings.reset, category=None).then(cooled, coloured)
    history.when(settings.reset, category="brand").then(coloured)
    history.when(settings.reset, category="nowhere").then_nothing()


# Values.


@pytest.mark.parametrize(
    ("value_type", "value", "stored"),
    [
        ("string", " kept as it is\n", " kept as it is\n"),
        ("number", " 1.5e3 ", "1.5e3"),
        ("number", "-7", "-7"),
        ("boolean", " TRUE", "true"),
        ("json", '{"a": [1]}', '{"a": [1]}'),
    ],
)
def test_a_value_is_of_its_type(value_type: ValueType, value: str, stored: str) -> None:
    assert checked(value, value_type, Rules(), "/value") == stored


@pytest.mark.parametrize(
    ("value_type", "value"),
    [
        ("number", "many"),
        ("number", "nan"),
        ("number", "1e999"),
        ("number", "1_000"),
        ("number", "\u0661"),
        ("boolean", "yes"),
        ("json", "{'a': 1}"),
        ("json", "[" * 5_000),
    ],
)
def test_a_value_of_another_type_is_refused_and_not_repeated(
    value_type: ValueType, value: str
) -> None:
    with pytest.raises(Invalid) as refusal:
        checked(value, value_type, Rules(), "/value")
    assert value not in str(refusal.value)
    assert refusal.value.pointer == "/value"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        (PROVIDER, "grok"),
        (PROVIDER, ""),
        (MODEL, ""),
        (MODEL, " gpt"),
        (MODEL, "gpt\n"),
        (MODEL, "m" * 256),
        (TEMPERATURE, "-0.1"),
        (TEMPERATURE, "2.1"),
        (MAX_TOKENS, "0"),
        (MAX_TOKENS, "1000001"),
        (MAX_TOKENS, "10.5"),
    ],
)
def test_a_value_the_platform_cannot_use_is_refused(setting: SettingName, value: str) -> None:
    given(SETTINGS).when(settings.change, **one(setting, value)).then_refused(
        Invalid, pointer="/value"
    )


@pytest.mark.parametrize(("setting", "value"), NUMBERS)
def test_the_bounds_themselves_are_allowed(setting: SettingName, value: str) -> None:
    assert checked(value, CATALOG[setting].value_type, RULES[setting], "/value") == value


def test_a_value_has_a_bound() -> None:
    assert checked("é" * (VALUE_BYTES_MAX // 2), "string", Rules(), "/value")
    with pytest.raises(TooLong):
        checked("é" * (VALUE_BYTES_MAX // 2) + "x", "string", Rules(), "/value")


# What holds.


def holding(installed: Installed, **values: str) -> ModelConfig:
    own = {SettingName(f"orchestrator_llm.{key}"): value for key, value in values.items()}
    return default_model(WorkspaceSettings(values=own), installed)


def test_nothing_set_is_the_installations_default() -> None:
    assert holding(HERE) == ModelConfig(provider="openai", model_id="gpt")


def test_the_workspaces_settings_go_before_the_defaults() -> None:
    chosen = holding(
        HERE, llm_provider="anthropic", llm_model="opus", temperature="0.1", max_tokens="9"
    )
    assert chosen == ModelConfig(
        provider="anthropic", model_id="opus", temperature=0.1, max_tokens=9
    )


def test_the_environment_goes_before_the_workspaces_settings() -> None:
    given_ = {PROVIDER: "anthropic", MODEL: "haiku", TEMPERATURE: "1.5", MAX_TOKENS: "50"}
    installed = msgspec.structs.replace(HERE, environment=given_, provider="anthropic")
    chosen = holding(
        installed, llm_provider="openai", llm_model="o3", temperature="0.1", max_tokens="9"
    )
    assert chosen == ModelConfig(
        provider="anthropic", model_id="haiku", temperature=1.5, max_tokens=50
    )


def test_a_model_does_not_follow_to_another_provider() -> None:
    """Which would not know it."""
    only_model = msgspec.structs.replace(HERE, environment={MODEL: "o3"})
    assert holding(only_model).model_id == "o3"
    assert holding(only_model, llm_provider="anthropic").model_id == "claude"
    assert holding(only_model, llm_provider="anthropic", llm_model="opus").model_id == "opus"
    only_provider = msgspec.structs.replace(HERE, environment={PROVIDER: "openai"})
    chosen = holding(only_provider, llm_provider="anthropic", llm_model="opus")
    assert (chosen.provider, chosen.model_id) == ("openai", "gpt")
    assert holding(only_provider, llm_model="o3").model_id == "o3"


def test_the_offline_provider_has_one_model() -> None:
    assert holding(HERE, llm_provider="offline", llm_model="gpt").model_id == "x"


def test_a_provider_without_a_default_model_has_none() -> None:
    state = WorkspaceSettings(values={PROVIDER: "huggingface"})
    assert effective(state, HERE, MODEL) == Effective(None, "default")


def test_each_setting_is_told_with_its_source() -> None:
    history = (MADE, BLUE, SettingDefined(definition=TOKEN), SECRET, COOL)
    installed = msgspec.structs.replace(HERE, environment={MAX_TOKENS: "50"})
    known = {each.name: each for each in told(SETTINGS.fold(history), installed)}
    assert {n: (e.value, e.default, e.effective, e.source) for n, e in known.items()} == {
        PROVIDER: ("openai", "openai", "openai", "default"),
        MODEL: ("gpt", "gpt", "gpt", "default"),
        TEMPERATURE: ("0.1", "0.7", "0.1", "system settings"),
        MAX_TOKENS: ("2000", "2000", "50", "environment"),
        COLOUR.name: ("blue", "red", "blue", "system settings"),
        TOKEN.name: (MASK, None, MASK, "system settings"),
    }
    assert [each.name for each in known.values() if each.is_system] == list(CATALOG)


@for_all(st.lists(events_of(SettingsEvent), max_size=8))
def test_any_history_can_be_folded_and_told(history: list[SettingsEvent]) -> None:
    assert told(SETTINGS.fold(history), HERE)


@for_all(st.text(alphabet="sécret", min_size=12, max_size=20))
def test_a_secret_is_in_no_state_and_in_nothing_that_is_told(secret: str) -> None:
    history = (
        SettingDefined(definition=TOKEN),
        SecretSettingChanged(setting=TOKEN.name, value=secret),
    )
    state = SETTINGS.fold(history)
    assert secret not in repr(state)
    assert secret not in repr(told(state, HERE))


@for_all(st.sampled_from(list(CATALOG)), st.text(max_size=6) | st.integers(-9, 9).map(str))
def test_what_the_platform_accepts_it_can_use(setting: SettingName, value: str) -> None:
    try:
        recorded = settings.change(WorkspaceSettings(), **one(setting, value))
    except DomainError:
        return
    state = SETTINGS.fold(recorded)
    assert default_model(state, HERE).max_tokens >= 1
    assert settings.change(state, **one(setting, value)) == ()


# Numbers.


def test_a_setting_has_a_number_of_its_own_in_each_workspace() -> None:
    numbers = {
        setting_id(WorkspaceId(workspace), name) for workspace in ("a", "b") for name in CATALOG
    }
    assert len(numbers) == 2 * len(CATALOG)
    assert all(0 < number < 2**53 for number in numbers)


def test_another_workspaces_number_is_nobodys() -> None:
    state, mine, other = WorkspaceSettings(), WorkspaceId("a"), WorkspaceId("b")
    assert settings.named(state, mine, [setting_id(mine, MODEL)]) == [MODEL]
    with pytest.raises(NotFound):
        settings.named(state, mine, [setting_id(mine, MODEL), setting_id(other, MODEL)])
