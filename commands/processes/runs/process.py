"""Takes what is due in a run, and records what comes of it."""

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NewType, assert_never

import msgspec

from commands.processes.model_calls import ModelAnswer, ModelCallError, ModelProvider
from commands.processes.runs.calls import Prepared, completed, failed, requested
from commands.processes.runs.preparing import CannotPrepare, Preparation
from commands.transact import CommandError, Issued, Loaded, Transaction, Transactions
from domain import runs
from domain.effective import Installed
from domain.errors import DomainError
from domain.events import CommandId, Metadata, StreamId, WorkspaceId
from domain.runs import RUN, CallInDoubt, Nothing, Running, RunState, TakeStep

RECORD_RETRY_S = 1.0
"""Pause between tries to record an outcome while the store is full or away."""

Worker = NewType("Worker", str)


class _Done(msgspec.Struct, frozen=True):
    pass


class RunProcess:
    """Advances runs, any number at once, each in one task.

    Args:
        worker: This process's name in leases, unlike any other's, before or after.
        sole: No other worker is alive: every lease that is not ours is void.
        installed: What the installation says of the settings of agents that name no model.
        stream: Ask models for streamed answers, whose timeouts fit long ones.
        record_retry_s: Pause between tries to record an outcome.
    """

    def __init__(  # noqa: PLR0913 its ports and its two modes
        self,
        transactions: Transactions,
        models: ModelProvider,
        *,
        worker: Worker,
        now: Callable[[], datetime],
        new_uuid: Callable[[], str],
        sole: bool,
        installed: Installed,
        stream: bool = True,
        record_retry_s: float = RECORD_RETRY_S,
    ) -> None:
        self._transactions = transactions
        self._store = transactions.store
        self._models = models
        self._preparation = Preparation(transactions.store, models, installed, stream=stream)
        self._worker = worker
        self._now = now
        self._new_uuid = new_uuid
        self._sole = sole
        self._record_retry_s = record_retry_s
        self._calls: dict[StreamId, asyncio.Task[ModelAnswer]] = {}
        self._interrupted: set[StreamId] = set()
        self._stopping = False

    def stop(self) -> None:
        """Take no further step: those being taken may end, the next ones are for later."""
        self._stopping = True

    def interrupt(self, stream_id: StreamId) -> None:
        """Break off the model call of a run that was cancelled, if one is being made."""
        call = self._calls.get(stream_id)
        if call is not None:
            self._interrupted.add(stream_id)
            call.cancel()

    async def advance(self, workspace_id: WorkspaceId, stream_id: StreamId) -> datetime | None:
        """Do all that is due in a run, now and after each of its steps.

        Returns when nothing is due: with the moment to ask again, or None if
        time alone changes nothing.
        """
        while True:
            loaded = await self._store.load(RUN, stream_id, fresh=not self._sole)
            due = runs.due(
                loaded.state,
                now=self._now(),
                sole_worker=self._worker if self._sole else None,
            )
            turn = _Turn(workspace_id, stream_id, loaded)
            match due:
                case Nothing(until=until):
                    return until
                case CallInDoubt(call=call):
                    await self._mark_in_doubt(turn, call.call_id)
                case TakeStep() if self._stopping:
                    return None
                case TakeStep():
                    await self._take(turn, due)
                case _:
                    assert_never(due)

    async def _mark_in_doubt(self, turn: "_Turn", call_id: str) -> None:
        await self._record(turn, lambda state, _: runs.mark_in_doubt(state, call_id=call_id))

    async def _take(self, turn: "_Turn", due: TakeStep) -> None:
        run = turn.loaded.state
        assert isinstance(run, Running)
        try:
            prepared = await self._preparation.prepare(turn.workspace_id, run, due)
        except (CannotPrepare, DomainError) as error:
            reason = str(error)
            await self._record(
                turn,
                lambda state, _: runs.fail_step(
                    state, step=due.step, attempt=due.attempt, error=reason
                ),
            )
            return
        call_id = self._new_uuid()
        if await self._begin(turn, prepared, call_id):
            await self._call(turn, prepared, call_id)

    async def _begin(self, turn: "_Turn", prepared: Prepared, call_id: str) -> bool:
        """Claim the step and record the call's intent; False if another worker was faster."""

        def decide(state: RunState, transaction: Transaction) -> tuple[runs.RunEvent, ...]:
            prompt = transaction.keep(prepared.request.prompt)
            return runs.begin_step(
                state,
                step=prepared.step,
                attempt=prepared.attempt,
                worker=self._worker,
                now=self._now(),
                call=requested(prepared, call_id, prompt),
            )

        return await self._record(turn, decide)

    async def _call(self, turn: "_Turn", prepared: Prepared, call_id: str) -> None:
        call = asyncio.create_task(self._models.complete(prepared.request))
        self._calls[turn.stream_id] = call
        try:
            answer = await asyncio.shield(call)
        except ModelCallError as error:
            await self._fail(turn, prepared, call_id, error)
        except asyncio.CancelledError:
            await self._broken_off(turn, prepared, call_id, call)
        else:
            await self._answer(turn, prepared, call_id, answer)
        finally:
            self._calls.pop(turn.stream_id, None)
            self._interrupted.discard(turn.stream_id)

    async def _broken_off(
        self,
        turn: "_Turn",
        prepared: Prepared,
        call_id: str,
        call: asyncio.Task[ModelAnswer],
    ) -> None:
        """Tell a cancelled run, whose call is metered, from a process that is ending.

        The call's own state does not tell: a loop that is shut down cancels every task.
        """
        if turn.stream_id not in self._interrupted:
            call.cancel()
            raise asyncio.CancelledError
        error = ModelCallError(
            "The run was cancelled.", kind="connection", retryable=False, in_doubt=True
        )
        await self._fail(turn, prepared, call_id, error)

    async def _answer(
        self, turn: "_Turn", prepared: Prepared, call_id: str, answer: ModelAnswer
    ) -> None:
        def decide(state: RunState, transaction: Transaction) -> tuple[runs.RunEvent, ...]:
            outcome = completed(prepared, call_id, answer, transaction.keep(answer.text))
            return runs.record_answer(state, outcome=outcome)

        await self._record_surely(turn, decide)

    async def _fail(
        self, turn: "_Turn", prepared: Prepared, call_id: str, error: ModelCallError
    ) -> None:
        jitter = random.random()  # noqa: S311 it spreads retries, it guards nothing

        def decide(state: RunState, transaction: Transaction) -> tuple[runs.RunEvent, ...]:
            partial = transaction.keep(error.partial_text) if error.partial_text else None
            outcome = failed(prepared, call_id, error, partial)
            retry_at = runs.next_try(
                state,
                now=self._now(),
                retryable=error.retryable,
                retry_after=_seconds(error.retry_after_s),
                jitter=jitter,
            )
            return runs.record_failure(state, outcome=outcome, retry_at=retry_at)

        await self._record_surely(turn, decide)

    # Recording.

    async def _record(
        self,
        turn: "_Turn",
        decide: Callable[[RunState, Transaction], tuple[runs.RunEvent, ...]],
    ) -> bool:
        """Decide on the run as it is now; tell whether anything was recorded."""

        async def on_stream(transaction: Transaction) -> _Done:
            loaded = await transaction.load(RUN, turn.stream_id)
            transaction.record(turn.stream_id, decide(loaded.state, transaction))
            return _Done()

        issued = Issued(metadata=self._metadata(turn))
        outcome = await self._transactions.run(on_stream, issued, _Done)
        return outcome.global_position is not None

    async def _record_surely(
        self,
        turn: "_Turn",
        decide: Callable[[RunState, Transaction], tuple[runs.RunEvent, ...]],
    ) -> None:
        """Record an outcome however long it takes: it is paid for, and in no other place."""
        while True:
            try:
                await self._record(turn, decide)
            except CommandError:
                await asyncio.sleep(self._record_retry_s)
            else:
                return

    def _metadata(self, turn: "_Turn") -> Metadata:
        first = turn.loaded.first
        assert first is not None
        return Metadata(
            workspace_id=turn.workspace_id,
            actor="process:runs",
            correlation_id=first.correlation_id,
            causation_id=first.command_id,
            command_id=CommandId(self._new_uuid()),
            occurred_at=self._now(),
        )


class _Turn(msgspec.Struct, frozen=True):
    """A run as it was when its turn came."""

    workspace_id: WorkspaceId
    stream_id: StreamId
    loaded: Loaded[RunState]


def _seconds(given: float | None) -> timedelta | None:
    return None if given is None else timedelta(seconds=given)
