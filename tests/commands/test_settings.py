"""Commands on settings, and the runs that take them."""

import pytest

from commands.processes.model_calls import ModelTarget
from commands.settings import (
    BULK_MAX,
    ChangeSetting,
    DefineSetting,
    NewValue,
    SettingAnswer,
    settings_stream,
)
from commands.transact import Outcome
from domain.agents import ModelConfig
from domain.effective import Installed
from domain.errors import Invalid, NameIsTaken, NotFound, VersionMismatch
from domain.events import WorkspaceId
from domain.settings import MASK, MODEL, PROVIDER, TEMPERATURE, SettingName, setting_id
from domain.workflows import Step
from tests.commands.running import advance, events, requested
from tests.commands.writing import ACME, GLOBEX, Writing
from tests.fakes import FakeModels

HERE = Installed(provider="openai", models={"openai": "gpt", "anthropic": "claude"})
TOKEN = SettingName("mail.token")


@pytest.fixture(autouse=True)
def installed(writing: Writing) -> None:
    writing.install(HERE)


async def define(writing: Writing, key: str, value: str, **more: bool) -> Outcome[SettingAnswer]:
    command = DefineSetting(
        category="mail",
        key=key,
        value=value,
        value_type="string",
        default=None,
        description="",
        is_sensitive=more.get("is_sensitive", False),
        is_required=False,
    )
    return await writing.settings.define(command, writing.issued())


async def choose(
    writing: Writing, setting: SettingName, value: str | None, workspace_id: WorkspaceId = ACME
) -> Outcome[SettingAnswer]:
    command = ChangeSetting(value=value)
    issued = writing.issued(workspace_id=workspace_id)
    return await writing.settings.change(setting_id(workspace_id, setting), command, issued)


async def step(writing: Writing, model: ModelConfig | None = None) -> Step:
    agent = await writing.agent(f"Ada {writing.next_id()}", model=model)
    return Step(step_id="write", agent_id=agent.agent_id, prompt_template="Go.")


async def test_a_setting_is_told_as_it_is_afterwards(writing: Writing) -> None:
    outcome = await choose(writing, TEMPERATURE, "0.3")
    told = outcome.answer.setting
    assert (told.value, told.default, told.effective, told.source) == (
        "0.3",
        "0.7",
        "0.3",
        "system settings",
    )
    assert outcome.answer.version == 1
    assert told in await writing.settings.told(ACME)
    assert told not in await writing.settings.told(GLOBEX)
    assert await writing.settings.default_model(GLOBEX) == ModelConfig(
        provider="openai", model_id="gpt"
    )


async def test_a_secret_is_in_no_answer_and_not_in_what_is_kept_for_a_repetition(
    writing: Writing,
) -> None:
    outcome = await define(writing, "token", "hunter2", is_sensitive=True)
    assert outcome.answer.setting.value == MASK
    issued = writing.issued(key="once")
    command = ChangeSetting(value="correct horse")
    changed = await writing.settings.change(setting_id(ACME, TOKEN), command, issued)
    known = await writing.store.find_command(issued.metadata.command_id)
    assert known is not None
    assert b"correct horse" not in (known.answer or b"")
    again = await writing.settings.change(setting_id(ACME, TOKEN), command, issued)
    assert (again.answer, again.replayed) == (changed.answer, True)


async def test_a_secret_cannot_be_read_in_the_log(writing: Writing) -> None:
    await define(writing, "token", "hunter2", is_sensitive=True)
    await define(writing, "host", "mx.example.com")
    rows = await writing.log.stream(settings_stream(ACME), after=0, limit=10)
    written = b"".join(row.body for row in rows)
    assert b"mx.example.com" in written
    assert b"hunter2" not in written
    assert written.count(b"sealed:v1:") == 1


async def test_two_who_make_the_same_setting_at_once_make_one(writing: Writing) -> None:
    beside = Writing(beside=writing)
    await define(writing, "host", "a")
    with pytest.raises(NameIsTaken):
        await define(beside, "host", "b")
    assert await writing.tags(settings_stream(ACME)) == ["setting_defined", "setting_changed"]


async def test_several_settings_are_changed_in_one_append_or_not_at_all(writing: Writing) -> None:
    numbers = [setting_id(ACME, name) for name in (PROVIDER, MODEL, TEMPERATURE)]
    good = [NewValue(n, v) for n, v in zip(numbers, ("anthropic", "opus", "0.1"), strict=True)]
    with pytest.raises(Invalid) as refusal:
        await writing.settings.change_many([*good[:2], NewValue(numbers[2], "9")], writing.issued())
    assert refusal.value.pointer == "/2/value"
    with pytest.raises(NotFound):
        await writing.settings.change_many([*good, NewValue(17, "x")], writing.issued())
    with pytest.raises(Invalid) as too_many:
        await writing.settings.change_many([good[0]] * (BULK_MAX + 1), writing.issued())
    assert too_many.value.pointer == ""
    assert await writing.recorded() == []
    outcome = await writing.settings.change_many(good, writing.issued())
    assert (outcome.answer.count, outcome.answer.version) == (3, 3)
    (command_id,) = {r.metadata.command_id for r in await writing.recorded()}
    assert command_id


async def test_another_workspaces_setting_is_answered_as_if_there_were_none(
    writing: Writing,
) -> None:
    await define(writing, "host", "a")
    number = setting_id(ACME, SettingName("mail.host"))
    for unknown in (number, 17):
        with pytest.raises(NotFound):
            await writing.settings.remove(unknown, writing.issued(workspace_id=GLOBEX))
    await writing.settings.remove(number, writing.issued())


async def test_who_saw_older_settings_is_told(writing: Writing) -> None:
    await choose(writing, TEMPERATURE, "0.3")
    with pytest.raises(VersionMismatch):
        await writing.settings.reset(None, writing.issued(if_version=7))
    outcome = await writing.settings.reset(None, writing.issued(if_version=1))
    assert (outcome.answer.count, outcome.answer.version) == (1, 2)


async def test_a_setting_is_given_a_value_and_then_required(writing: Writing) -> None:
    await define(writing, "host", "a")
    number = setting_id(ACME, SettingName("mail.host"))
    command = ChangeSetting(value="b", description="Where mail goes.", is_required=True)
    told = (await writing.settings.change(number, command, writing.issued())).answer.setting
    assert (told.value, told.description, told.is_required) == ("b", "Where mail goes.", True)


# Runs.


async def test_an_agent_that_names_no_model_is_given_what_its_workspace_chose(
    writing: Writing,
) -> None:
    await choose(writing, PROVIDER, "anthropic")
    await choose(writing, TEMPERATURE, "0.3")
    await choose(writing, TEMPERATURE, "1.9", GLOBEX)
    own = ModelConfig(provider="openai", model_id="o3", temperature=1.0, max_tokens=5)
    run_id = await writing.run(await step(writing))
    other = await writing.run(await step(writing, own))
    models = FakeModels()
    await advance(writing.process(models), run_id)
    await advance(writing.process(models), other)
    assert [(r.provider, r.model, r.temperature, r.max_tokens) for r in models.requests] == [
        ("anthropic", "claude", 0.3, 2000),
        ("openai", "o3", 1.0, 5),
    ]
    (asked,) = await requested(writing, run_id)
    assert (asked.provider, asked.model, asked.temperature) == ("anthropic", "claude", 0.3)


async def test_the_environment_goes_before_what_the_workspace_chose(writing: Writing) -> None:
    writing.install(
        Installed(provider="openai", models=HERE.models, environment={TEMPERATURE: "1.2"})
    )
    await choose(writing, TEMPERATURE, "0.3")
    run_id = await writing.run(await step(writing))
    models = FakeModels()
    await advance(writing.process(models), run_id)
    assert [r.temperature for r in models.requests] == [1.2]


async def test_a_workers_settings_are_as_new_as_its_step(writing: Writing) -> None:
    """Also where another process changed them, and this one has them cached."""
    beside = Writing(beside=writing)
    await choose(writing, TEMPERATURE, "0.3")
    await choose(beside, TEMPERATURE, "0.4")
    await choose(writing, PROVIDER, "anthropic")
    await choose(beside, TEMPERATURE, "0.5")
    run_id = await writing.run(await step(writing))
    models = FakeModels()
    await advance(writing.process(models), run_id)
    assert [r.temperature for r in models.requests] == [0.5]


async def test_what_was_chosen_for_a_call_stays_recorded_when_the_settings_change(
    writing: Writing,
) -> None:
    run_id = await writing.run(await step(writing))
    models = FakeModels()
    await advance(writing.process(models), run_id)
    before = await events(writing, run_id)
    await choose(writing, PROVIDER, "anthropic")
    assert await advance(writing.process(models, worker="later"), run_id) is None
    assert await events(writing, run_id) == before
    assert models.calls == 1


async def test_what_the_settings_name_is_recorded_where_another_model_answers(
    writing: Writing,
) -> None:
    await choose(writing, PROVIDER, "anthropic")
    run_id = await writing.run(await step(writing))
    models = FakeModels()
    models.substitute = ModelTarget(provider="offline", model="extract", substituted="No key.")
    await advance(writing.process(models), run_id)
    (asked,) = await requested(writing, run_id)
    assert (asked.asked_provider, asked.asked_model) == ("anthropic", "claude")
