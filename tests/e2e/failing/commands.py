"""A process that has commands carried out, and notes each that it was told is done."""

import asyncio
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from commands.agents import RegisterAgent
from commands.runs import RunCommands, StartRun
from commands.transact import CommandError
from commands.workflows import DraftWorkflow
from domain.agents import AgentProfile
from domain.errors import DomainError
from domain.events import WorkspaceId
from domain.workflows import Step, WorkflowId, WorkflowProfile
from infra.ids import new_uuid
from infra.settings import Settings
from infra.writing import Writing, build_writing

APPEND = "append"
"""Not one of `automatos`: see `append`."""


HOLDER = "Ada Lovelace"


AT_ONCE = 4


async def append(acknowledged: Path, rounds: int) -> None:
    """Have agents registered and runs started, several at once, some with names that are taken.

    Args:
        acknowledged: The file for what was done.
        rounds: How often.
    """
    writing = build_writing(Settings.from_env())
    try:
        workspace_id = await writing.local_workspace()
        await writing.create_key(workspace_id, "a key", HOLDER)
        workflow_id = await published(writing, workspace_id, ())
        with acknowledged.open("a") as file:
            for _ in range(rounds):
                await asyncio.gather(*_round(writing, workspace_id, workflow_id, Notes(file)))
    finally:
        await writing.aclose()


class Notes:
    """What is noted is on the disk before anything else happens."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def add(self, position: int | None, thing: int) -> None:
        self._file.write(json.dumps({"position": position, "id": thing}) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _round(
    writing: Writing, workspace_id: WorkspaceId, workflow_id: WorkflowId, notes: Notes
) -> list[Any]:
    name = new_uuid()
    names = [name, name, *(f"{name} {n}" for n in range(AT_ONCE))]
    runs = RunCommands(writing.transactions, writing.next_id, lambda _: None)

    async def register(name: str) -> None:
        command = RegisterAgent(profile=AgentProfile(name=name))
        with suppress(DomainError, CommandError):
            told = await writing.agents.register(command, writing.issued(workspace_id, "test"))
            notes.add(told.global_position, told.answer.agent_id)

    async def start() -> None:
        command = StartRun(workflow_id=workflow_id, input={"round": name})
        with suppress(CommandError):
            run = await runs.start(command, writing.issued(workspace_id, "test"))
            notes.add(run.global_position, run.answer.run_id)

    return [*map(register, names), start()]


async def published(
    writing: Writing, workspace_id: WorkspaceId, agents: tuple[AgentProfile, ...]
) -> WorkflowId:
    """Publish a workflow of some agents, or of one that is nobody in particular."""
    steps = []
    for n, profile in enumerate(agents or (AgentProfile(name=new_uuid()),)):
        issued = writing.issued(workspace_id, "test")
        agent = (await writing.agents.register(RegisterAgent(profile=profile), issued)).answer
        template = f"round {{input.round}} step {n}"
        steps.append(Step(step_id=str(n), agent_id=agent.agent_id, prompt_template=template))
    workflow = WorkflowProfile(name=new_uuid(), inputs=("round",))
    command = DraftWorkflow(profile=workflow, steps=tuple(steps), publish=True)
    issued = writing.issued(workspace_id, "test")
    return (await writing.workflows.draft(command, issued)).answer.workflow_id
