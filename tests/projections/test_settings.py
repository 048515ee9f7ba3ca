"""Settings as a read model."""

from datetime import timedelta

from sqlalchemy import select

from domain.settings import (
    TEMPERATURE,
    Definition,
    SecretSettingChanged,
    SettingChanged,
    SettingDefined,
    SettingDescribed,
    SettingRemoved,
    SettingReset,
    SettingsEvent,
    WorkspaceSettings,
)
from projections.settings import Touched, settings, workspace_settings
from tests.projections.tables import projected
from tests.strategies import START, WORKSPACES, recorded

ACME, GLOBEX = WORKSPACES
COLOUR = Definition(category="brand", key="colour", default="red")
TOKEN = Definition(category="mail", key="token", is_sensitive=True)
MADE = SettingDefined(definition=COLOUR)
SECRET = SecretSettingChanged(setting=TOKEN.name, value="sealed:v1:x:y")


def test_a_workspace_finds_what_it_has_set() -> None:
    log = recorded(
        MADE,
        SettingChanged(setting=COLOUR.name, value="blue"),
        SettingDefined(definition=TOKEN),
        SECRET,
        SettingChanged(setting=TEMPERATURE, value="0.1"),
        SettingDescribed(setting=COLOUR.name, description="Of buttons.", is_required=True),
    )
    with projected(log) as connection:
        found = workspace_settings(connection, ACME)
        described = Definition(
            category="brand",
            key="colour",
            default="red",
            description="Of buttons.",
            is_required=True,
        )
        assert found.settings == WorkspaceSettings(
            own={COLOUR.name: described, TOKEN.name: TOKEN},
            values={COLOUR.name: "blue", TEMPERATURE: "0.1"},
            secrets=frozenset({TOKEN.name}),
        )
        assert found.version == 6
        after = START + timedelta(seconds=5)
        assert found.touched[COLOUR.name] == Touched(START, "key:k1", after, "key:k1")
        elsewhere = workspace_settings(connection, GLOBEX)
        assert (elsewhere.settings, elsewhere.touched, elsewhere.version) == (
            WorkspaceSettings(),
            {},
            0,
        )


def test_a_secret_is_not_kept_in_the_read_model_even_sealed() -> None:
    with projected(recorded(SettingDefined(definition=TOKEN), SECRET)) as connection:
        rows = connection.execute(select(settings)).all()
        assert "sealed" not in repr(rows)


def test_what_is_reset_has_no_value_and_what_is_removed_is_gone() -> None:
    history: list[SettingsEvent] = [
        MADE,
        SettingChanged(setting=COLOUR.name, value="blue"),
        SettingReset(setting=COLOUR.name),
    ]
    with projected(recorded(*history)) as connection:
        found = workspace_settings(connection, ACME).settings
        assert found == WorkspaceSettings(own={COLOUR.name: COLOUR})
    with projected(recorded(*history, SettingRemoved(setting=COLOUR.name))) as connection:
        gone = workspace_settings(connection, ACME)
        assert (gone.settings, gone.version) == (WorkspaceSettings(), 4)
