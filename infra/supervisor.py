"""Keeps worker processes going that share what their parent opened for them."""

import os
import signal
import sys
from collections.abc import Callable
from time import monotonic

import structlog

from infra.failpoints import failpoint

RESTART_S = 1.0
"""A worker that ends sooner after its start is replaced only then."""

SETTLED_S = 10.0
EARLY_DEATHS_MAX = 5
"""So many workers may end before one has lived that long; then it is no accident."""

STOP_MAX_S = 28.0
"""How long workers may take to stop; then they are killed."""

EXIT_FAILED = 1
EXIT_AT_ONCE = 128 + signal.SIGTERM

_WATCHED = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}

log = structlog.get_logger(__name__)


class Supervisor:
    """Forks workers; one that dies is replaced. Its process must have no threads.

    Told to stop, by SIGTERM or SIGINT, it tells the workers so, waits, and kills those that take
    too long. Told again, it kills them at once. When it is killed itself, they stop, too.

    Args:
        work: What a worker does, in its own process; gives its exit code. It is given a file
            that is at its end once the worker is to stop.
        stopping: Called here, once, before workers are told to stop.
    """

    def __init__(
        self, count: int, work: Callable[[int], int], stopping: Callable[[], None] = lambda: None
    ) -> None:
        self._count = count
        self._work = work
        self._stopping = stopping
        self._started_at: dict[int, float] = {}
        self._due = [0.0] * count
        self._early_deaths = 0
        self._settled = False
        self._code = 0
        self._stop_at = float("inf")
        self._told, self._tell = os.pipe()

    @property
    def _is_stopping(self) -> bool:
        return self._stop_at < float("inf")

    def run(self) -> int:
        """Go on until told to stop; give the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        while self._started_at or not self._is_stopping:
            self._start_due()
            told = signal.sigtimedwait(_WATCHED, self._patience_s())
            self._reap()
            if told is not None and told.si_signo != signal.SIGCHLD:
                if self._is_stopping:
                    return self._kill(EXIT_AT_ONCE)
                self._stop()
            if monotonic() >= self._stop_at:
                log.error("workers did not stop in time", pids=sorted(self._started_at))
                return self._kill(EXIT_FAILED)
        return self._code

    def _patience_s(self) -> float:
        return max(0.0, min(self._stop_at, *self._due, monotonic() + RESTART_S) - monotonic())

    # Starting.

    def _start_due(self) -> None:
        now = monotonic()
        due = [at for at in self._due if at <= now]
        self._due = [at for at in self._due if at > now]
        for _ in due:
            self._start()

    def _start(self) -> None:
        failpoint("supervisor.before_fork")
        pid = os.fork()
        if pid == 0:
            self._be_a_worker()
        failpoint("supervisor.after_fork")
        self._started_at[pid] = monotonic()
        log.info("a worker starts", pid=pid)

    def _be_a_worker(self) -> None:
        """Work, and end without going back into what the parent was doing."""
        code = EXIT_FAILED
        try:
            os.close(self._tell)
            # The terminal sends it to all; the parent alone decides.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            code = self._work(self._told)
        except BaseException as error:
            log.critical("a worker cannot go on", exc_info=error)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    # Ending.

    def _reap(self) -> None:
        while self._started_at:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._ended(self._started_at.pop(pid), pid, os.waitstatus_to_exitcode(status))

    def _ended(self, started_at: float, pid: int, code: int) -> None:
        if self._is_stopping:
            self._code = self._code or (EXIT_FAILED if code else 0)
            return
        log.error("a worker ended; another one takes its place", pid=pid, code=code)
        self._due.append(max(monotonic(), started_at + RESTART_S))
        oldest = min(started_at, *self._started_at.values(), monotonic())
        self._settled = self._settled or monotonic() - oldest >= SETTLED_S
        self._early_deaths += 1
        if self._early_deaths >= EARLY_DEATHS_MAX and not self._settled:
            log.critical("workers end as soon as they start; stopping")
            self._code = EXIT_FAILED
            self._stop()

    def _stop(self) -> None:
        self._stop_at = monotonic() + STOP_MAX_S
        self._due = []
        self._stopping()
        failpoint("supervisor.stopping")
        os.close(self._tell)

    def _kill(self, code: int) -> int:
        for pid in self._started_at:
            failpoint("supervisor.before_kill")
            os.kill(pid, signal.SIGKILL)
        for pid in self._started_at:
            os.waitpid(pid, 0)
        return code
