"""Agents: registered in a workspace, given a model and a prompt, at last archived."""

from collections.abc import Iterable
from typing import Literal, NewType, TypeAlias, assert_never, cast

import msgspec
from msgspec import UNSET, UnsetType

from domain.changes import alike, differing
from domain.errors import AgentIsArchived, AlreadyExists, NotFound
from domain.events import Aggregate, Event, JsonObject

AgentId = NewType("AgentId", int)

AgentStatus: TypeAlias = Literal["active", "inactive", "training"]

AGENT_TYPES: dict[str, str] = {
    "custom": "Does what its own prompt says",
    "system": "Serves the platform itself",
    "specialized": "Expert in one narrow subject",
    "code_architect": "Designs and reviews software structure",
    "security_expert": "Looks for weaknesses and how to mend them",
    "performance_optimizer": "Finds and removes what is slow",
    "data_analyst": "Reads data and explains what it says",
    "infrastructure_manager": "Runs servers, networks and deployments",
}
"""The original's eight types; others are accepted as given."""


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Which model an agent uses, and how. Defaults are the original's."""

    provider: str
    model_id: str
    temperature: float = 0.7
    max_tokens: int = 2000
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    fallback_model_id: str | None = None


class AgentSource(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where an imported agent came from.

    Attributes:
        key: Stable name of the file among all imports of its workspace.
        digest: SHA-256 of the file's bytes, hex: tells whether it has changed.
        model: As the file spells it; None when it names none.
        tools: As the file lists them.
    """

    format: str
    key: str
    path: str
    digest: str
    model: str | None = None
    tools: tuple[str, ...] = ()


class AgentProfile(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Everything an agent is told to be.

    Attributes:
        configuration: The author's own JSON, kept as given.
        model: None: the installation's default, resolved at each call.
    """

    name: str
    description: str | None = None
    agent_type: str = "custom"
    status: AgentStatus = "active"
    configuration: JsonObject = {}
    tags: tuple[str, ...] = ()
    model: ModelConfig | None = None
    system_prompt: str = ""
    source: AgentSource | None = None


class AgentChanges(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What to change of a profile; what is not set stays."""

    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    agent_type: str | UnsetType = UNSET
    configuration: JsonObject | UnsetType = UNSET
    system_prompt: str | UnsetType = UNSET
    source: AgentSource | UnsetType | None = UNSET


# Events. The tags are stored for ever: change them only with an upcaster.


class AgentRegistered(Event, frozen=True, kw_only=True, tag="agent_registered"):
    """An agent came into being, with all it is told to be."""

    agent_id: AgentId
    profile: AgentProfile


class AgentChanged(Event, frozen=True, kw_only=True, tag="agent_changed"):
    """Parts of an agent's profile were given other values."""

    agent_id: AgentId
    changes: AgentChanges


class AgentTagged(Event, frozen=True, kw_only=True, tag="agent_tagged"):
    """An agent's tags were set, all of them anew."""

    agent_id: AgentId
    tags: tuple[str, ...]


class AgentModelConfigured(Event, frozen=True, kw_only=True, tag="agent_model_configured"):
    """An agent was given a model, or left to the installation's default."""

    agent_id: AgentId
    model: ModelConfig | None


class AgentActivated(Event, frozen=True, kw_only=True, tag="agent_activated"):
    """An agent was put into service."""

    agent_id: AgentId


class AgentDeactivated(Event, frozen=True, kw_only=True, tag="agent_deactivated"):
    """An agent was taken out of service.

    Attributes:
        training: Taken out of service to be trained, which the wire calls `training`.
    """

    agent_id: AgentId
    training: bool = False


class AgentRolledBack(Event, frozen=True, kw_only=True, tag="agent_rolled_back"):
    """An agent was made again what it was told to be at an earlier version.

    Attributes:
        version: The one restored.
        profile: As it then was, but for the status, which is as it is now.
    """

    agent_id: AgentId
    version: int
    profile: AgentProfile


class AgentArchived(Event, frozen=True, kw_only=True, tag="agent_archived"):
    """An agent was put away for good; its history stays."""

    agent_id: AgentId
    reason: str = ""


AgentEvent: TypeAlias = (
    AgentRegistered
    | AgentChanged
    | AgentTagged
    | AgentModelConfigured
    | AgentActivated
    | AgentDeactivated
    | AgentRolledBack
    | AgentArchived
)


# State.


class Unregistered(msgspec.Struct, frozen=True, tag=True):
    pass


class Registered(msgspec.Struct, frozen=True, tag=True, gc=False):
    agent_id: AgentId
    profile: AgentProfile


class Archived(msgspec.Struct, frozen=True, tag=True):
    agent_id: AgentId
    name: str


AgentState: TypeAlias = Unregistered | Registered | Archived


def evolve(state: AgentState, event: AgentEvent) -> AgentState:
    """Apply one fact. Total: whatever was recorded is accepted, never judged.

    What happens most often is asked for first: each kind that an event is not costs time.
    """
    match event:
        case (
            AgentChanged()
            | AgentTagged()
            | AgentModelConfigured()
            | AgentActivated()
            | AgentDeactivated()
            | AgentRolledBack()
        ):
            if not isinstance(state, Registered):
                return state
            return Registered(state.agent_id, _evolve_profile(state.profile, event))
        case AgentRegistered():
            return Registered(event.agent_id, event.profile)
        case AgentArchived():
            name = state.profile.name if isinstance(state, Registered) else ""
            return Archived(event.agent_id, name)
        case _:
            assert_never(event)


def _evolve_profile(
    profile: AgentProfile,
    event: AgentChanged
    | AgentTagged
    | AgentModelConfigured
    | AgentActivated
    | AgentDeactivated
    | AgentRolledBack,
) -> AgentProfile:
    match event:
        case AgentChanged():
            return changed(profile, event.changes)
        case AgentTagged():
            return msgspec.structs.replace(profile, tags=event.tags)
        case AgentModelConfigured():
            return msgspec.structs.replace(profile, model=event.model)
        case AgentActivated():
            return msgspec.structs.replace(profile, status="active")
        case AgentDeactivated():
            status = "training" if event.training else "inactive"
            return msgspec.structs.replace(profile, status=status)
        case AgentRolledBack():
            return event.profile
        case _:
            assert_never(event)


def changed(profile: AgentProfile, changes: AgentChanges) -> AgentProfile:
    """Do what `changes.applied` does in a quarter of its time: long histories are folded so."""
    return AgentProfile(
        name=profile.name if changes.name is UNSET else changes.name,
        description=profile.description if changes.description is UNSET else changes.description,
        agent_type=profile.agent_type if changes.agent_type is UNSET else changes.agent_type,
        status=profile.status,
        configuration=(
            profile.configuration if changes.configuration is UNSET else changes.configuration
        ),
        tags=profile.tags,
        model=profile.model,
        system_prompt=(
            profile.system_prompt if changes.system_prompt is UNSET else changes.system_prompt
        ),
        source=profile.source if changes.source is UNSET else changes.source,
    )


AGENT: Aggregate[AgentState, AgentEvent] = Aggregate(
    category="agent", initial=Unregistered(), evolve=evolve
)


# Decisions. Each asks one question of the state and answers with events.


def register(
    state: AgentState, *, agent_id: AgentId, profile: AgentProfile
) -> tuple[AgentEvent, ...]:
    """Register an agent; asking twice for the same agent is answered once."""
    match state:
        case Unregistered():
            return (AgentRegistered(agent_id=agent_id, profile=_tidied(profile)),)
        case Registered(profile=known) if known == _tidied(profile):
            return ()
        case Registered() | Archived():
            raise AlreadyExists("agent", str(agent_id))
        case _:
            assert_never(state)


def change(
    state: AgentState, *, agent_id: AgentId, changes: AgentChanges
) -> tuple[AgentEvent, ...]:
    """Change what differs. A configuration is merged key by key, as the original does.

    Tags that it holds, where the original kept them, become the agent's.
    """
    profile = registered(state, agent_id).profile
    tagged: tuple[AgentEvent, ...] = ()
    if isinstance(changes.configuration, dict):
        merged = {**profile.configuration, **changes.configuration}
        if "tags" in merged:
            tagged = tag(state, agent_id=agent_id, tags=merged.pop("tags"))
        changes = msgspec.structs.replace(changes, configuration=merged)
    changes = differing(changes, profile)
    if changes == AgentChanges():
        return tagged
    return (AgentChanged(agent_id=agent_id, changes=changes), *tagged)


def tag(state: AgentState, *, agent_id: AgentId, tags: object) -> tuple[AgentEvent, ...]:
    known = registered(state, agent_id).profile.tags
    wanted = normalized_tags(tags)
    return () if wanted == known else (AgentTagged(agent_id=agent_id, tags=wanted),)


def configure_model(
    state: AgentState, *, agent_id: AgentId, model: ModelConfig | None
) -> tuple[AgentEvent, ...]:
    if registered(state, agent_id).profile.model == model:
        return ()
    return (AgentModelConfigured(agent_id=agent_id, model=model),)


def set_status(
    state: AgentState, *, agent_id: AgentId, status: AgentStatus
) -> tuple[AgentEvent, ...]:
    if registered(state, agent_id).profile.status == status:
        return ()
    if status == "active":
        return (AgentActivated(agent_id=agent_id),)
    return (AgentDeactivated(agent_id=agent_id, training=status == "training"),)


def roll_back(
    state: AgentState, *, agent_id: AgentId, version: int, then: AgentState
) -> tuple[AgentEvent, ...]:
    """Make an agent again what it was told to be; whether it is in service stays as it is.

    Raises:
        NotFound: There was no such version.
    """
    known = registered(state, agent_id).profile
    if not isinstance(then, Registered):
        raise NotFound("Version", str(version))
    profile = msgspec.structs.replace(then.profile, status=known.status)
    if alike(profile, known):
        return ()
    return (AgentRolledBack(agent_id=agent_id, version=version, profile=profile),)


def archive(state: AgentState, *, agent_id: AgentId, reason: str) -> tuple[AgentEvent, ...]:
    if isinstance(state, Archived):
        return ()
    registered(state, agent_id)
    return (AgentArchived(agent_id=agent_id, reason=reason),)


def registered(state: AgentState, agent_id: AgentId, *, pointer: str | None = None) -> Registered:
    """Insist on an agent that can change and work.

    Raises:
        NotFound: There never was one.
        AgentIsArchived: There is no longer one.
    """
    match state:
        case Registered():
            return state
        case Unregistered():
            raise NotFound("Agent", str(agent_id))
        case Archived():
            raise AgentIsArchived(agent_id, pointer=pointer)
        case _:
            assert_never(state)


def system_prompt(profile: AgentProfile) -> str:
    """Assemble what the model is told about itself: who it is, then its own prompt."""
    identity = f"You are {profile.name}, an agent of type {profile.agent_type}."
    blocks = (identity, profile.description or "", profile.system_prompt)
    return "\n\n".join(block for block in blocks if block)


def normalized_tags(given: object) -> tuple[str, ...]:
    """Split at commas, trim, drop empty and repeated ones; the first spelling stays.

    Repetition ignores case. Anything that is not text, or a list of it, counts
    as no tags (the original's rule).
    """
    first: dict[str, str] = {}
    for text in _texts(given):
        for part in text.split(","):
            tag = part.strip()
            if tag:
                first.setdefault(tag.casefold(), tag)
    return tuple(first.values())


def _texts(given: object) -> Iterable[str]:
    if isinstance(given, str):
        return (given,)
    if isinstance(given, (list, tuple, set)):
        members = cast("Iterable[object]", given)
        return [member for member in members if isinstance(member, str)]
    return ()


def _tidied(profile: AgentProfile) -> AgentProfile:
    """Tags have one home: those the original kept in the configuration move out of it."""
    configuration = dict(profile.configuration)
    legacy = configuration.pop("tags", ())
    tags = normalized_tags(profile.tags) or normalized_tags(legacy)
    return msgspec.structs.replace(profile, configuration=configuration, tags=tags)
