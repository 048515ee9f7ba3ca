"""Keeps runs going: looks for what is due and gives each run a task of its own."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

import structlog
from sqlalchemy.exc import OperationalError

from commands.transact import CommandError
from domain.events import StreamId, WorkspaceId
from infra.ending import end
from infra.failpoints import failpoint
from infra.read_store import will_pass
from projections.runs import DueRun, DueRunsProjector, due
from read_api.reads import Reads

RUNS_AT_ONCE_MAX = 64
"""Runs that have a task at the same time; the others wait their turn."""

LOOK_S = 1.0
"""How soon a run is looked at again when nothing tells of a change."""

STORE_PAUSE = timedelta(seconds=5)
"""How long a run is left alone when the store could not record what it does."""

FAULT_PAUSE = timedelta(seconds=60)
"""How long a run is left alone after a failure that nobody foresaw."""

DRAIN_S = 20.0
"""How long a model call that is being made may go on once the process is asked to stop."""

log = structlog.get_logger(__name__)


class Process(Protocol):
    """What a runner keeps going; `commands.processes.runs` implements it."""

    async def advance(self, workspace_id: WorkspaceId, stream_id: StreamId) -> datetime | None:
        """Do all that is due; tell when to ask again, or None if time alone changes nothing."""
        ...

    def stop(self) -> None:
        """Take no further step."""
        ...


class Changes(Protocol):
    """Tells when there may be something new to look at; `infra.follower` implements it."""

    def touched(self, projector: str, /) -> int: ...
    async def changed(self, projector: str, seen: int, /, *, timeout_s: float) -> None: ...


class ProcessRunner:
    def __init__(
        self,
        process: Process,
        follower: Changes,
        reads: Reads,
        now: Callable[[], datetime],
    ) -> None:
        self._process = process
        self._follower = follower
        self._reads = reads
        self._now = now
        self._stopped = False
        self._tasks: dict[StreamId, asyncio.Task[None]] = {}
        self._asleep: dict[StreamId, tuple[datetime, datetime]] = {}

    async def run(self) -> None:
        """Look for due runs until stopped or cancelled; then `drain`."""
        while not self._stopped:
            seen = self._follower.touched(DueRunsProjector.name)
            try:
                await self._look()
            except OperationalError as error:
                if not will_pass(error):
                    raise
                log.warning("due runs cannot be read; trying again", error=str(error.orig))
            await self._follower.changed(DueRunsProjector.name, seen, timeout_s=LOOK_S)

    def stop(self) -> None:
        self._stopped = True
        self._process.stop()

    async def drain(self) -> None:
        """Let the steps being taken end, within a bound; what is cut off is resumed later."""
        self.stop()
        tasks = list(self._tasks.values())
        if not tasks:
            return
        await asyncio.wait(tasks, timeout=DRAIN_S)
        await end(tasks)

    async def _look(self) -> None:
        found = await self._reads.ask(due, limit=2 * RUNS_AT_ONCE_MAX + len(self._asleep))
        known = {run.stream_id for run in found}
        self._asleep = {s: until for s, until in self._asleep.items() if s in known}
        for run in found:
            if len(self._tasks) >= RUNS_AT_ONCE_MAX:
                return
            if run.stream_id not in self._tasks and self._is_awake(run):
                self._start(run)

    def _is_awake(self, run: DueRun) -> bool:
        """A run sleeps until its time has come, or its due time was moved since."""
        asleep = self._asleep.get(run.stream_id)
        if asleep is None:
            return True
        due_at, until = asleep
        return due_at != run.due_at or self._now() >= until

    def _start(self, run: DueRun) -> None:
        task = asyncio.create_task(self._advance(run))
        self._tasks[run.stream_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(run.stream_id, None))

    async def _advance(self, run: DueRun) -> None:
        try:
            until = await self._process.advance(run.workspace_id, run.stream_id)
            failpoint("llm.result_stored")
        except CommandError as error:
            log.warning("a run waits for the store", run=run.stream_id, error=str(error))
            until = self._now() + STORE_PAUSE
        except Exception:
            log.exception("a run cannot be advanced", run=run.stream_id)
            until = self._now() + FAULT_PAUSE
        if until is not None:
            self._asleep[run.stream_id] = (run.due_at, until)
