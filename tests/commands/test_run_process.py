"""Runs on their way: asking models, failing, stopping, and being picked up by the next process."""

import asyncio
from datetime import datetime, timedelta

import pytest

from commands.agents import ChangeAgent
from commands.processes.model_calls import ModelCallError, ModelRequest, ModelTarget
from commands.processes.runs import ERROR_MAX, PROMPT_BYTES_MAX, RunProcess
from commands.runs import CancelRun, RunCommands
from commands.transact import StorageFull, Transaction
from domain import runs
from domain.agents import AgentChanges, ModelConfig
from domain.events import Blob, Event
from domain.runs import LEASE, RUN, Ended, RunCompleted, RunFailed, RunId, RunStarted
from domain.tokens import Cost, TokenCounts
from domain.usage import (
    ModelCallCompleted,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallRequested,
)
from domain.workflows import Step
from tests.commands.writing import ACME, Counted, Writing, run_stream, step
from tests.fakes import (
    NOON,
    WAIT_MAX_S,
    FakeModels,
    Scripted,
    failure,
    model_answer,
    until,
)

GPT = ModelConfig(provider="openai", model_id="gpt-5", temperature=0.1, max_tokens=99)

STARTED = ["run_started"]
ASKED = ["run_step_started", "model_call_requested"]
ANSWERED = ["model_call_completed", "run_step_succeeded"]


async def advance(process: RunProcess, run_id: RunId) -> datetime | None:
    return await process.advance(ACME, run_stream(run_id))


async def tags(writing: Writing, run_id: RunId) -> list[str]:
    return await writing.tags(run_stream(run_id))


async def events(writing: Writing, run_id: RunId) -> list[Event]:
    return [recorded.event for recorded in await writing.recorded(run_stream(run_id))]


async def requested(writing: Writing, run_id: RunId) -> list[ModelCallRequested]:
    found = await events(writing, run_id)
    return [event for event in found if isinstance(event, ModelCallRequested)]


async def reason(writing: Writing, run_id: RunId) -> str:
    """Tell why a run has failed."""
    last = (await events(writing, run_id))[-1]
    assert isinstance(last, RunFailed)
    return last.error


async def text(writing: Writing, blob: Blob | None) -> str:
    assert blob is not None
    return await writing.store.text(ACME, blob)


async def output(writing: Writing, run_id: RunId) -> str:
    last = (await events(writing, run_id))[-1]
    assert isinstance(last, RunCompleted)
    return await text(writing, last.output)


async def begun(
    writing: Writing, models: FakeModels, run_id: RunId, *, worker: str = "one", sole: bool = True
) -> asyncio.Task[datetime | None]:
    """Advance a run until its model call is open."""
    models.hold()
    calls = models.calls
    process = writing.process(models, worker=worker, sole=sole)
    task = asyncio.create_task(advance(process, run_id))
    await models.asked(calls + 1)
    return task


async def ended(task: asyncio.Task[datetime | None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# The way of a run.


async def test_steps_are_taken_in_order_with_their_templates_filled(writing: Writing) -> None:
    run_id = await writing.run(
        await step(writing, "research", "About {input.topic} within {input.bounds}."),
        await step(writing, "write", "Use {previous.output}."),
        await step(writing, "check", "Compare {steps.research.output} with {steps.write.output}."),
        topic="bees {input.bounds}",
        bounds={"words": [1, 2]},
    )
    models = FakeModels("facts", "{previous.output}", "fine")
    assert await advance(writing.process(models), run_id) is None
    assert models.prompts == [
        'About bees {input.bounds} within {"words":[1,2]}.',
        "Use facts.",
        "Compare facts with {previous.output}.",
    ]
    assert await tags(writing, run_id) == STARTED + 3 * (ASKED + ANSWERED) + ["run_completed"]
    assert await output(writing, run_id) == "fine"


async def test_the_agent_is_asked_as_it_is_now(writing: Writing) -> None:
    agent = await writing.agent("Ada", prompt="Be brief.", model=GPT)
    run_id = await writing.run(
        Step(step_id="research", agent_id=agent.agent_id, prompt_template="Go.")
    )
    await writing.agents.change(
        ChangeAgent(agent_id=agent.agent_id, changes=AgentChanges(system_prompt="Be exact.")),
        writing.issued(),
    )
    models = FakeModels()
    await advance(writing.process(models), run_id)
    assert models.requests == [
        ModelRequest(
            provider="openai",
            model="gpt-5",
            system="You are Ada, an agent of type custom.\n\nBe exact.",
            prompt="Go.",
            temperature=0.1,
            max_tokens=99,
            stream=True,
        )
    ]
    (asked,) = await requested(writing, run_id)
    assert asked.subject.agent_version == 2
    assert (asked.asked_provider, asked.asked_model, asked.substituted) == (None, None, "")


async def test_an_agent_without_a_model_is_given_the_default_one(writing: Writing) -> None:
    run_id = await writing.run(await step(writing))
    models = FakeModels()
    models.default = ModelTarget(provider="anthropic", model="claude")
    await advance(writing.process(models), run_id)
    assert [(r.provider, r.model) for r in models.requests] == [("anthropic", "claude")]


async def test_a_call_is_recorded_before_it_is_made_and_its_outcome_after(
    writing: Writing,
) -> None:
    run_id = await writing.run(await step(writing, template="About {input.topic}."), topic="bees")
    models = FakeModels("facts")
    task = await begun(writing, models, run_id)
    assert await tags(writing, run_id) == STARTED + ASKED
    (asked,) = await requested(writing, run_id)
    assert await text(writing, asked.prompt) == "About bees."

    models.let_go()
    assert await task is None
    _, claim, _, completed, succeeded, _ = await events(writing, run_id)
    assert isinstance(completed, ModelCallCompleted)
    assert isinstance(claim, runs.StepStarted)
    answer = model_answer("facts")
    assert completed == ModelCallCompleted(
        call_id=asked.call_id,
        subject=asked.subject,
        provider=answer.provider,
        model=answer.model,
        response_id=answer.response_id,
        finish_reason=answer.finish_reason,
        output=completed.output,
        usage=answer.usage,
        tokens=answer.tokens,
        cost=answer.cost,
        latency_ms=answer.latency_ms,
    )
    assert (claim.worker, claim.lease_until) == ("one", NOON + LEASE)
    assert isinstance(succeeded, runs.StepSucceeded)
    assert succeeded.output == completed.output


async def test_what_a_run_records_names_its_start_as_its_cause(writing: Writing) -> None:
    run_id = await writing.run(await step(writing))
    await advance(writing.process(FakeModels()), run_id)
    first, *others = [r.metadata for r in await writing.recorded(run_stream(run_id))]
    assert {m.actor for m in others} == {"process:runs"}
    assert {m.correlation_id for m in others} == {first.correlation_id}
    assert {m.causation_id for m in others} == {first.command_id}


async def test_a_model_in_place_of_the_one_asked_for_is_recorded(writing: Writing) -> None:
    run_id = await writing.run(await step(writing, model=GPT), await step(writing, "write"))
    models = FakeModels()
    models.substitute = ModelTarget(provider="offline", model="extract", substituted="No key.")
    await advance(writing.process(models), run_id)
    named, unnamed = await requested(writing, run_id)
    assert (named.provider, named.model, named.substituted) == ("offline", "extract", "No key.")
    assert (named.asked_provider, named.asked_model) == ("openai", "gpt-5")
    assert (unnamed.asked_provider, unnamed.asked_model) == (None, None)
    assert unnamed.substituted == "No key."


async def test_nothing_is_due_where_there_is_no_run(writing: Writing) -> None:
    models = FakeModels()
    assert await advance(writing.process(models), RunId(404)) is None
    assert models.calls == 0


# Steps that cannot be taken.


async def test_a_step_of_an_agent_archived_since_fails(writing: Writing) -> None:
    agent = await writing.agent("Ada")
    run_id = await writing.run(
        Step(step_id="research", agent_id=agent.agent_id, prompt_template="Go.")
    )
    await Writing(beside=writing).archive_agent(agent)
    models = FakeModels()
    assert await advance(writing.process(models), run_id) is None
    assert models.calls == 0
    assert await tags(writing, run_id) == [*STARTED, "run_step_failed", "run_failed"]
    assert await reason(writing, run_id) == f"Agent {agent.agent_id} is archived."


async def test_a_model_that_is_not_configured_fails_its_step(writing: Writing) -> None:
    run_id = await writing.run(await step(writing, model=GPT))
    models = FakeModels()
    models.refusal = ModelCallError("No key for openai.", kind="not_configured", retryable=False)
    assert await advance(writing.process(models), run_id) is None
    assert models.calls == 0
    assert await tags(writing, run_id) == [*STARTED, "run_step_failed", "run_failed"]
    assert await reason(writing, run_id) == "No key for openai."


async def test_a_value_that_the_run_lacks_fails_its_step(writing: Writing) -> None:
    lacking = await step(writing, template="About {input.topic}.")

    async def start_without_input(transaction: Transaction) -> Counted:
        transaction.load_new(RUN, run_stream(RunId(7)))
        started = RunStarted(
            run_id=RunId(7),
            execution_id="exec-7",
            workflow_id=1,
            workflow_version=1,
            workflow_name="Report",
            steps=(lacking,),
            input=transaction.keep("{}"),
        )
        return Counted(transaction.record(run_stream(RunId(7)), [started]))

    await writing.transactions.run(start_without_input, writing.issued(), Counted)
    await advance(writing.process(FakeModels()), RunId(7))
    why = "The prompt needs {input.topic}, which the run lacks."
    assert await reason(writing, RunId(7)) == why


QUARTER = PROMPT_BYTES_MAX // 4 - len('{"a":""}')


@pytest.mark.parametrize(
    ("template", "size"),
    [
        ("{input.a}" * 4 + "x" * 32, PROMPT_BYTES_MAX),
        ("{input.a}" * 4 + "x" * 33, PROMPT_BYTES_MAX + 1),
        ("{input.a}" * 4 + "é" * 17, PROMPT_BYTES_MAX + 2),
        ("{input.a}" * 400 + "not counted", QUARTER * 400),
    ],
    ids=["at the bound", "over it", "over it in bytes", "too long to be rendered at all"],
)
async def test_a_prompt_has_a_bound_in_bytes(writing: Writing, template: str, size: int) -> None:
    run_id = await writing.run(await step(writing, template=template), a="x" * QUARTER)
    models = FakeModels()
    await advance(writing.process(models), run_id)
    if size <= PROMPT_BYTES_MAX:
        assert [len(prompt) for prompt in models.prompts] == [size]
        return
    assert models.calls == 0
    why = f"The prompt has {size} bytes; {PROMPT_BYTES_MAX} are allowed."
    assert await reason(writing, run_id) == why


# Calls that fail.


async def test_a_failed_call_is_tried_again_when_its_time_has_come(writing: Writing) -> None:
    run_id = await writing.run(await step(writing))
    models = FakeModels(failure(retry_after_s=7), "facts")
    process = writing.process(models)
    due_at = await advance(process, run_id)
    assert due_at == NOON + timedelta(seconds=7)
    assert await advance(process, run_id) == due_at
    assert models.calls == 1
    writing.clock.now = due_at
    assert await advance(process, run_id) is None
    failed = ["model_call_failed", "run_step_failed"]
    assert await tags(writing, run_id) == [
        *STARTED, *ASKED, *failed, *ASKED, *ANSWERED, "run_completed"
    ]  # fmt: skip


async def test_without_a_wish_of_the_provider_tries_are_spread(writing: Writing) -> None:
    models, delays = FakeModels(*[failure()] * 8), set[timedelta]()
    for n in range(8):
        run_id = await writing.run(await step(writing, f"step-{n}"))
        due_at = await advance(writing.process(models), run_id)
        assert due_at is not None
        delays.add(due_at - NOON)
    assert timedelta(0) <= min(delays) < max(delays) <= runs.RETRY_BASE


async def test_the_delay_grows_with_each_try(writing: Writing) -> None:
    run_id = await writing.run(await step(writing, max_retries=4))
    process = writing.process(FakeModels(*[failure()] * 4))
    for attempt in range(4):
        due_at = await advance(process, run_id)
        assert due_at is not None
        assert due_at - writing.clock() <= runs.RETRY_BASE * 2**attempt
        writing.clock.now = due_at
    assert await advance(process, run_id) is None
    assert (await tags(writing, run_id))[-1] == "run_completed"


@pytest.mark.parametrize("max_retries", [0, 2])
async def test_a_step_is_tried_as_often_as_it_says(writing: Writing, max_retries: int) -> None:
    run_id = await writing.run(await step(writing, max_retries=max_retries))
    models = FakeModels(*[failure("Busy.", retry_after_s=0)] * 9)
    assert await advance(writing.process(models), run_id) is None
    assert models.calls == max_retries + 1
    assert await reason(writing, run_id) == "Busy."


async def test_what_would_fail_again_is_not_tried_again(writing: Writing) -> None:
    run_id = await writing.run(await step(writing))
    models = FakeModels(failure("No such model.", retryable=False))
    assert await advance(writing.process(models), run_id) is None
    assert models.calls == 1
    assert await reason(writing, run_id) == "No such model."


async def test_a_failed_step_may_be_skipped(writing: Writing) -> None:
    run_id = await writing.run(
        await step(writing, "research", "Go."),
        await step(writing, "write", "Go on.", error_handling="skip"),
        await step(writing, "check", "[{previous.output}{steps.write.output}]"),
        await step(writing, "sign", "Go.", error_handling="skip"),
    )
    no = failure(retryable=False)
    models = FakeModels("facts", no, "fine", no)
    assert await advance(writing.process(models), run_id) is None
    assert models.prompts == ["Go.", "Go on.", "[]", "Go."]
    assert await output(writing, run_id) == "fine"


async def test_a_run_may_skip_all_its_steps(writing: Writing) -> None:
    run_id = await writing.run(await step(writing, error_handling="skip"))
    await advance(writing.process(FakeModels(failure(retryable=False))), run_id)
    assert (await events(writing, run_id))[-1] == RunCompleted(run_id=run_id, output=None)


async def test_what_a_broken_answer_cost_and_held_is_recorded(writing: Writing) -> None:
    run_id = await writing.run(await step(writing, model=GPT))
    error = ModelCallError(
        "x" * (ERROR_MAX + 1),
        kind="malformed",
        retryable=False,
        partial_text="half of it",
        usage={"input_tokens": 5},
        tokens=TokenCounts(input=5),
        cost=Cost(input_nano_usd=5, price_source="a test"),
        latency_ms=3,
    )
    await advance(writing.process(FakeModels(error)), run_id)
    _, _, asked, failed, *_ = await events(writing, run_id)
    assert isinstance(asked, ModelCallRequested)
    assert isinstance(failed, ModelCallFailed)
    assert failed == ModelCallFailed(
        call_id=asked.call_id,
        subject=asked.subject,
        provider="openai",
        model="gpt-5",
        kind="malformed",
        error="x" * ERROR_MAX,
        partial=failed.partial,
        usage=error.usage,
        tokens=error.tokens,
        cost=error.cost,
        latency_ms=3,
    )
    assert await text(writing, failed.partial) == "half of it"


@pytest.mark.parametrize(("timeouts", "end"), [(1, "run_completed"), (2, "run_failed")])
async def test_a_timeout_after_sending_may_be_paid_and_is_repeated_once(
    writing: Writing, timeouts: int, end: str
) -> None:
    run_id = await writing.run(await step(writing, max_retries=9))
    models = FakeModels(*[failure(in_doubt=True, retry_after_s=0)] * timeouts)
    assert await advance(writing.process(models), run_id) is None
    assert models.calls == 2
    found = await events(writing, run_id)
    assert [e.in_doubt for e in found if isinstance(e, ModelCallFailed)] == [True] * timeouts
    assert found[-1].tag() == end


async def test_a_fault_that_is_no_answer_of_the_provider_is_not_hidden(writing: Writing) -> None:
    run_id = await writing.run(await step(writing))
    process = writing.process(FakeModels(RuntimeError("a mistake of ours")))
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        await advance(process, run_id)
    assert await tags(writing, run_id) == STARTED + ASKED
    assert await advance(process, run_id) == NOON + LEASE


# Processes that end in the middle.


async def test_an_answer_that_is_recorded_is_never_asked_for_again(writing: Writing) -> None:
    run_id = await writing.run(
        await step(writing, "research", "Go."), await step(writing, "write", "{previous.output}!")
    )
    models = FakeModels("facts")
    models.on_call = lambda: models.hold() if models.calls == 2 else None
    task = asyncio.create_task(advance(writing.process(models), run_id))
    await models.asked(2)
    await ended(task)

    later = FakeModels("fine")
    after = Writing(beside=writing)
    assert await advance(after.process(later, worker="two"), run_id) is None
    assert models.prompts == ["Go.", "facts!"]
    assert later.prompts == ["facts!"]
    assert await output(writing, run_id) == "fine"


async def test_a_process_that_is_to_stop_ends_its_step_and_takes_no_further_one(
    writing: Writing,
) -> None:
    run_id = await writing.run(
        await step(writing, "research", "Go."), await step(writing, "write", "{previous.output}!")
    )
    models = FakeModels("facts")
    process = writing.process(models)
    models.on_call = process.stop
    assert await advance(process, run_id) is None
    assert models.prompts == ["Go."]

    after = FakeModels("fine")
    await advance(Writing(beside=writing).process(after, worker="two"), run_id)
    assert after.prompts == ["facts!"]
    assert await output(writing, run_id) == "fine"


async def test_a_process_that_ends_breaks_its_call_off_and_leaves_it_open(
    writing: Writing,
) -> None:
    run_id, models = await writing.run(await step(writing)), FakeModels()
    await ended(await begun(writing, models, run_id))
    await models.broken_off(1)
    assert await tags(writing, run_id) == STARTED + ASKED


async def test_a_call_that_dies_with_its_process_does_not_pass_for_a_cancelled_run(
    writing: Writing,
) -> None:
    run_id, models = await writing.run(await step(writing)), FakeModels()
    models.hold()
    models.on_call = _cancel_current
    with pytest.raises(asyncio.CancelledError):
        await advance(writing.process(models), run_id)
    assert await tags(writing, run_id) == STARTED + ASKED


def _cancel_current() -> None:
    current = asyncio.current_task()
    assert current is not None
    current.cancel()


async def test_a_call_that_was_open_is_marked_in_doubt_and_repeated(writing: Writing) -> None:
    run_id, models = await writing.run(await step(writing), await step(writing, "b")), FakeModels()
    await ended(await begun(writing, models, run_id))
    models.let_go()
    assert await advance(Writing(beside=writing).process(models, worker="two"), run_id) is None
    assert await tags(writing, run_id) == [
        *STARTED,
        *ASKED,
        "model_call_in_doubt",
        *(ASKED + ANSWERED) * 2,
        "run_completed",
    ]
    lost, repeat, following = await requested(writing, run_id)
    marked = (await events(writing, run_id))[3]
    assert isinstance(marked, ModelCallInDoubt)
    assert marked.call_id == repeat.repeats == lost.call_id
    assert (lost.repeats, following.repeats) == (None, None)


@pytest.mark.parametrize(
    ("error_handling", "end"),
    [("stop", ["run_failed"]), ("skip", ["run_step_skipped", "run_completed"])],
)
async def test_a_step_in_doubt_twice_is_given_up(
    writing: Writing, error_handling: str, end: list[str]
) -> None:
    lone = await step(writing, error_handling="skip" if error_handling == "skip" else "stop")
    run_id, models = await writing.run(lone), FakeModels()
    for worker in ("one", "two"):
        await ended(await begun(Writing(beside=writing), models, run_id, worker=worker))
    models.let_go()
    assert await advance(Writing(beside=writing).process(models, worker="three"), run_id) is None
    assert models.calls == 2
    assert await tags(writing, run_id) == [
        *STARTED,
        *ASKED,
        "model_call_in_doubt",
        *ASKED,
        "model_call_in_doubt",
        "run_step_failed",
        *end,
    ]


async def test_among_several_workers_a_call_is_in_doubt_once_its_lease_is_over(
    writing: Writing,
) -> None:
    run_id, models = await writing.run(await step(writing)), FakeModels()
    await ended(await begun(writing, models, run_id, sole=False))
    models.let_go()
    other = Writing(beside=writing).process(models, worker="two", sole=False)
    assert await advance(other, run_id) == NOON + LEASE
    assert models.calls == 1
    writing.clock.forward(LEASE)
    assert await advance(other, run_id) is None
    assert models.calls == 2


async def test_an_answer_after_its_lease_is_metered_and_counts_no_more(writing: Writing) -> None:
    run_id, slow = await writing.run(await step(writing)), FakeModels("slow")
    task = await begun(writing, slow, run_id, sole=False)
    writing.clock.forward(LEASE)
    other = Writing(beside=writing).process(FakeModels("fast"), worker="two", sole=False)
    assert await advance(other, run_id) is None
    slow.let_go()
    assert await task is None
    assert (await tags(writing, run_id))[-2:] == ["run_completed", "model_call_completed"]
    completed = [e for e in await events(writing, run_id) if isinstance(e, ModelCallCompleted)]
    assert [await text(writing, e.output) for e in completed] == ["fast", "slow"]


async def test_what_another_worker_left_to_retry_is_retried_in_time(writing: Writing) -> None:
    run_id, models = await writing.run(await step(writing)), FakeModels(failure(retry_after_s=7))
    other = Writing(beside=writing).process(models, worker="two", sole=False)
    task = await begun(writing, models, run_id, sole=False)
    assert await advance(other, run_id) == NOON + LEASE
    models.let_go()
    assert await task == NOON + timedelta(seconds=7)
    writing.clock.forward(timedelta(seconds=7))
    assert await advance(other, run_id) is None
    assert models.calls == 2


async def test_of_two_workers_that_race_for_every_step_one_asks(writing: Writing) -> None:
    steps = [await step(writing, f"step-{n}", f"Step {n}.") for n in range(5)]
    run_id, models = await writing.run(*steps), FakeModels()
    sides = [writing, Writing(beside=writing)]

    async def insist(side: Writing, worker: str) -> None:
        process = side.process(models, worker=worker, sole=False)
        while not isinstance((await side.store.load(RUN, run_stream(run_id))).state, Ended):
            await advance(process, run_id)
            await asyncio.sleep(0)  # the memory log never gives way by itself

    async with asyncio.timeout(WAIT_MAX_S):
        await asyncio.gather(insist(sides[0], "one"), insist(sides[1], "two"))
    assert models.prompts == [f"Step {n}." for n in range(5)]
    assert await tags(writing, run_id) == STARTED + 5 * (ASKED + ANSWERED) + ["run_completed"]


# Runs that are cancelled.


def commands(writing: Writing, process: RunProcess) -> RunCommands:
    return RunCommands(writing.transactions, writing.next_id, process.interrupt)


async def test_a_run_cancelled_in_a_call_ends_at_once_and_the_call_is_metered(
    writing: Writing,
) -> None:
    run_id, models = await writing.run(await step(writing, error_handling="skip")), FakeModels()
    models.hold()
    process = writing.process(models)
    task = asyncio.create_task(advance(process, run_id))
    await models.asked(1)
    await commands(writing, process).cancel(CancelRun(run_id=run_id), writing.issued())
    assert await tags(writing, run_id) == [*STARTED, *ASKED, "run_cancelled"]
    assert await task is None
    assert models.aborted == 1
    assert await tags(writing, run_id) == [*STARTED, *ASKED, "run_cancelled", "model_call_failed"]
    failed = (await events(writing, run_id))[-1]
    assert isinstance(failed, ModelCallFailed)
    assert failed.in_doubt
    assert (failed.kind, failed.error) == ("connection", "The run was cancelled.")
    assert (process._calls, process._interrupted) == ({}, set())


async def test_an_interruption_is_for_the_call_that_is_being_made(writing: Writing) -> None:
    run_id, models = await writing.run(await step(writing)), FakeModels()
    process = writing.process(models)
    process.interrupt(run_stream(run_id))
    assert await advance(process, run_id) is None
    process.interrupt(run_stream(run_id))
    assert (await tags(writing, run_id))[-1] == "run_completed"
    assert process._calls == {}
    assert process._interrupted == set()


async def test_an_answer_that_comes_after_the_cancellation_is_metered(writing: Writing) -> None:
    run_id, models = await writing.run(await step(writing), await step(writing, "b")), FakeModels()
    task = await begun(writing, models, run_id)
    await Writing(beside=writing).runs.cancel(CancelRun(run_id=run_id), writing.issued())
    models.let_go()
    assert await task is None
    assert models.calls == 1
    assert (await tags(writing, run_id))[3:] == ["run_cancelled", "model_call_completed"]


async def test_a_call_that_fails_after_the_cancellation_is_not_tried_again(
    writing: Writing,
) -> None:
    run_id, models = await writing.run(await step(writing)), FakeModels(failure(retry_after_s=0))
    task = await begun(writing, models, run_id)
    await Writing(beside=writing).runs.cancel(CancelRun(run_id=run_id), writing.issued())
    models.let_go()
    assert await task is None
    assert models.calls == 1
    assert (await tags(writing, run_id))[3:] == ["run_cancelled", "model_call_failed"]


async def test_a_run_cancelled_before_its_turn_asks_nobody(writing: Writing) -> None:
    run_id, models = await writing.run(await step(writing)), FakeModels()
    await writing.store.load(RUN, run_stream(run_id))
    await Writing(beside=writing).runs.cancel(CancelRun(run_id=run_id), writing.issued())
    assert await advance(writing.process(models), run_id) is None
    assert models.calls == 0
    assert await tags(writing, run_id) == [*STARTED, "run_cancelled"]


# A store that is full.


@pytest.mark.parametrize(
    ("outcome", "recorded"),
    [("facts", ANSWERED), (failure(retryable=False), ["model_call_failed", "run_step_failed"])],
    ids=["an answer", "a failure"],
)
async def test_an_outcome_is_recorded_however_long_the_store_is_full(
    writing: Writing, outcome: Scripted, recorded: list[str]
) -> None:
    run_id, log, models = await writing.run(await step(writing)), writing.failing(), FakeModels()
    models.then(outcome)
    models.on_call = lambda: log.refusals.extend([StorageFull("The disk is full.")] * 3)
    assert await advance(Writing(log, beside=writing).process(models), run_id) is None
    assert log.refusals == []
    assert models.calls == 1
    assert (await tags(writing, run_id))[3:5] == recorded


async def test_no_call_is_made_that_cannot_be_recorded(writing: Writing) -> None:
    run_id, log, models = await writing.run(await step(writing)), writing.failing(), FakeModels()
    log.refusals.append(StorageFull("The disk is full."))
    process = Writing(log, beside=writing).process(models)
    with pytest.raises(StorageFull):
        await advance(process, run_id)
    assert models.calls == 0
    assert await advance(process, run_id) is None
    assert models.calls == 1


async def test_a_process_that_ends_while_the_store_is_full_does_end(writing: Writing) -> None:
    run_id, log, models = await writing.run(await step(writing)), writing.failing(), FakeModels()
    models.on_call = lambda: log.refusals.extend([StorageFull("The disk is full.")] * 10_000)
    process = Writing(log, beside=writing).process(models)
    task = asyncio.create_task(advance(process, run_id))
    await until(lambda: 0 < len(log.refusals) < 10_000)
    await ended(task)
    assert process._calls == {}
    assert await tags(writing, run_id) == STARTED + ASKED
