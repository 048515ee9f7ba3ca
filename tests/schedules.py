"""An event loop that draws from a seed what asyncio leaves open, in a time of its own.

Drawn are: which of all callbacks that are ready comes next, how long a thread or a server takes,
and what fails. No real time passes: when nothing is ready, the clock jumps to the next timer. So
one seed is one schedule, and a schedule that fails is run again by its seed.
"""

import asyncio
import heapq
import itertools
import os
import random
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from contextvars import Context, ContextVar
from typing import Any, ParamSpec, TypeVar

VARIABLE = "SCHEDULE_SEED"
"""Names the one seed to run, in the environment."""

STEPS_MAX = 100_000
VIRTUAL_MAX_S = 3_600.0
"""A run that is not over by then goes round in circles, or has lost a wake-up."""

T = TypeVar("T")
P = ParamSpec("P")


class Stuck(Exception):
    """Nothing is ready and no timer set, or it never ends."""


class Process:
    """What runs in one process of a simulation, and can be stopped as by SIGSTOP.

    Attributes:
        asleep_until: Until then nothing of it that talks to a server, or has a thread, goes on.
    """

    def __init__(self) -> None:
        self.asleep_until = 0.0


PROCESS: ContextVar[Process] = ContextVar("process", default=Process())  # noqa: B039 never asleep


class _Future(asyncio.Future[Any]):
    """Hashes by number: sets of futures are gone through in the same order in every run."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class _Task(asyncio.Task[Any]):
    def __init__(self, number: int, coro: Any, loop: asyncio.AbstractEventLoop, **kw: Any) -> None:
        self.number = number
        super().__init__(coro, loop=loop, **kw)

    def __hash__(self) -> int:
        return self.number


class ScheduledLoop(asyncio.BaseEventLoop):
    """Attributes:
    chance: Draws everything.
    trace: What was drawn of the callbacks' order, step by step.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.chance = random.Random(seed)
        self.trace: list[int] = []
        self._now = 0.0
        self._over_at = VIRTUAL_MAX_S
        self._numbers = itertools.count()
        self._due: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._faults: list[BaseException] = []
        self.set_task_factory(lambda loop, coro, **kw: _Task(next(self._numbers), coro, loop, **kw))

    def time(self) -> float:
        return self._now

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(next(self._numbers), self)

    def call_soon(  # type: ignore[override]  # asyncio's says more of arguments
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._due.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def _timer_handle_cancelled(self, _: asyncio.TimerHandle) -> None:
        """It stays until its time: nobody is told of it then."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Do it a while later, at one moment, and tell of it a while later."""
        future: asyncio.Future[T] = self.create_future()
        process = PROCESS.get()

        def work() -> None:
            if process.asleep_until > self._now:
                self.call_at(process.asleep_until, work)
                return
            try:
                outcome = func(*args)
            except Exception as error:  # noqa: BLE001 whoever waits is told
                self.call_later(self.delay_s(), _fail, future, error)
            else:
                self.call_later(self.delay_s(), _finish, future, outcome)

        self.call_later(self.delay_s(), work)
        return future

    def delay_s(self) -> float:
        """Draw how long something takes: mostly nothing or little, now and then long."""
        return self.chance.choice((0.0, 0.0, 0.001, 0.001, 0.01, 0.1, 1.0))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if "handle" in context:
            self._faults.append(context["exception"])

    # Running. `run_forever` of the class above calls this until it is told to stop.

    def _run_once(self) -> None:
        if not self._due:
            self._forward()
        self._wake()
        index = self.chance.randrange(len(self._due))
        self.trace.append(index)
        handle = self._due.pop(index)
        if not handle.cancelled():
            handle._run()
        if self._faults:
            raise self._faults[0]
        if len(self.trace) > STEPS_MAX or self._now > self._over_at:
            raise Stuck(f"not over after {len(self.trace)} steps and {self._now:.0f} s")

    def _forward(self) -> None:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if not self._timers:
            raise Stuck("everybody waits, and nothing will wake anybody")
        self._now = max(self._now, self._timers[0][0])

    def _wake(self) -> None:
        while self._timers and self._timers[0][0] <= self._now:
            self._due.append(heapq.heappop(self._timers)[2])

    def end(self) -> None:
        """Cancel what is left, and let it end."""
        self._faults.clear()
        self.trace.clear()
        self._over_at = self._now + VIRTUAL_MAX_S
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        if tasks:
            self.run_until_complete(asyncio.wait(tasks))
        self.close()


def _finish(future: "asyncio.Future[T]", outcome: T) -> None:
    if not future.done():
        future.set_result(outcome)


def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


async def pause() -> None:
    """Take as long as a server takes to answer, and longer in a process that is stopped."""
    loop, process = asyncio.get_running_loop(), PROCESS.get()
    assert isinstance(loop, ScheduledLoop)
    await asyncio.sleep(loop.delay_s())
    while process.asleep_until > loop.time():  # noqa: ASYNC110 time alone wakes it
        await asyncio.sleep(process.asleep_until - loop.time())


def run(seed: int, work: Callable[[ScheduledLoop], Coroutine[Any, Any, object]]) -> list[int]:
    """Run once by a seed; give the trace.

    Raises:
        Stuck: It does not end.
        Exception: Whatever it raised, with the seed noted.
    """
    random.seed(seed)
    loop = ScheduledLoop(seed)
    try:
        loop.run_until_complete(work(loop))
        trace = [*loop.trace]
        loop.end()
    except BaseException as error:
        with suppress(Exception):
            loop.end()
        error.add_note(f"In schedule {seed}. Run it alone: {VARIABLE}={seed} before pytest.")
        raise
    return trace


def seeds(count: int) -> Sequence[int]:
    """Give the seeds to run, unless the environment names one."""
    named = os.environ.get(VARIABLE)
    return range(count) if named is None else [int(named)]
