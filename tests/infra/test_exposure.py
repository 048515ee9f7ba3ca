"""Whom a server lets in before it listens: itself alone, or those who were given a way in."""

from pathlib import Path

import pytest

from infra.api import serve_api
from infra.exposure import check_local_key, check_reachable, is_loopback
from infra.server import serve
from infra.settings import LOCAL_KEY_NAMES, BadSettings, Settings

KEY = "of-my-own-machine"
REFUSED = (
    {"AUTOMATOS_HOST": "0.0.0.0"},
    {"AUTOMATOS_HOST": "192.0.2.7"},
    {"AUTOMATOS_HOST": "example.org"},
    {"DATABASE_URL": "postgresql://u@h/d"},
    {"TRUSTED_PROXIES": "10.0.0.0/8"},
)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_an_address_is_this_machine_s_or_it_is_not(host: str, *, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("name", LOCAL_KEY_NAMES)
def test_the_environment_s_key_goes_by_three_names_for_this_machine_alone(name: str) -> None:
    settings = Settings.from_env({name: KEY})
    assert settings.api_key == KEY
    check_local_key(settings, {name: KEY})
    for others in REFUSED:
        env = {name: KEY, **others}
        with pytest.raises(BadSettings, match=rf"^{name} opens") as refused:
            check_local_key(Settings.from_env(env), env)
        assert KEY not in str(refused.value)


def test_the_first_of_the_three_names_wins() -> None:
    first, second, third = LOCAL_KEY_NAMES
    env = {first: "1" * 16, second: "2" * 16, third: "3" * 16}
    assert Settings.from_env(env).api_key == "1" * 16
    assert Settings.from_env(env | {first: ""}).api_key == "2" * 16
    assert Settings.from_env({third: "3" * 16}).api_key == "3" * 16


@pytest.mark.parametrize("name", ["AUTOMATOS_ORCHESTRATOR_API_KEY", "AUTOMATOS_KEY"])
def test_other_names_of_ours_are_no_settings(name: str) -> None:
    with pytest.raises(BadSettings, match=f"{name} is not a setting"):
        Settings.from_env({name: KEY})


@pytest.mark.parametrize(
    "key", ["short", "with a space in it", "k" * 513, "k" * 16 + "\n", "schlüssel-" * 4]
)
def test_a_key_that_can_be_guessed_or_not_be_sent_is_refused_unshown(key: str) -> None:
    with pytest.raises(BadSettings, match=r"^API_KEY is no key") as refused:
        check_local_key(Settings(api_key=key), {"API_KEY": key})
    assert key not in str(refused.value)


def test_no_server_for_others_starts_with_a_key_of_the_environment(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "none", host="0.0.0.0", api_key=KEY)
    with pytest.raises(BadSettings, match="API_KEY opens"):
        serve(settings)
    with pytest.raises(BadSettings, match="API_KEY opens"):
        serve_api(Settings(database_url="postgresql://u@h/d", api_key=KEY), 1, print)
    assert not settings.data_dir.exists()


def test_no_key_of_the_environment_is_no_reason_to_refuse() -> None:
    check_local_key(Settings(host="0.0.0.0"), {})


def test_other_machines_come_only_to_who_was_given_a_way_in() -> None:
    for host in ("0.0.0.0", "192.0.2.7", "::"):
        with pytest.raises(BadSettings, match=rf"HOST={host}.*`automatos keys create`"):
            check_reachable(Settings(host=host), has_key=False)
        check_reachable(Settings(host=host), has_key=True)
        check_reachable(Settings(host=host, clerk_issuer="https://c.example"), has_key=False)
    check_reachable(Settings(), has_key=False)
