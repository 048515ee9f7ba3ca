"""What tests of the run process do and look at."""

import asyncio
from datetime import datetime

import pytest

from commands.processes.runs import RunProcess
from domain.agents import ModelConfig
from domain.events import Blob, Event
from domain.runs import RunCompleted, RunFailed, RunId
from domain.usage import ModelCallRequested
from tests.commands.writing import ACME, Writing, run_stream
from tests.fakes import FakeModels

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
