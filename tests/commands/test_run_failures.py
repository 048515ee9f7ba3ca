"""Runs whose model calls fail, or whose store is full."""

import asyncio
from datetime import timedelta

import pytest

from commands.processes.model_calls import ModelCallError
from commands.processes.runs import ERROR_MAX
from commands.transact import StorageFull
from domain import runs
from domain.runs import LEASE, RunCompleted
from domain.tokens import Cost, TokenCounts
from domain.usage import ModelCallFailed, ModelCallRequested
from tests.commands.running import (
    ANSWERED,
    ASKED,
    GPT,
    STARTED,
    advance,
    ended,
    events,
    output,
    reason,
    tags,
    text,
)
from tests.commands.writing import Writing, step
from tests.fakes import NOON, FakeModels, Scripted, failure, until


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
