"""Runs broken off: by the end of their process, whose work the next one takes up, or for good."""

import asyncio
from datetime import timedelta

import pytest

from commands.processes.runs import RunProcess
from commands.runs import CancelRun, RunCommands
from domain.runs import LEASE, RUN, Ended
from domain.usage import ModelCallCompleted, ModelCallFailed, ModelCallInDoubt
from tests.commands.running import (
    ANSWERED,
    ASKED,
    STARTED,
    advance,
    begun,
    ended,
    events,
    output,
    requested,
    tags,
    text,
)
from tests.commands.writing import Writing, run_stream, step
from tests.fakes import NOON, WAIT_MAX_S, FakeModels, failure

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
