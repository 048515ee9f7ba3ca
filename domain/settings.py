"""System settings: what a workspace chooses, between the environment and the defaults.

One stream for each workspace, not one for each setting: what is changed together is appended
together, a name is taken once, and whoever needs the settings of a workspace folds one stream.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NewType, TypeAlias, assert_never

import msgspec
from msgspec import UNSET, UnsetType

from domain.errors import Invalid, NameIsTaken, NotFound, SettingIsRequired, TooMany
from domain.events import Aggregate, Event, Personal, WorkspaceId
from domain.setting_values import PROVIDER_NAMES, Rules, ValueType, checked

SettingName = NewType("SettingName", str)
"""`<category>.<key>`; neither holds a dot."""

Source: TypeAlias = Literal["environment", "system settings", "default"]

SETTINGS_MAX = 200
"""Settings that a workspace defines itself."""

MASK = "********"
"""Stands for a sensitive value in every answer; sent back, it changes nothing."""


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """What a setting is, apart from its value.

    Attributes:
        default: Holds where no value is set; None for none.
        is_sensitive: The value is sealed in the log and never told again.
        is_required: The setting always has a value, and is not removed.
    """

    category: str
    key: str
    value_type: ValueType = "string"
    default: str | None = None
    description: str = ""
    is_sensitive: bool = False
    is_required: bool = False

    @property
    def name(self) -> SettingName:
        return SettingName(f"{self.category}.{self.key}")


def _llm(
    key: str, description: str, *, value_type: ValueType = "string", default: str | None = None
) -> Definition:
    return Definition(
        category="orchestrator_llm",
        key=key,
        value_type=value_type,
        default=default,
        description=description,
        is_required=True,
    )


PROVIDER = SettingName("orchestrator_llm.llm_provider")
MODEL = SettingName("orchestrator_llm.llm_model")
TEMPERATURE = SettingName("orchestrator_llm.temperature")
MAX_TOKENS = SettingName("orchestrator_llm.max_tokens")

CATALOG: Mapping[SettingName, Definition] = MappingProxyType(
    {
        definition.name: definition
        for definition in (
            _llm("llm_provider", "Asked by agents that name no model."),
            _llm("llm_model", "The provider's model that agents use who name none."),
            _llm(
                "temperature",
                "Of calls of agents that name no model.",
                value_type="number",
                default="0.7",
            ),
            _llm(
                "max_tokens",
                "Of an answer to agents that name no model.",
                value_type="number",
                default="2000",
            ),
        )
    }
)
"""The settings that the platform itself reads, each of which takes effect; names and defaults are
the original's. Provider and model have the installation's defaults: see `domain.effective`."""

RULES: Mapping[SettingName, Rules] = MappingProxyType(
    {
        PROVIDER: Rules(options=PROVIDER_NAMES),
        MODEL: Rules(length_max=255),
        TEMPERATURE: Rules(minimum=0, maximum=2),
        MAX_TOKENS: Rules(minimum=1, maximum=1_000_000, integer=True),
    }
)


# Events. The tags are stored for ever: change them only with an upcaster.


class SettingDefined(Event, frozen=True, kw_only=True, tag="setting_defined"):
    """A workspace made a setting of its own."""

    definition: Definition


class SettingDescribed(Event, frozen=True, kw_only=True, tag="setting_described"):
    """A setting of the workspace's own was told to mean something else, or to be needed."""

    setting: SettingName
    description: str
    is_required: bool


class SettingChanged(Event, frozen=True, kw_only=True, tag="setting_changed"):
    """A setting was given a value, spelled as text whatever its type."""

    setting: SettingName
    value: str


class SecretSettingChanged(Event, frozen=True, kw_only=True, tag="secret_setting_changed"):
    """A sensitive setting was given a value, which nobody is told again."""

    subject_field = "setting"

    setting: SettingName
    value: Personal[str]


class SettingReset(Event, frozen=True, kw_only=True, tag="setting_reset"):
    """A setting lost its value: its default holds."""

    setting: SettingName


class SettingRemoved(Event, frozen=True, kw_only=True, tag="setting_removed"):
    """A setting of the workspace's own is no more; its history stays."""

    setting: SettingName


SettingsEvent: TypeAlias = (
    SettingDefined
    | SettingDescribed
    | SettingChanged
    | SecretSettingChanged
    | SettingReset
    | SettingRemoved
)


class WorkspaceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a workspace has set.

    Attributes:
        own: Settings that it defined itself.
        values: Those that are not sensitive.
        secrets: The sensitive ones that have a value; the values are not here.
    """

    own: dict[SettingName, Definition] = {}
    values: dict[SettingName, str] = {}
    secrets: frozenset[SettingName] = frozenset()

    def definition(self, setting: SettingName) -> Definition | None:
        return CATALOG.get(setting) or self.own.get(setting)

    def definitions(self) -> list[Definition]:
        """The platform's first, then the workspace's own by name."""
        return [*CATALOG.values(), *(self.own[name] for name in sorted(self.own))]


def evolve(state: WorkspaceSettings, event: SettingsEvent) -> WorkspaceSettings:
    match event:
        case SettingDefined(definition=definition):
            own = {**state.own, definition.name: definition}
            return msgspec.structs.replace(state, own=own)
        case SettingDescribed():
            return _described(state, event)
        case SettingChanged(setting=setting, value=value):
            return msgspec.structs.replace(state, values={**state.values, setting: value})
        case SecretSettingChanged(setting=setting):
            return msgspec.structs.replace(state, secrets=state.secrets | {setting})
        case SettingReset(setting=setting):
            return _valueless(state, setting)
        case SettingRemoved(setting=setting):
            own = {name: known for name, known in state.own.items() if name != setting}
            return msgspec.structs.replace(_valueless(state, setting), own=own)
        case _:
            assert_never(event)


def _described(state: WorkspaceSettings, event: SettingDescribed) -> WorkspaceSettings:
    known = state.own.get(event.setting)
    if known is None:
        return state
    told = msgspec.structs.replace(
        known, description=event.description, is_required=event.is_required
    )
    return msgspec.structs.replace(state, own={**state.own, event.setting: told})


def _valueless(state: WorkspaceSettings, setting: SettingName) -> WorkspaceSettings:
    values = {name: value for name, value in state.values.items() if name != setting}
    return msgspec.structs.replace(state, values=values, secrets=state.secrets - {setting})


SETTINGS: Aggregate[WorkspaceSettings, SettingsEvent] = Aggregate(
    category="settings", initial=WorkspaceSettings(), evolve=evolve
)


# On the wire a setting has a number.


def setting_id(workspace_id: WorkspaceId, setting: SettingName) -> int:
    """Number a setting: 53 bits, all that JavaScript counts, of a digest of workspace and name.

    So a platform's setting has a number in a workspace that never touched it, and another
    workspace's number is nobody's.
    """
    digest = hashlib.sha256(f"{workspace_id}:{setting}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 11


def named(
    state: WorkspaceSettings, workspace_id: WorkspaceId, numbers: Sequence[int]
) -> list[SettingName]:
    """Tell which settings have the numbers.

    Raises:
        NotFound: None has one of them.
    """
    known = {setting_id(workspace_id, each.name): each.name for each in state.definitions()}
    missing = next((number for number in numbers if number not in known), None)
    if missing is not None:
        raise NotFound("Setting", str(missing))
    return [known[number] for number in numbers]


# Decisions.


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    value: None for the default.
    pointer: To the value, in the request.
    """

    setting: SettingName
    value: str | None
    pointer: str = "/value"


def define(
    state: WorkspaceSettings, *, definition: Definition, value: str | None
) -> tuple[SettingsEvent, ...]:
    name = definition.name
    if state.definition(name) is not None:
        raise NameIsTaken("Setting", name, pointer="/key")
    if len(state.own) >= SETTINGS_MAX:
        raise TooMany("settings", SETTINGS_MAX)
    if definition.default is not None:
        definition = _with_default(definition, definition.default)
    given = () if value is None else (_given(definition, value, "/value"),)
    if definition.is_required and definition.default is None and not given:
        raise Invalid("A required setting needs a value, or a default.", pointer="/value")
    return (SettingDefined(definition=definition), *given)


def _with_default(definition: Definition, default: str) -> Definition:
    if definition.is_sensitive:
        # It would stand in the log for everybody to read.
        raise Invalid("A sensitive setting has no default.", pointer="/default_value")
    spelled = checked(default, definition.value_type, Rules(), "/default_value")
    return msgspec.structs.replace(definition, default=spelled)


def change(state: WorkspaceSettings, *, changes: Sequence[Change]) -> tuple[SettingsEvent, ...]:
    """Give settings other values, all of them or none."""
    names = [each.setting for each in changes]
    for nth, each in enumerate(changes):
        if each.setting in names[:nth]:
            raise Invalid("The setting is named twice.", pointer=each.pointer)
    return tuple(event for each in changes for event in _changed(state, each))


def _changed(state: WorkspaceSettings, wanted: Change) -> tuple[SettingsEvent, ...]:
    definition = _known(state, wanted.setting)
    name = definition.name
    if wanted.value is None:
        if definition.is_required and definition.default is None and name not in CATALOG:
            raise Invalid("A required setting needs a value.", pointer=wanted.pointer)
        return (SettingReset(setting=name),) if _is_set(state, name) else ()
    if definition.is_sensitive and wanted.value == MASK:
        return ()
    event = _given(definition, wanted.value, wanted.pointer)
    if isinstance(event, SettingChanged) and state.values.get(name) == event.value:
        return ()
    return (event,)


def _given(
    definition: Definition, value: str, pointer: str
) -> SettingChanged | SecretSettingChanged:
    name = definition.name
    spelled = checked(value, definition.value_type, RULES.get(name, Rules()), pointer)
    if definition.is_sensitive:
        return SecretSettingChanged(setting=name, value=spelled)
    return SettingChanged(setting=name, value=spelled)


def describe(
    state: WorkspaceSettings,
    *,
    setting: SettingName,
    description: str | UnsetType = UNSET,
    is_required: bool | UnsetType = UNSET,
) -> tuple[SettingsEvent, ...]:
    """Tell what a setting of the workspace's own means, and whether it is needed."""
    known = _known(state, setting)
    told = SettingDescribed(
        setting=setting,
        description=known.description if description is UNSET else description,
        is_required=known.is_required if is_required is UNSET else is_required,
    )
    if (told.description, told.is_required) == (known.description, known.is_required):
        return ()
    if setting in CATALOG:
        field = "is_required" if told.description == known.description else "description"
        raise Invalid("Only the value of a platform's setting changes.", pointer=f"/{field}")
    if told.is_required and known.default is None and not _is_set(state, setting):
        raise Invalid("A required setting needs a value.", pointer="/is_required")
    return (told,)


def reset(state: WorkspaceSettings, *, category: str | None) -> tuple[SettingsEvent, ...]:
    """Let defaults hold again: in one category, or everywhere. What has none keeps its value."""
    return tuple(
        SettingReset(setting=definition.name)
        for definition in state.definitions()
        if category in {None, definition.category}
        and definition.name in state.values
        and (definition.name in CATALOG or definition.default is not None)
    )


def remove(state: WorkspaceSettings, *, setting: SettingName) -> tuple[SettingsEvent, ...]:
    if _known(state, setting).is_required:
        raise SettingIsRequired(setting)
    return (SettingRemoved(setting=setting),)


def _known(state: WorkspaceSettings, setting: SettingName) -> Definition:
    definition = state.definition(setting)
    if definition is None:
        raise NotFound("Setting", setting)
    return definition


def _is_set(state: WorkspaceSettings, setting: SettingName) -> bool:
    return setting in state.values or setting in state.secrets


def categories(definitions: Iterable[Definition]) -> list[str]:
    """Name each category once, in the order of its first setting."""
    return list(dict.fromkeys(definition.category for definition in definitions))
