"""Commands on agents, through the real store."""

import asyncio
from datetime import timedelta

import msgspec
import pytest
from msgspec import UNSET

from commands.agents import (
    AT_ONCE_MAX,
    PROMPT_BYTES_MAX,
    TAG_MAX,
    TAGS_MAX,
    AgentAnswer,
    ArchiveAgent,
    ArchivedAnswer,
    ChangeAgent,
    ImportAgent,
    ImportAnswer,
    RegisterAgent,
    RegisterAgents,
    RollBackAgent,
)
from domain.agents import (
    AGENT,
    AgentChanges,
    AgentId,
    AgentProfile,
    AgentSource,
    ModelConfig,
    Registered,
)
from domain.errors import (
    AgentIsArchived,
    DomainError,
    Invalid,
    NameIsTaken,
    NotFound,
    TooLong,
    VersionMismatch,
)
from domain.events import Metadata
from tests.commands.writing import ACME, GLOBEX, Writing
from tests.fakes import NOON

GPT = ModelConfig(provider="openai", model_id="gpt-5")
FILE = AgentSource(format="claude", key="plugin/reviewer", path="reviewer.md", digest="one")


def reviewer(
    *, digest: str = "one", prompt: str = "Review.", key: str = FILE.key, second: str = "Reviewer 2"
) -> ImportAgent:
    profile = AgentProfile(name="Reviewer", description="Reads code", system_prompt=prompt)
    source = msgspec.structs.replace(FILE, key=key, digest=digest)
    return ImportAgent(profile=profile, source=source, second_name=second)


async def import_agent(writing: Writing, command: ImportAgent) -> ImportAnswer:
    return (await writing.agents.import_agent(command, writing.issued())).answer


async def change(
    writing: Writing, command: ChangeAgent, *, if_version: int | None = None
) -> AgentAnswer:
    return (await writing.agents.change(command, writing.issued(if_version=if_version))).answer


async def profile(writing: Writing, agent_id: AgentId) -> AgentProfile:
    loaded = await writing.store.load(AGENT, AGENT.stream_id(ACME, agent_id), fresh=True)
    assert isinstance(loaded.state, Registered)
    return loaded.state.profile


# Registering.


async def test_a_registered_agent_is_told_as_it_is(writing: Writing) -> None:
    register = RegisterAgent(profile=AgentProfile(name="Ada", tags=("a, b",), model=GPT))
    outcome = await writing.agents.register(register, writing.issued())
    assert outcome.answer == AgentAnswer(
        agent_id=AgentId(1),
        profile=AgentProfile(name="Ada", tags=("a", "b"), model=GPT),
        version=1,
        created_at=NOON,
        updated_at=NOON,
        created_by="key:of-a-test",
    )
    assert outcome.global_position == 2
    assert await writing.tags() == ["name_claimed", "agent_registered"]


async def test_an_id_that_two_processes_drew_is_drawn_again(writing: Writing) -> None:
    await writing.agent("Ada")
    writing.agents._next_id = iter([1, 2]).__next__
    assert (await writing.agent("Grace")).agent_id == AgentId(2)


async def test_a_system_prompt_has_a_bound_in_bytes(writing: Writing) -> None:
    longest = "é" * (PROMPT_BYTES_MAX // 2)
    ada = await writing.agent("Ada", prompt=longest)
    assert ada.profile.system_prompt == longest
    too_long = AgentChanges(system_prompt=longest + "x")
    for asking in (
        writing.agent("Grace", prompt=longest + "x"),
        change(writing, ChangeAgent(agent_id=ada.agent_id, changes=too_long)),
        import_agent(writing, reviewer(prompt=longest + "x")),
    ):
        with pytest.raises(TooLong) as refused:
            await asking
        assert refused.value.pointer == "/system_prompt"
        assert refused.value.size_max == PROMPT_BYTES_MAX
    assert len(await writing.recorded()) == 2


@pytest.mark.parametrize(
    "tags",
    [
        [",".join(str(n) for n in range(TAGS_MAX + 1))],
        [str(n) for n in range(TAGS_MAX + 1)],
        ["x" * (TAG_MAX + 1)],
    ],
    ids=["too many in one text", "too many", "too long"],
)
async def test_tags_have_bounds_wherever_they_are_written(
    writing: Writing, tags: list[str]
) -> None:
    ada = await writing.agent("Ada")
    odd = AgentChanges(configuration={"tags": tags})
    for asking in (
        writing.agents.register(
            RegisterAgent(profile=AgentProfile(name="Grace", tags=tuple(tags))), writing.issued()
        ),
        change(writing, ChangeAgent(agent_id=ada.agent_id, tags=tags)),
        change(writing, ChangeAgent(agent_id=ada.agent_id, changes=odd)),
    ):
        with pytest.raises(Invalid) as refused:
            await asking
        assert refused.value.pointer == "/tags"
    assert len(await writing.recorded()) == 2
    most = ",".join(["x" * TAG_MAX, *(str(n) for n in range(TAGS_MAX - 1))])
    tagged = await change(writing, ChangeAgent(agent_id=ada.agent_id, tags=most))
    assert len(tagged.profile.tags) == TAGS_MAX


# Changing.


async def test_one_change_may_ask_for_everything_at_once(writing: Writing) -> None:
    ada = await writing.agent("Ada")
    writing.clock.forward(timedelta(minutes=1))
    command = ChangeAgent(
        agent_id=ada.agent_id,
        changes=AgentChanges(name="Grace", system_prompt="Be brief."),
        tags=["x", "y,z"],
        model=GPT,
        status="training",
    )
    changed = AgentProfile(
        name="Grace",
        system_prompt="Be brief.",
        tags=("x", "y", "z"),
        model=GPT,
        status="training",
    )
    assert await change(writing, command) == AgentAnswer(
        agent_id=ada.agent_id,
        profile=changed,
        version=5,
        created_at=NOON,
        updated_at=NOON + timedelta(minutes=1),
        created_by="key:of-a-test",
    )
    assert (await writing.tags())[2:] == [
        "name_released",
        "name_claimed",
        "agent_changed",
        "agent_tagged",
        "agent_model_configured",
        "agent_deactivated",
    ]


async def test_a_model_can_be_taken_away(writing: Writing) -> None:
    ada = await writing.agent("Ada", model=GPT)
    kept = await change(writing, ChangeAgent(agent_id=ada.agent_id, model=UNSET))
    assert (kept.profile.model, kept.version) == (GPT, 1)
    taken = await change(writing, ChangeAgent(agent_id=ada.agent_id, model=None))
    assert (taken.profile.model, taken.version) == (None, 2)


async def test_a_change_that_changes_nothing_records_nothing(writing: Writing) -> None:
    ada = await writing.agent("Ada")
    writing.clock.forward(timedelta(minutes=1))
    same = ChangeAgent(
        agent_id=ada.agent_id, changes=AgentChanges(name="Ada"), tags=[], status="active"
    )
    assert await change(writing, same, if_version=1) == ada
    assert len(await writing.recorded()) == 2


async def test_a_change_insists_on_the_version_its_author_saw(writing: Writing) -> None:
    ada = await writing.agent("Ada")
    command = ChangeAgent(agent_id=ada.agent_id, changes=AgentChanges(name="Grace"))
    with pytest.raises(VersionMismatch):
        await change(writing, command, if_version=7)
    assert (await change(writing, command, if_version=ada.version)).version == 2


async def test_there_is_nothing_to_change_about_an_agent_that_never_was(writing: Writing) -> None:
    ada = await writing.agent("Ada")
    unknown = ChangeAgent(agent_id=AgentId(404))
    with pytest.raises(NotFound):
        await change(writing, unknown)
    with pytest.raises(NotFound):
        await writing.agents.change(
            ChangeAgent(agent_id=ada.agent_id), writing.issued(workspace_id=GLOBEX)
        )


# Archiving.


async def test_an_archived_agent_stays_archived(writing: Writing) -> None:
    ada = await writing.agent("Ada")
    archive = ArchiveAgent(agent_id=ada.agent_id, reason="Replaced")
    told = ArchivedAnswer(agent_id=ada.agent_id, name="Ada", version=2)
    for _ in range(2):
        assert (await writing.agents.archive(archive, writing.issued())).answer == told
    assert (await writing.tags())[2:] == ["agent_archived", "name_released"]
    with pytest.raises(AgentIsArchived):
        await change(writing, ChangeAgent(agent_id=ada.agent_id, status="active"))


async def test_an_agent_that_never_was_cannot_be_archived(writing: Writing) -> None:
    with pytest.raises(NotFound):
        await writing.agents.archive(ArchiveAgent(agent_id=AgentId(404)), writing.issued())


# Importing.


async def test_importing_twice_registers_once(writing: Writing) -> None:
    first = await import_agent(writing, reviewer())
    assert first == ImportAnswer(agent_id=AgentId(1), name="Reviewer", outcome="registered")
    recorded = await writing.recorded()
    again = await import_agent(writing, reviewer())
    assert again == ImportAnswer(agent_id=AgentId(1), name="Reviewer", outcome="unchanged")
    assert await writing.recorded() == recorded


async def test_a_file_that_only_moved_is_unchanged(writing: Writing) -> None:
    first = await import_agent(writing, reviewer())
    moved = msgspec.structs.replace(FILE, path="elsewhere/reviewer.md")
    again = await import_agent(writing, msgspec.structs.replace(reviewer(), source=moved))
    assert (again.agent_id, again.outcome) == (first.agent_id, "unchanged")


async def test_a_file_that_changed_brings_its_agent_up_to_date(writing: Writing) -> None:
    first = await import_agent(writing, reviewer())
    await change(writing, ChangeAgent(agent_id=first.agent_id, changes=AgentChanges(name="Rita")))
    newer = await import_agent(writing, reviewer(digest="two", prompt="Review harder."))
    assert newer == ImportAnswer(agent_id=first.agent_id, name="Rita", outcome="changed")
    now = await profile(writing, first.agent_id)
    assert (now.name, now.system_prompt) == ("Rita", "Review harder.")
    assert now.source == msgspec.structs.replace(FILE, digest="two")


async def test_an_imported_agent_that_was_archived_stays_archived(writing: Writing) -> None:
    first = await import_agent(writing, reviewer())
    await writing.agents.archive(ArchiveAgent(agent_id=first.agent_id), writing.issued())
    before = await writing.recorded()
    again = await import_agent(writing, reviewer(digest="two"))
    assert again == ImportAnswer(agent_id=first.agent_id, name="Reviewer", outcome="archived")
    assert await writing.recorded() == before


async def test_an_imported_agent_takes_its_second_name_if_the_first_is_taken(
    writing: Writing,
) -> None:
    await writing.agent("reviewer")
    answer = await import_agent(writing, reviewer())
    assert (answer.name, answer.outcome) == ("Reviewer 2", "registered")
    assert (await profile(writing, answer.agent_id)).source == FILE


async def test_an_imported_agent_without_a_free_name_is_refused(writing: Writing) -> None:
    await writing.agent("Reviewer")
    await writing.agent("Reviewer 2")
    with pytest.raises(NameIsTaken) as refused:
        await import_agent(writing, reviewer())
    assert (refused.value.kind, refused.value.name) == ("Agent", "Reviewer 2")


async def test_two_files_with_one_name_become_two_agents(writing: Writing) -> None:
    names = [
        (await import_agent(writing, reviewer(key=f"plugin/{n}", second=f"Reviewer of {n}"))).name
        for n in ("a", "b")
    ]
    assert names == ["Reviewer", "Reviewer of b"]


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_file_that_is_imported_twice_at_once_is_registered_once(
    writing: Writing, processes: int
) -> None:
    sides = [writing] + [Writing(beside=writing) for _ in range(1, processes)]
    answers = await asyncio.gather(
        *(import_agent(sides[n % processes], reviewer()) for n in range(4))
    )
    assert sorted(a.outcome for a in answers) == ["registered"] + ["unchanged"] * 3
    assert len({answer.agent_id for answer in answers}) == 1
    assert (await writing.tags()).count("agent_registered") == 1


async def test_what_an_import_records_belongs_together(writing: Writing) -> None:
    await import_agent(writing, reviewer())
    metadata: set[Metadata] = {recorded.metadata for recorded in await writing.recorded()}
    assert len(metadata) == 1
    assert await writing.tags() == ["name_claimed", "agent_registered", "name_claimed"]


# Rolling back.


async def test_a_rollback_gives_the_old_name_back_and_frees_the_new_one(writing: Writing) -> None:
    ada = await registered(writing, "Ada")
    await change(writing, ChangeAgent(agent_id=ada, changes=AgentChanges(name="Eve")))
    back = RollBackAgent(agent_id=ada, version=1)
    answer = (await writing.agents.roll_back(back, writing.issued())).answer
    assert (answer.profile.name, answer.version) == ("Ada", 3)
    await registered(writing, "Eve")
    with pytest.raises(NameIsTaken):
        await registered(writing, "Ada")


async def test_a_rollback_to_a_name_that_another_has_by_now_points_to_the_version(
    writing: Writing,
) -> None:
    ada = await registered(writing, "Ada")
    await change(writing, ChangeAgent(agent_id=ada, changes=AgentChanges(name="Eve")))
    await registered(writing, "Ada")
    with pytest.raises(NameIsTaken) as refused:
        await writing.agents.roll_back(RollBackAgent(agent_id=ada, version=1), writing.issued())
    assert refused.value.pointer == "/version"
    assert (await profile(writing, ada)).name == "Eve"


async def registered(writing: Writing, name: str) -> AgentId:
    command = RegisterAgent(profile=AgentProfile(name=name))
    return (await writing.agents.register(command, writing.issued())).answer.agent_id


# Several at once.


async def register_all(writing: Writing, *profiles: AgentProfile) -> list[str]:
    command = RegisterAgents(profiles=profiles)
    answer = (await writing.agents.register_all(command, writing.issued())).answer
    return [each.profile.name for each in answer.agents]


async def test_agents_are_registered_all_at_once(writing: Writing) -> None:
    names = ["Ada", "Bob", "Eve"]
    assert await register_all(writing, *(AgentProfile(name=name) for name in names)) == names
    for name in names:
        with pytest.raises(NameIsTaken):
            await registered(writing, name)


@pytest.mark.parametrize(
    ("fault", "error", "pointer"),
    [
        (AgentProfile(name="taken"), NameIsTaken, "/1/name"),
        (AgentProfile(name=" ADA "), NameIsTaken, "/1/name"),
        (AgentProfile(name="Bob", tags=("x" * (TAG_MAX + 1),)), Invalid, "/1/tags"),
        (
            AgentProfile(name="Bob", system_prompt="x" * (PROMPT_BYTES_MAX + 1)),
            TooLong,
            "/1/system_prompt",
        ),
    ],
    ids=["taken", "twice", "tags", "prompt"],
)
async def test_one_that_cannot_be_registered_keeps_out_all_and_is_pointed_to(
    writing: Writing, fault: AgentProfile, error: type[DomainError], pointer: str
) -> None:
    await registered(writing, "Taken")
    with pytest.raises(error) as refused:
        await register_all(writing, AgentProfile(name="Ada"), fault, AgentProfile(name="Eve"))
    assert refused.value.pointer == pointer
    assert await register_all(writing, AgentProfile(name="Ada")) == ["Ada"]


@pytest.mark.parametrize("count", [0, AT_ONCE_MAX + 1])
async def test_there_is_a_bound_to_how_many_are_registered_at_once(
    writing: Writing, count: int
) -> None:
    with pytest.raises(Invalid):
        await register_all(writing, *(AgentProfile(name=f"Agent {n}") for n in range(count)))
