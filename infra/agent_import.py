"""Imports agents of the Claude plugin format into a workspace."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from commands.agents import Import, ImportAgent
from commands.transact import CommandError
from domain.agents import AgentProfile, AgentSource, ModelConfig
from domain.errors import DomainError
from domain.events import WorkspaceId
from infra.claude_format import AgentFile, Refused, find_agents, model_of
from infra.failpoints import failpoint
from infra.writing import Writing


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an import.

    Attributes:
        counts: Files by what became of their agents.
    """

    files: int
    counts: dict[Import, int]
    refused: list[Refused]
    names: list[str]


async def import_agents(
    writing: Writing,
    workspace_id: WorkspaceId,
    path: Path,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Imported:
    """Import all agents below a path. A second import changes nothing.

    Raises:
        NotAPlugin: There is nothing of the kind.
    """
    found = find_agents(path)
    counts: dict[Import, int] = {}
    refused = list(found.refused)
    names: list[str] = []
    for done, file in enumerate(found.agents, start=1):
        issued = writing.issued(workspace_id, "cli:agents import")
        try:
            failpoint("import.before_agent")
            outcome = await writing.agents.import_agent(_command(file), issued)
        except (DomainError, CommandError) as error:
            refused.append(Refused(path=file.path, reason=str(error)))
        else:
            counts[outcome.answer.outcome] = counts.get(outcome.answer.outcome, 0) + 1
            names.append(outcome.answer.name)
        on_progress(done, len(found.agents))
    files = len(found.agents) + len(found.refused)
    return Imported(files=files, counts=counts, refused=refused, names=names)


def _command(file: AgentFile) -> ImportAgent:
    source = AgentSource(
        format="claude",
        key=file.key,
        path=file.path,
        digest=file.digest,
        model=file.model,
        tools=file.tools,
    )
    model = model_of(file.model)
    profile = AgentProfile(
        name=file.name,
        description=file.description,
        agent_type="specialized",
        tags=(file.plugin,) if file.plugin else (),
        model=None if model is None else ModelConfig(provider=model[0], model_id=model[1]),
        system_prompt=file.system_prompt,
        configuration=file.extra,
        source=source,
    )
    second = f"{file.name} ({file.plugin or file.key})"
    return ImportAgent(profile=profile, source=source, second_name=second[:255])
