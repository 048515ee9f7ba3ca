"""What may be sent about agents, and the commands it means."""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from commands.agents import TAGS_MAX, ChangeAgent, Description, Name
from domain.agents import AgentChanges, AgentId, AgentProfile, AgentStatus, ModelConfig
from domain.errors import Invalid
from domain.events import JsonObject

PARTS_MAX = 100
"""Skills, tools or plugins of an agent, each."""

Text255 = Annotated[str, msgspec.Meta(max_length=255)]
Tags = Annotated[list[Text255], msgspec.Meta(max_length=TAGS_MAX)] | str
Numbers = Annotated[list[int], msgspec.Meta(max_length=PARTS_MAX)]
Texts = Annotated[list[Text255], msgspec.Meta(max_length=PARTS_MAX)]


class NewModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    provider: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    model_id: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.7
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 2000
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    fallback_model_id: Text255 | None = None

    def known(self) -> ModelConfig:
        return msgspec.convert(msgspec.to_builtins(self), ModelConfig)


class NewAgent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Attributes:
    skill_ids, tool_ids, plugin_ids: Accepted because the frontend sends them; there is none
        to name yet.
    """

    name: Name
    description: Description | None = None
    agent_type: Text255 = "custom"
    status: AgentStatus = "active"
    configuration: JsonObject = {}
    system_prompt: str = ""
    model_config: NewModelConfig | None = None
    tags: Tags = []
    skill_ids: Numbers = []
    tool_ids: Numbers = []
    plugin_ids: Texts = []
    marketplace_category: Text255 | None = None


class AgentUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    agent_type: Text255 | UnsetType = UNSET
    status: AgentStatus | UnsetType = UNSET
    configuration: JsonObject | UnsetType = UNSET
    system_prompt: str | UnsetType = UNSET
    model_config: NewModelConfig | UnsetType | None = UNSET
    tags: Tags | UnsetType = UNSET
    skill_ids: Numbers = []
    tool_ids: Numbers = []
    plugin_ids: Texts = []


class SwitchedModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model_id: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    provider: Text255 | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None


def refuse_unknown_parts(data: NewAgent | AgentUpdate, at: str = "") -> None:
    """Refuse what names a skill, tool or plugin, rather than drop it: this part has none."""
    named = {"skill_ids": data.skill_ids, "tool_ids": data.tool_ids, "plugin_ids": data.plugin_ids}
    for field, ids in named.items():
        if ids:
            what = field.removesuffix("_ids").capitalize() + "s"
            raise Invalid(f"{what} not found: {ids}", pointer=f"{at}/{field}")


def profile_of(data: NewAgent) -> AgentProfile:
    configuration = dict(data.configuration)
    if data.marketplace_category is not None:
        configuration["marketplace_category"] = data.marketplace_category
    return AgentProfile(
        name=data.name.strip(),
        description=data.description,
        agent_type=data.agent_type,
        status=data.status,
        configuration=configuration,
        tags=(data.tags,) if isinstance(data.tags, str) else tuple(data.tags),
        model=None if data.model_config is None else data.model_config.known(),
        system_prompt=data.system_prompt,
    )


def change_of(agent_id: AgentId, data: AgentUpdate) -> ChangeAgent:
    model = data.model_config
    return ChangeAgent(
        agent_id=agent_id,
        changes=AgentChanges(
            name=data.name if data.name is UNSET else data.name.strip(),
            description=data.description,
            agent_type=data.agent_type,
            configuration=data.configuration,
            system_prompt=data.system_prompt,
        ),
        tags=data.tags,
        model=model.known() if isinstance(model, NewModelConfig) else model,
        status=data.status,
    )
