"""The write side in one piece: every command over one real store, in memory."""

from typing import TypeAlias

import msgspec

from commands.agents import AgentAnswer, AgentCommands, ArchiveAgent, ChangeAgent, RegisterAgent
from commands.identity import IdentityCommands
from commands.processes.runs import RunProcess, Worker
from commands.runs import RunCommands, StartRun
from commands.settings import SettingCommands
from commands.transact import Issued, Transactions
from commands.workflows import DraftWorkflow, WorkflowAnswer, WorkflowCommands
from domain.agents import AgentChanges, AgentProfile, ModelConfig
from domain.catalog import AnyEvent
from domain.effective import Installed
from domain.events import CommandId, Metadata, Recorded, StreamId, WorkspaceId
from domain.runs import RUN, RunId
from domain.workflows import ErrorHandling, Step, WorkflowProfile
from infra.event_store.memory import MemoryLog
from infra.event_store.store import EventStore, Log
from infra.vault import Vault
from tests.fakes import FailingLog, FakeModels, HandClock, IntegerIdsInOrder, UuidsInOrder

ACME = WorkspaceId("01900000-0000-7000-8000-00000000acce")
GLOBEX = WorkspaceId("01900000-0000-7000-8000-00000000910b")

Envelope: TypeAlias = Recorded[AnyEvent]


class Counted(msgspec.Struct, frozen=True):
    """The answer of a decision that has nothing else to tell."""

    version: int


class Writing:
    """One process's write side.

    Args:
        log: Where to write; memory by default.
        beside: Another process, with caches and gates of its own, over the same log.
    """

    def __init__(self, log: Log | None = None, *, beside: "Writing | None" = None) -> None:
        self.log: Log = log or (beside.log if beside else MemoryLog())
        self.vault: Vault = beside.vault if beside else Vault()
        self.clock: HandClock = beside.clock if beside else HandClock()
        self.next_id: IntegerIdsInOrder = beside.next_id if beside else IntegerIdsInOrder()
        self.new_uuid: UuidsInOrder = beside.new_uuid if beside else UuidsInOrder()
        self.interrupted: list[StreamId] = []
        self.store = EventStore(self.log, self.vault)
        self.transactions = Transactions(self.store)
        self.agents = AgentCommands(self.transactions, self.next_id)
        self.workflows = WorkflowCommands(self.transactions, self.next_id)
        self.identity = IdentityCommands(self.transactions)
        self.install(Installed())
        self.runs = RunCommands(self.transactions, self.next_id, self.interrupted.append)

    def close(self) -> None:
        self.log.close()
        self.vault.close()

    def install(self, installed: Installed) -> None:
        """Say what the installation says of settings."""
        self.installed = installed
        self.settings = SettingCommands(self.transactions, installed)

    def issued(
        self,
        *,
        key: str | None = None,
        fingerprint: str = "the same request",
        if_version: int | None = None,
        workspace_id: WorkspaceId = ACME,
    ) -> Issued:
        command_id = CommandId(self.new_uuid() if key is None else f"key:{key}")
        metadata = Metadata(
            workspace_id=workspace_id,
            actor="key:of-a-test",
            correlation_id=f"correlation-of-{command_id}",
            command_id=command_id,
            occurred_at=self.clock(),
        )
        return Issued(
            metadata=metadata,
            fingerprint=None if key is None else fingerprint,
            if_version=if_version,
        )

    def failing(self) -> FailingLog:
        """Give this log with a fault in front, for a process beside."""
        return FailingLog(self.log)

    # What was recorded.

    async def recorded(self, stream_id: StreamId | None = None) -> list[Envelope]:
        if stream_id is None:
            return await self.store.read_all()
        return await self.store.read_stream(stream_id)

    async def tags(self, stream_id: StreamId | None = None) -> list[str]:
        return [recorded.event.tag() for recorded in await self.recorded(stream_id)]

    # What there is, in one line.

    async def agent(
        self,
        name: str = "Ada",
        *,
        prompt: str = "",
        model: ModelConfig | None = None,
        workspace_id: WorkspaceId = ACME,
    ) -> AgentAnswer:
        profile = AgentProfile(name=name, system_prompt=prompt, model=model)
        issued = self.issued(workspace_id=workspace_id)
        return (await self.agents.register(RegisterAgent(profile=profile), issued)).answer

    async def rename(self, agent: AgentAnswer, name: str) -> AgentAnswer:
        change = ChangeAgent(agent_id=agent.agent_id, changes=AgentChanges(name=name))
        return (await self.agents.change(change, self.issued())).answer

    async def archive_agent(self, agent: AgentAnswer) -> None:
        await self.agents.archive(ArchiveAgent(agent_id=agent.agent_id), self.issued())

    async def workflow(self, *steps: Step, name: str = "Report") -> WorkflowAnswer:
        draft = DraftWorkflow(profile=WorkflowProfile(name=name), steps=steps, publish=bool(steps))
        return (await self.workflows.draft(draft, self.issued())).answer

    async def run(self, *steps: Step, **given: object) -> RunId:
        """Start a run of a workflow made for it."""
        workflow = await self.workflow(*steps, name=f"Report {self.next_id()}")
        start = StartRun(workflow_id=workflow.workflow_id, input=given)
        return (await self.runs.start(start, self.issued())).answer.run_id

    def process(self, models: FakeModels, *, worker: str = "one", sole: bool = True) -> RunProcess:
        return RunProcess(
            self.transactions,
            models,
            worker=Worker(worker),
            now=self.clock,
            new_uuid=self.new_uuid,
            sole=sole,
            installed=self.installed,
            record_retry_s=0,
        )


def run_stream(run_id: RunId) -> StreamId:
    return RUN.stream_id(ACME, run_id)


async def step(
    writing: Writing,
    step_id: str = "research",
    template: str = "Go.",
    *,
    model: ModelConfig | None = None,
    error_handling: ErrorHandling = "stop",
    max_retries: int = 4,
) -> Step:
    """Make a step, and an agent for it."""
    agent = await writing.agent(f"Agent {writing.next_id()}", model=model)
    return Step(
        step_id=step_id,
        agent_id=agent.agent_id,
        prompt_template=template,
        error_handling=error_handling,
        max_retries=max_retries,
    )
