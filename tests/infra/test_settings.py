"""Settings come from the environment, and a variable that is wrong is named."""

from pathlib import Path

import pytest

from infra.settings import SECRETS, BadSettings, Settings

SECRET = "sk-very-secret"


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({"PATH": "/bin", "HOME": "/root"}) == Settings()


@pytest.mark.parametrize(
    "name", ["AUTOMATOS_PROT", "AUTOMATOS_", "AUTOMATOS_DATA-DIR", "AUTOMATOS_FROM_ENV"]
)
def test_an_unknown_variable_of_ours_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(BadSettings, match=f"^{name} is not a setting"):
        Settings.from_env({name: "1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTOMATOS_PORT", "eighty"),
        ("PORT", "eighty"),
        ("PORT", "65536"),
        ("AUTOMATOS_PORT", "-1"),
        ("AUTOMATOS_PORT", ""),
        ("LOG_LEVEL", "LOUD"),
        ("LLM_PROVIDER", "chatty"),
        ("AUTOMATOS_LLM_STREAM", "perhaps"),
        ("AUTOMATOS_BODY_MAX", "0"),
        ("AUTOMATOS_BODY_MAX", "1MiB"),
        ("CLERK_JWKS_URL", "http://clerk.example/jwks.json"),
        ("CLERK_JWKS_URL", "https://user:word@clerk.example"),
        ("CLERK_ISSUER", "clerk.example"),
        ("CLERK_AUTHORIZED_PARTIES", "app.example"),
        ("CLERK_AUTHORIZED_PARTIES", "https://app.example/"),
        ("CLERK_AUTHORIZED_PARTIES", "https://app.example,,https://b.example"),
    ],
)
def test_a_malformed_variable_is_refused_with_its_name_and_value(name: str, value: str) -> None:
    with pytest.raises(BadSettings) as refused:
        Settings.from_env({name: value})
    assert str(refused.value).startswith(f"{name} is {value!r}: ")


def test_ours_comes_before_the_name_without_prefix() -> None:
    both = {"AUTOMATOS_PORT": "1", "PORT": "2"}
    for env in (both, dict(reversed(both.items()))):
        assert Settings.from_env(env).port == 1
    assert Settings.from_env({"PORT": "2"}).port == 2


def test_a_variable_without_prefix_that_is_empty_is_none() -> None:
    assert Settings.from_env({"PORT": "", "OPENAI_API_KEY": ""}) == Settings()


def test_every_setting_can_be_given() -> None:
    given = {
        "AUTOMATOS_DATA_DIR": "/srv/data",
        "AUTOMATOS_LLM_STREAM": "false",
        "AUTOMATOS_OFFLINE_WHEN_NO_KEY": "0",
        "HUGGINGFACE_API_KEY": "hf",
        "AUTOMATOS_OPENAI_BASE_URL": "http://localhost:1/v1",
    }
    settings = Settings.from_env(given)
    assert settings.data_dir == Path("/srv/data")
    assert (settings.llm_stream, settings.offline_when_no_key) == (False, False)
    assert settings.huggingface_api_key == "hf"
    assert settings.base_urls == {"openai": "http://localhost:1/v1"}


def test_secrets_are_told_to_be_there_and_no_more() -> None:
    urls = {"database_url": f"postgresql://u:{SECRET}@h/d", "redis_url": f"redis://:{SECRET}@h"}
    env = {name.upper(): urls.get(name, SECRET) for name in SECRETS}
    settings = Settings.from_env(env)
    assert set(settings.api_keys.values()) == {SECRET}
    for spelled in (repr(settings), str(settings), f"{settings}", str(settings.shown())):
        assert SECRET not in spelled
    for name in SECRETS:
        assert settings.shown()[name] == "(set)"
        assert Settings().shown()[name] == "(not set)"


def test_a_setting_that_is_a_key_is_a_secret() -> None:
    keys = {name for name in Settings.__struct_fields__ if name.endswith("api_key")}
    others = {"clerk_jwt_key", "database_url", "kafka_sasl_password", "redis_url"}
    assert keys | others == SECRETS


@pytest.mark.parametrize("value", ["yes", "no", ""])
def test_the_switch_that_loses_events_for_readers_is_refused(value: str) -> None:
    with pytest.raises(BadSettings, match="POSTGRES_ENABLE_DB_FUNCTIONS must not be set"):
        Settings.from_env({"POSTGRES_ENABLE_DB_FUNCTIONS": value})


@pytest.mark.parametrize(
    ("env", "provider", "model"),
    [
        ({}, "offline", "extractive-bm25"),
        ({"OPENAI_API_KEY": "k"}, "openai", "gpt-5-mini"),
        ({"ANTHROPIC_API_KEY": "k"}, "anthropic", "claude-haiku-5-5"),
        ({"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k"}, "openai", "gpt-5-mini"),
        ({"OPENAI_API_KEY": "k", "LLM_PROVIDER": "offline"}, "offline", "extractive-bm25"),
        ({"LLM_PROVIDER": "huggingface", "LLM_MODEL": "m"}, "huggingface", "m"),
    ],
)
def test_the_provider_is_the_chosen_one_or_the_first_with_a_key(
    env: dict[str, str], provider: str, model: str
) -> None:
    settings = Settings.from_env(env)
    assert (settings.provider, settings.model) == (provider, model)


def test_a_provider_without_a_model_for_everybody_needs_one_named() -> None:
    with pytest.raises(BadSettings, match="LLM_MODEL is needed"):
        _ = Settings.from_env({"LLM_PROVIDER": "huggingface"}).model
