"""What becomes of each file when a folder of agents is imported."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from domain.agents import AGENT, AgentRegistered
from domain.events import WorkspaceId
from infra.agent_import import import_agents
from infra.settings import Settings
from infra.writing import Writing, build_writing

ACME = WorkspaceId("acme")
AGENT_FILE = """\
---
name: {name}
description: Reviews what others wrote
model: {model}
tools: Read, Grep
---
You are {name}.
"""


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[Writing]:
    opened = build_writing(Settings(data_dir=tmp_path / "data"))
    yield opened
    opened.close()


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    folder = tmp_path / "agents"
    folder.mkdir()
    return folder


def write(folder: Path, name: str, *, model: str = "sonnet", file: str = "") -> None:
    (folder / f"{file or name}.md").write_text(AGENT_FILE.format(name=name, model=model))


async def registered(writing: Writing) -> list[AgentRegistered]:
    events = [recorded.event for recorded in await writing.store.read_all()]
    return [event for event in events if isinstance(event, AgentRegistered)]


async def test_each_file_becomes_an_agent_with_its_prompt_model_and_tools(
    writing: Writing, agents: Path
) -> None:
    write(agents, "reviewer")
    imported = await import_agents(writing, ACME, agents)
    assert (imported.files, imported.counts, imported.refused) == (1, {"registered": 1}, [])
    (event,) = await registered(writing)
    loaded = await writing.store.load(AGENT, AGENT.stream_id(ACME, event.agent_id))
    assert event.profile.name == "reviewer"
    assert event.profile.system_prompt.strip() == "You are reviewer."
    assert event.profile.model is not None
    assert event.profile.model.provider == "anthropic"
    assert event.profile.source is not None
    assert event.profile.source.tools == ("Read", "Grep")
    assert loaded.version == 1


async def test_a_second_import_records_nothing(writing: Writing, agents: Path) -> None:
    write(agents, "reviewer")
    write(agents, "writer")
    await import_agents(writing, ACME, agents)
    head = await writing.store.head()
    assert (await import_agents(writing, ACME, agents)).counts == {"unchanged": 2}
    assert await writing.store.head() == head


async def test_a_file_that_changed_changes_its_agent(writing: Writing, agents: Path) -> None:
    write(agents, "reviewer")
    write(agents, "writer")
    await import_agents(writing, ACME, agents)
    write(agents, "reviewer", model="opus")
    again = await import_agents(writing, ACME, agents)
    assert again.counts == {"changed": 1, "unchanged": 1}
    assert len(await registered(writing)) == 2


async def test_a_file_that_is_refused_does_not_stop_the_others(
    writing: Writing, agents: Path
) -> None:
    write(agents, "reviewer")
    (agents / "broken.md").write_text("---\nname: [\n---\nNo.\n")
    imported = await import_agents(writing, ACME, agents)
    assert imported.files == 2
    assert imported.counts == {"registered": 1}
    (refused,) = imported.refused
    assert refused.path.endswith("broken.md")
    assert refused.reason


async def test_progress_is_told_file_by_file(writing: Writing, agents: Path) -> None:
    for name in "abc":
        write(agents, name)
    told: list[tuple[int, int]] = []
    await import_agents(writing, ACME, agents, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


async def test_each_workspace_has_its_own_agents(writing: Writing, agents: Path) -> None:
    write(agents, "reviewer")
    for workspace in ("acme", "globex"):
        imported = await import_agents(writing, WorkspaceId(workspace), agents)
        assert imported.counts == {"registered": 1}


async def test_the_whole_marketplace_is_imported_but_for_what_is_refused_with_a_reason(
    writing: Writing, shared: Path
) -> None:
    marketplace = shared / "marketplace"
    files = [path for path in marketplace.rglob("*.md") if path.parent.name == "agents"]
    imported = await import_agents(writing, ACME, marketplace)
    assert imported.files == len(files) > 0
    assert imported.counts == {"registered": len(files) - len(imported.refused)}
    assert all(refused.reason for refused in imported.refused)
    names = [event.profile.name for event in await registered(writing)]
    assert sorted(names) == sorted(imported.names)
    assert len({name.casefold() for name in names}) == len(names)
    head = await writing.store.head()
    again = await import_agents(writing, ACME, marketplace)
    assert again.counts == {"unchanged": len(files) - len(imported.refused)}
    assert await writing.store.head() == head
