"""Commands on agents."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from commands.names import Names
from commands.transact import Issued, Loaded, Outcome, Transaction, Transactions
from domain import agents, claims
from domain.agents import (
    AGENT,
    AgentChanges,
    AgentId,
    AgentProfile,
    AgentSource,
    AgentState,
    AgentStatus,
    ModelConfig,
    Registered,
    Unregistered,
)
from domain.errors import DomainError, Invalid, NameIsTaken, TooLong
from domain.events import WorkspaceId

NAME_MAX = 255
DESCRIPTION_MAX = 16_384
PROMPT_BYTES_MAX = 256 * 1024
AT_ONCE_MAX = 100
"""Agents registered by one command."""

TAGS_MAX = 100
"""After commas are split: one text may hold many."""

TAG_MAX = 255
"""Characters of a tag."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_MAX, pattern=r"\S")]
Description = Annotated[str, msgspec.Meta(max_length=DESCRIPTION_MAX)]

NAME_KIND = "Agent"
SOURCE_KIND = "agent_source"


class RegisterAgent(msgspec.Struct, frozen=True, kw_only=True):
    profile: AgentProfile


class RegisterAgents(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    profiles: All are registered, or none; at most `AT_ONCE_MAX`.
    """

    profiles: tuple[AgentProfile, ...]


class ChangeAgent(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    tags: In any of the forms the original takes; see `agents.normalized_tags`.
    """

    agent_id: AgentId
    changes: AgentChanges = AgentChanges()
    tags: object | UnsetType = UNSET
    model: ModelConfig | UnsetType | None = UNSET
    status: AgentStatus | UnsetType = UNSET


class RollBackAgent(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    version: Of the agent's stream; see `agents.roll_back`.
    """

    agent_id: AgentId
    version: int


class ArchiveAgent(msgspec.Struct, frozen=True, kw_only=True):
    agent_id: AgentId
    reason: str = ""


class ImportAgent(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    second_name: Taken when another agent holds the profile's name.
    """

    profile: AgentProfile
    source: AgentSource
    second_name: str


class AgentAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as its command left it."""

    agent_id: AgentId
    profile: AgentProfile
    version: int
    created_at: datetime
    updated_at: datetime
    created_by: str


class AgentsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    agents: tuple[AgentAnswer, ...]


class ArchivedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    agent_id: AgentId
    name: str
    version: int


Import: TypeAlias = Literal["registered", "changed", "unchanged", "archived"]


class ImportAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    outcome: `archived`: somebody archived the agent since, and so it stays.
    """

    agent_id: AgentId
    name: str
    outcome: Import


class AgentCommands:
    """Runs commands on agents. Holds no state of its own."""

    def __init__(self, transactions: Transactions, next_id: Callable[[], int]) -> None:
        self._transactions = transactions
        self._next_id = next_id

    async def register(self, command: RegisterAgent, issued: Issued) -> Outcome[AgentAnswer]:
        _check_prompt(command.profile.system_prompt)

        async def decide(transaction: Transaction) -> AgentAnswer:
            return await self._register(transaction, issued, command.profile)

        return await self._transactions.run(decide, issued, AgentAnswer)

    async def register_all(self, command: RegisterAgents, issued: Issued) -> Outcome[AgentsAnswer]:
        """Register agents, all of them or none; refusals point to the one at fault."""
        if not 1 <= len(command.profiles) <= AT_ONCE_MAX:
            raise Invalid(f"From 1 to {AT_ONCE_MAX} agents are registered at once.", pointer="")
        _check_distinct(command.profiles)
        for number, profile in enumerate(command.profiles):
            with _pointing_to(number):
                _check_prompt(profile.system_prompt)

        async def decide(transaction: Transaction) -> AgentsAnswer:
            answers: list[AgentAnswer] = []
            for number, profile in enumerate(command.profiles):
                with _pointing_to(number):
                    answers.append(await self._register(transaction, issued, profile))
            return AgentsAnswer(agents=tuple(answers))

        return await self._transactions.run(decide, issued, AgentsAnswer)

    async def change(self, command: ChangeAgent, issued: Issued) -> Outcome[AgentAnswer]:
        if command.changes.system_prompt is not UNSET:
            _check_prompt(command.changes.system_prompt)

        async def decide(transaction: Transaction) -> AgentAnswer:
            stream_id = AGENT.stream_id(issued.workspace_id, command.agent_id)
            loaded = await transaction.load_matching(AGENT, stream_id)
            return await self._change(transaction, issued, loaded, command)

        return await self._transactions.run(decide, issued, AgentAnswer)

    async def roll_back(self, command: RollBackAgent, issued: Issued) -> Outcome[AgentAnswer]:
        async def decide(transaction: Transaction) -> AgentAnswer:
            stream_id = AGENT.stream_id(issued.workspace_id, command.agent_id)
            loaded = await transaction.load_matching(AGENT, stream_id)
            then = await transaction.load_at(AGENT, stream_id, command.version)
            decided = agents.roll_back(
                loaded.state, agent_id=command.agent_id, version=command.version, then=then
            )
            try:
                return await self._changed(transaction, issued, loaded, decided)
            except NameIsTaken as taken:
                # The request holds no name: it is the version's.
                raise NameIsTaken(taken.kind, taken.name, pointer="/version") from taken

        return await self._transactions.run(decide, issued, AgentAnswer)

    async def archive(self, command: ArchiveAgent, issued: Issued) -> Outcome[ArchivedAnswer]:
        async def decide(transaction: Transaction) -> ArchivedAnswer:
            stream_id = AGENT.stream_id(issued.workspace_id, command.agent_id)
            loaded = await transaction.load_matching(AGENT, stream_id)
            decided = agents.archive(loaded.state, agent_id=command.agent_id, reason=command.reason)
            version = transaction.record(stream_id, decided)
            name = _name(loaded.state)
            if decided:
                names = Names(transaction, issued.workspace_id, NAME_KIND)
                await names.release(name, str(command.agent_id))
            return ArchivedAnswer(agent_id=command.agent_id, name=name, version=version)

        return await self._transactions.run(decide, issued, ArchivedAnswer)

    async def import_agent(self, command: ImportAgent, issued: Issued) -> Outcome[ImportAnswer]:
        """Register an agent read from a file, or bring it up to date, as the file's key tells."""
        _check_prompt(command.profile.system_prompt)

        async def decide(transaction: Transaction) -> ImportAnswer:
            sources = Names(transaction, issued.workspace_id, SOURCE_KIND)
            holder = await sources.holder(command.source.key)
            if holder is not None:
                return await self._import_again(transaction, issued, command, AgentId(int(holder)))
            profile = await _with_free_name(transaction, issued.workspace_id, command)
            answer = await self._register(transaction, issued, profile)
            await sources.claim(command.source.key, str(answer.agent_id))
            return _imported(answer, "registered")

        return await self._transactions.run(decide, issued, ImportAnswer)

    async def _register(
        self, transaction: Transaction, issued: Issued, profile: AgentProfile
    ) -> AgentAnswer:
        agent_id = AgentId(self._next_id())
        stream_id = AGENT.stream_id(issued.workspace_id, agent_id)
        loaded = transaction.load_new(AGENT, stream_id)
        names = Names(transaction, issued.workspace_id, NAME_KIND)
        await names.claim(profile.name, str(agent_id))
        decided = agents.register(loaded.state, agent_id=agent_id, profile=profile)
        registered = AGENT.fold(decided, loaded.state)
        assert isinstance(registered, Registered)
        _check_tags(registered.profile.tags)
        version = transaction.record(stream_id, decided)
        return _answer(transaction, loaded, registered, version)

    async def _change(
        self,
        transaction: Transaction,
        issued: Issued,
        loaded: Loaded[AgentState],
        command: ChangeAgent,
    ) -> AgentAnswer:
        known = agents.registered(loaded.state, command.agent_id)
        decided = decide_change(loaded.state, command)
        changed = AGENT.fold(decided, loaded.state)
        assert isinstance(changed, Registered)
        _check_tags(changed.profile.tags, known=known.profile.tags)
        return await self._changed(transaction, issued, loaded, decided)

    async def _changed(
        self,
        transaction: Transaction,
        issued: Issued,
        loaded: Loaded[AgentState],
        decided: Sequence[agents.AgentEvent],
    ) -> AgentAnswer:
        known, changed = loaded.state, AGENT.fold(decided, loaded.state)
        assert isinstance(known, Registered)
        assert isinstance(changed, Registered)
        names = Names(transaction, issued.workspace_id, NAME_KIND)
        await names.rename(known.profile.name, changed.profile.name, str(known.agent_id))
        stream_id = AGENT.stream_id(issued.workspace_id, known.agent_id)
        return _answer(transaction, loaded, changed, transaction.record(stream_id, decided))

    async def _import_again(
        self, transaction: Transaction, issued: Issued, command: ImportAgent, agent_id: AgentId
    ) -> ImportAnswer:
        stream_id = AGENT.stream_id(issued.workspace_id, agent_id)
        loaded = await transaction.load(AGENT, stream_id)
        if not isinstance(loaded.state, Registered):
            return ImportAnswer(agent_id=agent_id, name=_name(loaded.state), outcome="archived")
        known = loaded.state.profile
        if known.source is not None and known.source.digest == command.source.digest:
            return ImportAnswer(agent_id=agent_id, name=known.name, outcome="unchanged")
        changes = AgentChanges(
            description=command.profile.description,
            system_prompt=command.profile.system_prompt,
            source=command.source,
        )
        change = ChangeAgent(agent_id=agent_id, changes=changes, model=command.profile.model)
        return _imported(await self._change(transaction, issued, loaded, change), "changed")


def decide_change(state: AgentState, command: ChangeAgent) -> list[agents.AgentEvent]:
    """Take every decision that a change asks for; tags last told win over the configuration's."""
    agent_id = command.agent_id
    decided = list(agents.change(state, agent_id=agent_id, changes=command.changes))
    if command.tags is not UNSET:
        changed = AGENT.fold(decided, state)
        decided += agents.tag(changed, agent_id=agent_id, tags=command.tags)
    if command.model is not UNSET:
        decided += agents.configure_model(state, agent_id=agent_id, model=command.model)
    if command.status is not UNSET:
        decided += agents.set_status(state, agent_id=agent_id, status=command.status)
    return decided


@contextmanager
def _pointing_to(number: int) -> Generator[None]:
    try:
        yield
    except DomainError as error:
        error.pointer = f"/{number}{error.pointer or ''}"
        raise


def _check_distinct(profiles: Sequence[AgentProfile]) -> None:
    """Refuse two of one name: within one decision the first one's claim is not seen yet."""
    names: set[str] = set()
    for number, profile in enumerate(profiles):
        name = claims.folded(profile.name)
        if name in names:
            raise NameIsTaken(NAME_KIND, profile.name, pointer=f"/{number}/name")
        names.add(name)


async def _with_free_name(
    transaction: Transaction, workspace_id: WorkspaceId, command: ImportAgent
) -> AgentProfile:
    names = Names(transaction, workspace_id, NAME_KIND)
    for name in (command.profile.name, command.second_name):
        if await names.holder(name) is None:
            return msgspec.structs.replace(command.profile, name=name, source=command.source)
    raise NameIsTaken(NAME_KIND, command.second_name)


def _answer(
    transaction: Transaction, loaded: Loaded[AgentState], state: AgentState, version: int
) -> AgentAnswer:
    assert isinstance(state, Registered)
    first = loaded.first or transaction.metadata
    last = transaction.metadata if version > loaded.version else loaded.last or first
    return AgentAnswer(
        agent_id=state.agent_id,
        profile=state.profile,
        version=version,
        created_at=first.occurred_at,
        updated_at=last.occurred_at,
        created_by=first.actor,
    )


def _imported(answer: AgentAnswer, outcome: Import) -> ImportAnswer:
    return ImportAnswer(agent_id=answer.agent_id, name=answer.profile.name, outcome=outcome)


def _name(state: AgentState) -> str:
    assert not isinstance(state, Unregistered)
    return state.profile.name if isinstance(state, Registered) else state.name


def _check_prompt(prompt: str) -> None:
    size = len(prompt.encode())
    if size > PROMPT_BYTES_MAX:
        raise TooLong(
            "The system prompt", size=size, size_max=PROMPT_BYTES_MAX, pointer="/system_prompt"
        )


def _check_tags(tags: tuple[str, ...], known: tuple[str, ...] = ()) -> None:
    """Refuse too many or too long tags; those that an agent has had before may stay."""
    if tags != known and (len(tags) > TAGS_MAX or any(len(tag) > TAG_MAX for tag in tags)):
        raise Invalid(
            f"An agent has at most {TAGS_MAX} tags of {TAG_MAX} characters.", pointer="/tags"
        )
