"""Drives runs: claims the step that is due, asks the model, reports back.

A crash anywhere in here is safe. What a call is about to do is recorded before
it, what came of it after it: a recorded answer is never asked for again, and a
call whose outcome was lost is marked and repeated at most once.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import NewType, assert_never

import msgspec

from commands.processes.model_calls import (
    ModelAnswer,
    ModelCallError,
    ModelProvider,
    ModelRequest,
    ModelTarget,
)
from commands.transact import (
    CommandError,
    Issued,
    Loaded,
    Transaction,
    Transactions,
)
from domain import agents, runs, templates
from domain.agents import AGENT, AgentId, AgentProfile, Registered
from domain.errors import DomainError, TooLong
from domain.events import Blob, CommandId, JsonObject, Metadata, StreamId, WorkspaceId
from domain.runs import RUN, CallInDoubt, Nothing, Running, RunState, TakeStep
from domain.usage import CallSubject, ModelCallCompleted, ModelCallFailed, ModelCallRequested
from domain.workflows import Step

PROMPT_BYTES_MAX = 1024 * 1024
"""A rendered prompt: templates have 256 KiB, what fills them may be longer."""

ERROR_MAX = 500
"""Characters of a provider's complaint that are kept."""

RECORD_RETRY_S = 1.0
"""Pause between tries to record an outcome while the store is full or away."""

Worker = NewType("Worker", str)


class _Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A call about to be made."""

    step: int
    attempt: int
    subject: CallSubject
    target: ModelTarget
    asked: agents.ModelConfig | None
    request: ModelRequest


class CannotPrepare(Exception):
    """A step that will never get as far as a call; the message says why."""


class _Done(msgspec.Struct, frozen=True):
    pass


class RunProcess:
    """Advances runs, any number at once, each in one task.

    Args:
        worker: This process's name in leases, unlike any other's, before or after.
        sole: No other worker is alive: every lease that is not ours is void.
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
        stream: bool = True,
        record_retry_s: float = RECORD_RETRY_S,
    ) -> None:
        self._transactions = transactions
        self._store = transactions.store
        self._models = models
        self._worker = worker
        self._now = now
        self._new_uuid = new_uuid
        self._sole = sole
        self._stream = stream
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
        try:
            prepared = await self._prepare(turn, due)
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

    async def _begin(self, turn: "_Turn", prepared: _Prepared, call_id: str) -> bool:
        """Claim the step and record the call's intent; False if another worker was faster."""

        def decide(state: RunState, transaction: Transaction) -> tuple[runs.RunEvent, ...]:
            requested = _requested(prepared, call_id, transaction.keep(prepared.request.prompt))
            return runs.begin_step(
                state,
                step=prepared.step,
                attempt=prepared.attempt,
                worker=self._worker,
                now=self._now(),
                call=requested,
            )

        return await self._record(turn, decide)

    async def _call(self, turn: "_Turn", prepared: _Prepared, call_id: str) -> None:
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
        prepared: _Prepared,
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
        self, turn: "_Turn", prepared: _Prepared, call_id: str, answer: ModelAnswer
    ) -> None:
        def decide(state: RunState, transaction: Transaction) -> tuple[runs.RunEvent, ...]:
            outcome = _completed(prepared, call_id, answer, transaction.keep(answer.text))
            return runs.record_answer(state, outcome=outcome)

        await self._record_surely(turn, decide)

    async def _fail(
        self, turn: "_Turn", prepared: _Prepared, call_id: str, error: ModelCallError
    ) -> None:
        jitter = random.random()  # noqa: S311 it spreads retries, it guards nothing

        def decide(state: RunState, transaction: Transaction) -> tuple[runs.RunEvent, ...]:
            partial = transaction.keep(error.partial_text) if error.partial_text else None
            outcome = _failed(prepared, call_id, error, partial)
            retry_at = runs.next_try(
                state,
                now=self._now(),
                retryable=error.retryable,
                retry_after=_seconds(error.retry_after_s),
                jitter=jitter,
            )
            return runs.record_failure(state, outcome=outcome, retry_at=retry_at)

        await self._record_surely(turn, decide)

    # Preparing a call.

    async def _prepare(self, turn: "_Turn", due: TakeStep) -> _Prepared:
        """Resolve agent, model and prompt.

        Raises:
            CannotPrepare: The step cannot be taken, now or later.
        """
        run = turn.loaded.state
        assert isinstance(run, Running)
        step = run.steps[due.step]
        agent = await self._agent(turn, step)
        asked = agent.state.profile.model
        target = self._target(asked)
        prompt = await self._prompt(turn, run, step)
        return _Prepared(
            step=due.step,
            attempt=due.attempt,
            subject=_subject(run, step, agent.version),
            target=target,
            asked=asked,
            request=_request(agent.state.profile, target, prompt, stream=self._stream),
        )

    async def _agent(self, turn: "_Turn", step: Step) -> Loaded[Registered]:
        agent_id = AgentId(step.agent_id)
        stream_id = AGENT.stream_id(turn.workspace_id, agent_id)
        loaded = await self._store.load(AGENT, stream_id, fresh=True)
        state = agents.registered(loaded.state, agent_id)
        return Loaded(state, loaded.version, loaded.first, loaded.last)

    def _target(self, asked: agents.ModelConfig | None) -> ModelTarget:
        try:
            if asked is None:
                return self._models.target(None, None)
            return self._models.target(asked.provider, asked.model_id)
        except ModelCallError as error:
            raise CannotPrepare(str(error)) from error

    async def _prompt(self, turn: "_Turn", run: Running, step: Step) -> str:
        values = await self._values(turn, run, step)
        sizes = {reference: len(value.encode()) for reference, value in values.items()}
        references = list(templates.references(step.prompt_template))
        for reference in references:
            if reference not in values:
                lacking = f"{reference.source}.{reference.key}"
                raise CannotPrepare(f"The prompt needs {{{lacking}}}, which the run lacks.")
        # Before it is rendered: a short template can ask for a long value many thousand times.
        _check_size(sum(sizes[reference] for reference in references))
        prompt = templates.render(step.prompt_template, values)
        _check_size(len(prompt.encode()))
        return prompt

    async def _values(
        self, turn: "_Turn", run: Running, step: Step
    ) -> Mapping[templates.Reference, str]:
        """Read what the step's template asks for; what is not there is left out."""
        given: JsonObject = msgspec.json.decode(
            await self._store.text(turn.workspace_id, run.input), type=JsonObject
        )
        values = {templates.Reference("input", name): _text(v) for name, v in given.items()}
        outputs = {s.step_id: output for s, output in zip(run.steps, run.outputs, strict=False)}
        for reference in set(templates.references(step.prompt_template)):
            if reference == templates.PREVIOUS:
                values[reference] = await self._output(turn, run.outputs[-1])
            elif reference.source == "steps":
                values[reference] = await self._output(turn, outputs[reference.key])
        return values

    async def _output(self, turn: "_Turn", output: Blob | None) -> str:
        """Read a step's output; a skipped step has an empty one."""
        return "" if output is None else await self._store.text(turn.workspace_id, output)

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


def _subject(run: Running, step: Step, agent_version: int) -> CallSubject:
    return CallSubject(
        agent_id=step.agent_id,
        agent_version=agent_version,
        workflow_id=run.workflow_id,
        run_id=run.run_id,
        step=run.step,
        step_id=step.step_id,
    )


def _request(
    profile: AgentProfile, target: ModelTarget, prompt: str, *, stream: bool
) -> ModelRequest:
    model = profile.model or agents.ModelConfig(provider="", model_id="")
    return ModelRequest(
        provider=target.provider,
        model=target.model,
        system=agents.system_prompt(profile),
        prompt=prompt,
        temperature=model.temperature,
        max_tokens=model.max_tokens,
        top_p=model.top_p,
        frequency_penalty=model.frequency_penalty,
        presence_penalty=model.presence_penalty,
        stream=stream,
    )


def _requested(prepared: _Prepared, call_id: str, prompt: Blob) -> ModelCallRequested:
    asked = prepared.asked if prepared.target.substituted else None
    return ModelCallRequested(
        call_id=call_id,
        subject=prepared.subject,
        provider=prepared.target.provider,
        model=prepared.target.model,
        asked_provider=asked.provider if asked else None,
        asked_model=asked.model_id if asked else None,
        substituted=prepared.target.substituted,
        prompt=prompt,
        temperature=prepared.request.temperature,
        max_tokens=prepared.request.max_tokens,
    )


def _completed(
    prepared: _Prepared, call_id: str, answer: ModelAnswer, output: Blob
) -> ModelCallCompleted:
    return ModelCallCompleted(
        call_id=call_id,
        subject=prepared.subject,
        provider=answer.provider,
        model=answer.model,
        response_id=answer.response_id,
        finish_reason=answer.finish_reason,
        output=output,
        usage=answer.usage,
        tokens=answer.tokens,
        cost=answer.cost,
        latency_ms=answer.latency_ms,
    )


def _failed(
    prepared: _Prepared, call_id: str, error: ModelCallError, partial: Blob | None
) -> ModelCallFailed:
    return ModelCallFailed(
        call_id=call_id,
        subject=prepared.subject,
        provider=prepared.target.provider,
        model=prepared.target.model,
        kind=error.kind,
        error=str(error)[:ERROR_MAX],
        in_doubt=error.in_doubt,
        partial=partial,
        usage=error.usage,
        tokens=error.tokens,
        cost=error.cost,
        latency_ms=error.latency_ms,
    )


def _check_size(size: int) -> None:
    if size > PROMPT_BYTES_MAX:
        raise TooLong("The prompt", size=size, size_max=PROMPT_BYTES_MAX, pointer="")


def _seconds(given: float | None) -> timedelta | None:
    return None if given is None else timedelta(seconds=given)


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
