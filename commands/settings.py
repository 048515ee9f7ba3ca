"""Commands on a workspace's system settings, and what holds in it."""

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from commands.transact import Issued, Outcome, Transaction, Transactions
from domain import settings
from domain.agents import ModelConfig
from domain.effective import Installed, Told, default_model, told
from domain.errors import Invalid
from domain.events import StreamId, WorkspaceId
from domain.setting_values import ValueType
from domain.settings import (
    SETTINGS,
    Change,
    Definition,
    SettingName,
    SettingsEvent,
    WorkspaceSettings,
)

BULK_MAX = 250
"""Settings changed at once: more than a workspace can have."""

Category = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]{0,49}\Z")]
Key = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,99}\Z")]
"""Lengths are the original's columns'. In Python, `$` alone lets a line feed follow."""

Description = Annotated[str, msgspec.Meta(max_length=500)]


class DefineSetting(msgspec.Struct, frozen=True, kw_only=True):
    category: Category
    key: Key
    value: str | None
    value_type: ValueType
    default: str | None
    description: Description
    is_sensitive: bool
    is_required: bool

    def definition(self) -> Definition:
        return Definition(
            category=self.category,
            key=self.key,
            value_type=self.value_type,
            default=self.default,
            description=self.description,
            is_sensitive=self.is_sensitive,
            is_required=self.is_required,
        )


class ChangeSetting(msgspec.Struct, frozen=True, kw_only=True):
    """What is not set stays.

    Attributes:
        value: None for the default.
    """

    value: str | UnsetType | None = UNSET
    description: Description | UnsetType = UNSET
    is_required: bool | UnsetType = UNSET


class NewValue(NamedTuple):
    """Attributes:
    setting_id: The setting's number in its workspace.
    """

    setting_id: int
    value: str | None


class SettingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    setting: As it is afterwards.
    version: Of all of the workspace's settings.
    """

    setting: Told
    version: int


class CountAnswer(msgspec.Struct, frozen=True, kw_only=True):
    count: int
    version: int


class SettingCommands:
    """Args:
    installed: What the installation says of its settings.
    """

    def __init__(self, transactions: Transactions, installed: Installed) -> None:
        self._transactions = transactions
        self._store = transactions.store
        self.installed = installed

    async def default_model(self, workspace_id: WorkspaceId) -> ModelConfig:
        """Give what the workspace's agents use now that name no model."""
        loaded = await self._store.load(SETTINGS, settings_stream(workspace_id), fresh=True)
        return default_model(loaded.state, self.installed)

    async def told(self, workspace_id: WorkspaceId) -> list[Told]:
        loaded = await self._store.load(SETTINGS, settings_stream(workspace_id), fresh=True)
        return told(loaded.state, self.installed)

    async def define(self, command: DefineSetting, issued: Issued) -> Outcome[SettingAnswer]:
        definition = command.definition()

        def decision(state: WorkspaceSettings) -> tuple[SettingName, Sequence[SettingsEvent]]:
            return definition.name, settings.define(
                state, definition=definition, value=command.value
            )

        return await self._on_one(decision, issued)

    async def change(
        self, setting_id: int, command: ChangeSetting, issued: Issued
    ) -> Outcome[SettingAnswer]:
        """Change a setting: its value first, so that it may then be required."""

        def decision(state: WorkspaceSettings) -> tuple[SettingName, Sequence[SettingsEvent]]:
            (name,) = settings.named(state, issued.workspace_id, [setting_id])
            changed = _revalued(state, name, command.value)
            described = settings.describe(
                SETTINGS.fold(changed, state),
                setting=name,
                description=command.description,
                is_required=command.is_required,
            )
            return name, (*changed, *described)

        return await self._on_one(decision, issued)

    async def remove(self, setting_id: int, issued: Issued) -> Outcome[CountAnswer]:
        def decision(state: WorkspaceSettings) -> Sequence[SettingsEvent]:
            (name,) = settings.named(state, issued.workspace_id, [setting_id])
            return settings.remove(state, setting=name)

        return await self._on_many(decision, issued)

    async def change_many(self, values: Sequence[NewValue], issued: Issued) -> Outcome[CountAnswer]:
        """Change all of them, or none; tell how many were named."""
        if len(values) > BULK_MAX:
            raise Invalid(f"At most {BULK_MAX} settings are changed at once.", pointer="")

        def decision(state: WorkspaceSettings) -> Sequence[SettingsEvent]:
            numbers = [wanted.setting_id for wanted in values]
            names = settings.named(state, issued.workspace_id, numbers)
            changes = [
                Change(setting=name, value=wanted.value, pointer=f"/{nth}/value")
                for nth, (name, wanted) in enumerate(zip(names, values, strict=True))
            ]
            return settings.change(state, changes=changes)

        return await self._on_many(decision, issued, count=len(values))

    async def reset(self, category: str | None, issued: Issued) -> Outcome[CountAnswer]:
        return await self._on_many(lambda state: settings.reset(state, category=category), issued)

    async def _on_one(
        self,
        decision: Callable[[WorkspaceSettings], tuple[SettingName, Sequence[SettingsEvent]]],
        issued: Issued,
    ) -> Outcome[SettingAnswer]:
        stream_id = settings_stream(issued.workspace_id)

        async def decide(transaction: Transaction) -> SettingAnswer:
            loaded = await transaction.load_matching(SETTINGS, stream_id)
            name, events = decision(loaded.state)
            version = transaction.record(stream_id, events)
            after = told(SETTINGS.fold(events, loaded.state), self.installed)
            setting = next(each for each in after if each.name == name)
            return SettingAnswer(setting=setting, version=version)

        return await self._transactions.run(decide, issued, SettingAnswer)

    async def _on_many(
        self,
        decision: Callable[[WorkspaceSettings], Sequence[SettingsEvent]],
        issued: Issued,
        *,
        count: int | None = None,
    ) -> Outcome[CountAnswer]:
        stream_id = settings_stream(issued.workspace_id)

        async def decide(transaction: Transaction) -> CountAnswer:
            loaded = await transaction.load_matching(SETTINGS, stream_id)
            events = decision(loaded.state)
            version = transaction.record(stream_id, events)
            return CountAnswer(count=len(events) if count is None else count, version=version)

        return await self._transactions.run(decide, issued, CountAnswer)


def settings_stream(workspace_id: WorkspaceId) -> StreamId:
    return SETTINGS.stream_id(workspace_id, "system")


def _revalued(
    state: WorkspaceSettings, name: SettingName, value: str | UnsetType | None
) -> Sequence[SettingsEvent]:
    return (
        ()
        if value is UNSET
        else settings.change(state, changes=[Change(setting=name, value=value)])
    )
