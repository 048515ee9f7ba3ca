"""Runs on their way, step after step, and steps that cannot be taken."""

import pytest

from commands.agents import ChangeAgent
from commands.processes.model_calls import ModelCallError, ModelRequest, ModelTarget
from commands.processes.runs import PROMPT_BYTES_MAX
from commands.transact import Transaction
from domain import runs
from domain.agents import AgentChanges
from domain.runs import LEASE, RUN, RunId, RunStarted
from domain.usage import ModelCallCompleted
from domain.workflows import Step
from tests.commands.running import (
    ANSWERED,
    ASKED,
    GPT,
    STARTED,
    advance,
    begun,
    events,
    output,
    reason,
    requested,
    tags,
    text,
)
from tests.commands.writing import Counted, Writing, run_stream, step
from tests.fakes import NOON, FakeModels, model_answer


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
