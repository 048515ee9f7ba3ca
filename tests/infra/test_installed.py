"""What the environment says of the settings that a workspace may choose, and how it is shown."""

import asyncio
import re
from pathlib import Path

import pytest

from commands.settings import ChangeSetting, DefineSetting
from domain.effective import Effective
from domain.events import WorkspaceId
from domain.setting_values import checked
from domain.settings import (
    CATALOG,
    MASK,
    MAX_TOKENS,
    MODEL,
    PROVIDER,
    RULES,
    TEMPERATURE,
    setting_id,
)
from infra.installed import installed
from infra.settings import BadSettings, Settings
from infra.writing import build_writing
from tests.e2e.installation import automatos

SECRET = "hunter2-correct-horse"


def test_only_what_is_set_in_the_environment_goes_before_a_workspaces_choice() -> None:
    assert installed(Settings.from_env({})).environment == {}
    chosen = {
        "LLM_PROVIDER": "anthropic",
        "LLM_MODEL": "claude-opus-5",
        "LLM_TEMPERATURE": "0",
        "AUTOMATOS_LLM_MAX_TOKENS": "50",
    }
    found = installed(Settings.from_env(chosen))
    assert found.environment == {
        PROVIDER: "anthropic",
        MODEL: "claude-opus-5",
        TEMPERATURE: "0",
        MAX_TOKENS: "50",
    }
    assert (found.provider, found.models["anthropic"]) == ("anthropic", "claude-haiku-5-5")


@pytest.mark.parametrize("value", ["2.1", "-1", "warm", "0.7\n", "1,5"])
def test_a_temperature_that_no_provider_takes_refuses_the_start(value: str) -> None:
    with pytest.raises(BadSettings, match="LLM_TEMPERATURE"):
        Settings.from_env({"LLM_TEMPERATURE": value})


@pytest.mark.parametrize("value", ["0", "1000001", "12.5", "many", "5\n"])
def test_a_bound_of_tokens_that_is_none_refuses_the_start(value: str) -> None:
    with pytest.raises(BadSettings, match="LLM_MAX_TOKENS"):
        Settings.from_env({"LLM_MAX_TOKENS": value})


@pytest.mark.parametrize(
    ("name", "setting", "values"),
    [
        ("LLM_TEMPERATURE", TEMPERATURE, ["0", "0.7", "1.999", "2", "2.000"]),
        ("LLM_MAX_TOKENS", MAX_TOKENS, ["1", "999999", "1000000"]),
    ],
)
def test_the_environment_takes_what_a_workspace_may_choose(
    name: str, setting: str, values: list[str]
) -> None:
    for value in values:
        assert value in Settings.from_env({name: value}).shown().values()
        known = next(each for each in CATALOG if each == setting)
        assert checked(value, CATALOG[known].value_type, RULES[known], "") == value


def test_callers_are_told_of_what_bounds_their_requests_and_of_nothing_else() -> None:
    settings = Settings(streams_per_key=3, database_url="postgres://secret", llm_stream=False)
    assert installed(settings).others == {
        "environment": Effective("development", "default"),
        "llm_stream": Effective("false", "environment"),
        "offline_when_no_key": Effective("true", "default"),
        "body_max": Effective("10485760", "default"),
        "streams_per_workspace": Effective("50", "default"),
        "streams_per_key": Effective("3", "environment"),
    }


# What the doctor shows.


@pytest.fixture
def workspace_id(tmp_path: Path) -> WorkspaceId:
    """Make an installation whose local workspace has chosen a temperature, and has a secret."""
    writing = build_writing(Settings(data_dir=tmp_path))

    async def make() -> WorkspaceId:
        made = await writing.local_workspace()
        issued = writing.issued(made, "cli:test")
        cool = ChangeSetting(value="0.25")
        number = setting_id(made, TEMPERATURE)
        await writing.system_settings.change(number, cool, issued)
        token = DefineSetting(
            category="mail",
            key="token",
            value=SECRET,
            value_type="string",
            default=None,
            description="",
            is_sensitive=True,
            is_required=False,
        )
        await writing.system_settings.define(token, writing.issued(made, "cli:test"))
        return made

    try:
        return asyncio.run(make())
    finally:
        writing.close()


def shown(folder: Path, *arguments: str, **environment: str) -> dict[str, list[str]]:
    """Give what the doctor tells of each system setting: its value, and where that is from."""
    told = automatos(folder, "doctor", *arguments, **environment)
    assert told.returncode == 0, told.stderr
    assert SECRET not in told.stdout + told.stderr
    cells = [
        [cell.strip() for cell in re.split("[│|]", line)[1:-1]] for line in told.stdout.splitlines()
    ]
    return {row[0].partition(".")[2]: row[1:] for row in cells if row and "." in row[0]}


def test_the_doctor_tells_which_settings_hold_and_why(
    tmp_path: Path, workspace_id: WorkspaceId
) -> None:
    bound = {"LLM_MAX_TOKENS": "50"}
    nobodys = shown(tmp_path, **bound)
    assert nobodys["temperature"] == ["0.7", "default"]
    assert shown(tmp_path, "--workspace", workspace_id, **bound) == {
        "llm_provider": ["offline", "default"],
        "llm_model": ["extractive-bm25", "default"],
        "temperature": ["0.25", "system settings"],
        "max_tokens": ["50", "environment"],
        "token": [MASK, "system settings"],
    }


def test_the_doctor_knows_no_workspace_that_is_not_there(tmp_path: Path) -> None:
    build_writing(Settings(data_dir=tmp_path)).close()
    told = automatos(tmp_path, "doctor", "--workspace", "none")
    assert (told.returncode, told.stdout) == (2, "")
    assert "There is no workspace none." in told.stderr
