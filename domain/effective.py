"""Which value of a setting holds: the environment's, else the workspace's, else the default."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from domain.agents import ModelConfig
from domain.setting_values import Rules, ValueType
from domain.settings import (
    CATALOG,
    MASK,
    MAX_TOKENS,
    MODEL,
    PROVIDER,
    RULES,
    TEMPERATURE,
    Definition,
    SettingName,
    Source,
    WorkspaceSettings,
)

OFFLINE = "offline"
"""The built-in provider, which has one model, whatever model is named."""


class Effective(NamedTuple):
    """Attributes:
    value: Text; None where not even a default is known.
    """

    value: str | None
    source: Source


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """What the installation says of its settings.

    Attributes:
        environment: Values set in the environment: nobody's choice goes before them.
        provider: Asked where none is chosen; empty for whatever the models take.
        models: By provider, asked where none is chosen.
        others: What holds for everybody here and is no workspace's choice, by key.
    """

    environment: Mapping[SettingName, str] = {}
    provider: str = ""
    models: Mapping[str, str] = {}
    others: Mapping[str, Effective] = {}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A setting as callers are told of it.

    Attributes:
        value: The workspace's own, else the default; masked where it is sensitive.
        effective: What holds; masked likewise.
    """

    category: str
    key: str
    value_type: ValueType
    value: str | None
    default: str | None
    description: str
    is_sensitive: bool
    is_required: bool
    is_system: bool
    rules: Rules | None
    effective: str | None
    source: Source

    @property
    def name(self) -> SettingName:
        return SettingName(f"{self.category}.{self.key}")


def effective(settings: WorkspaceSettings, installed: Installed, setting: SettingName) -> Effective:
    """Tell what holds of one of the platform's settings."""
    provider = _chosen(settings, installed, PROVIDER, installed.provider)
    if setting == PROVIDER:
        return provider
    if setting == MODEL:
        return _model(settings, installed, provider.value)
    return _chosen(settings, installed, setting, CATALOG[setting].default)


def _chosen(
    settings: WorkspaceSettings, installed: Installed, setting: SettingName, default: str | None
) -> Effective:
    if setting in installed.environment:
        return Effective(installed.environment[setting], "environment")
    if setting in settings.values:
        return Effective(settings.values[setting], "system settings")
    return Effective(default, "default")


def _model(settings: WorkspaceSettings, installed: Installed, provider: str | None) -> Effective:
    """Choose a model that was named for this provider: another one would not know it."""
    default = Effective(installed.models.get(provider or ""), "default")
    if provider == OFFLINE:
        return default
    named = installed.environment.get(MODEL)
    if named is not None and installed.provider == provider:
        return Effective(named, "environment")
    own = settings.values.get(MODEL)
    if own is not None and settings.values.get(PROVIDER, provider) == provider:
        return Effective(own, "system settings")
    return default


def default_model(settings: WorkspaceSettings, installed: Installed) -> ModelConfig:
    """Give what agents use that name no model."""

    def value(setting: SettingName) -> str:
        return effective(settings, installed, setting).value or ""

    return ModelConfig(
        provider=value(PROVIDER),
        model_id=value(MODEL),
        temperature=float(value(TEMPERATURE)),
        max_tokens=int(value(MAX_TOKENS)),
    )


def told(settings: WorkspaceSettings, installed: Installed) -> list[Told]:
    """Tell of every setting: the platform's, then the workspace's own."""
    return [_told(definition, settings, installed) for definition in settings.definitions()]


def _told(definition: Definition, settings: WorkspaceSettings, installed: Installed) -> Told:
    name = definition.name
    is_system = name in CATALOG
    default, holds = definition.default, _own(definition, settings)
    if is_system:
        default = _default(settings, installed, name)
        holds = effective(settings, installed, name)
    return Told(
        category=definition.category,
        key=definition.key,
        value_type=definition.value_type,
        value=holds.value if definition.is_sensitive else settings.values.get(name, default),
        default=default,
        description=definition.description,
        is_sensitive=definition.is_sensitive,
        is_required=definition.is_required,
        is_system=is_system,
        rules=RULES.get(name),
        effective=holds.value,
        source=holds.source,
    )


def _default(settings: WorkspaceSettings, installed: Installed, setting: SettingName) -> str | None:
    """Tell what would hold if nobody had set this one."""
    values = {name: value for name, value in settings.values.items() if name != setting}
    given = {name: value for name, value in installed.environment.items() if name != setting}
    return effective(
        msgspec.structs.replace(settings, values=values),
        msgspec.structs.replace(installed, environment=given),
        setting,
    ).value


def _own(definition: Definition, settings: WorkspaceSettings) -> Effective:
    """Tell what holds of a workspace's own setting, which no environment knows."""
    name = definition.name
    if name in settings.secrets:
        return Effective(MASK, "system settings")
    if name in settings.values:
        return Effective(settings.values[name], "system settings")
    return Effective(definition.default, "default")
