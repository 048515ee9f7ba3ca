"""Commands on runs: start one, stop one."""

from collections.abc import Awaitable, Callable

import msgspec

from commands.transact import Issued, Outcome, Transaction, Transactions
from domain import runs, workflows
from domain.errors import TooLong
from domain.events import JsonObject, StreamId
from domain.runs import RUN, RunId, RunStarted
from domain.workflows import WORKFLOW, WorkflowId

INPUT_BYTES_MAX = 256 * 1024


class StartRun(msgspec.Struct, frozen=True, kw_only=True):
    workflow_id: WorkflowId
    input: JsonObject = {}


class CancelRun(msgspec.Struct, frozen=True, kw_only=True):
    run_id: RunId
    reason: str = ""


class RunAnswer(msgspec.Struct, frozen=True, kw_only=True):
    run_id: RunId
    execution_id: str
    workflow_id: WorkflowId
    steps: int
    version: int


class CancelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    run_id: RunId
    version: int


async def _everybody() -> None:
    return


class RunCommands:
    """Runs commands on runs.

    Args:
        next_id: Gives integer ids.
        interrupt: Told of a run that was cancelled, so that its model call is broken off.
    """

    def __init__(
        self,
        transactions: Transactions,
        next_id: Callable[[], int],
        interrupt: Callable[[StreamId], None],
    ) -> None:
        self._transactions = transactions
        self._next_id = next_id
        self._interrupt = interrupt

    async def start(
        self,
        command: StartRun,
        issued: Issued,
        *,
        admit: Callable[[], Awaitable[None]] = _everybody,
    ) -> Outcome[RunAnswer]:
        """Start a run of a published workflow; its steps are pinned as they are now.

        Args:
            admit: Raises where there is no place for another run; not asked when a request is
                only answered again.
        """
        given = msgspec.json.encode(command.input).decode()
        if len(given.encode()) > INPUT_BYTES_MAX:
            size = len(given.encode())
            raise TooLong("The input", size=size, size_max=INPUT_BYTES_MAX, pointer="/input_data")

        async def decide(transaction: Transaction) -> RunAnswer:
            workspace_id, workflow_id = issued.workspace_id, command.workflow_id
            loaded = await transaction.load(WORKFLOW, WORKFLOW.stream_id(workspace_id, workflow_id))
            known = workflows.runnable(loaded.state, workflow_id, command.input)
            await admit()
            run_id = RunId(self._next_id())
            stream_id = RUN.stream_id(workspace_id, run_id)
            started = RunStarted(
                run_id=run_id,
                execution_id=execution_id(run_id),
                workflow_id=workflow_id,
                workflow_version=loaded.version,
                workflow_name=known.profile.name,
                steps=known.steps,
                input=transaction.keep(given),
            )
            state = transaction.load_new(RUN, stream_id).state
            version = transaction.record(stream_id, runs.start(state, started=started))
            return RunAnswer(
                run_id=run_id,
                execution_id=started.execution_id,
                workflow_id=workflow_id,
                steps=len(known.steps),
                version=version,
            )

        return await self._transactions.run(decide, issued, RunAnswer)

    async def cancel(self, command: CancelRun, issued: Issued) -> Outcome[CancelAnswer]:
        """Stop a run: it is cancelled at once and for good, whatever its model call says later."""
        stream_id = RUN.stream_id(issued.workspace_id, command.run_id)

        async def decide(transaction: Transaction) -> CancelAnswer:
            loaded = await transaction.load_matching(RUN, stream_id)
            decided = runs.cancel(loaded.state, run_id=command.run_id, reason=command.reason)
            version = transaction.record(stream_id, decided)
            return CancelAnswer(run_id=command.run_id, version=version)

        outcome = await self._transactions.run(decide, issued, CancelAnswer)
        self._interrupt(stream_id)
        return outcome


def execution_id(run_id: RunId) -> str:
    """Spell a run's id as the original does: `exec-` and 12 hex digits.

    The lowest 48 of its 53 bits: they repeat after two years at the earliest,
    and the integer stays the key.
    """
    return f"exec-{run_id & ((1 << 48) - 1):012x}"
