"""Processes that fail at a named point: each real, and killed for real, but quickly started.

`python -m tests.e2e.failing.nursery` imports what a process is made of once, and forks a process
for each order that it reads: `automatos` with any arguments, in any environment. Python takes
longer to import everything than most of these processes live. It has no threads, so that a fork
is whole.
"""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, Self

from infra import __main__, failpoints
from tests.e2e.failing.commands import APPEND, append
from tests.e2e.installation import ROOT, WAIT_MAX_S, environment

PARTS = (
    "infra.api",
    "infra.cli.relay",
    "infra.postgres.rebuilding",
    "infra.projector_process",
    "infra.server",
    "infra.worker",
    "anthropic.resources.messages",
    "genai_prices.data",
    "openai.resources.chat.completions",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.httptools_impl",
)
"""What the processes import when they start."""


Order = dict[str, Any]


# Those who give orders.


class Child:
    """A process, from its start to its end."""

    def __init__(self, nursery: "Nursery", pid: int, output: Path) -> None:
        self.pid = pid
        self._nursery = nursery
        self._output = output
        self._ending = os.pidfd_open(pid)
        self._code: int | None = None

    @property
    def output(self) -> str:
        return self._output.read_text()

    def has_ended(self, timeout_s: float = 0.0) -> bool:
        """Tell whether it has ended; wait so long for it at most."""
        if self._code is None and select.select([self._ending], [], [], timeout_s)[0]:
            os.close(self._ending)
            self._code = self._nursery.reap(self.pid)
        return self._code is not None

    def wait(self, timeout_s: float = WAIT_MAX_S) -> int:
        """Wait for its end; give its exit code, which is negative if a signal ended it."""
        assert self.has_ended(timeout_s), f"it goes on for {timeout_s:.0f} s: {self.output}"
        assert self._code is not None
        return self._code

    def send(self, number: signal.Signals) -> None:
        if not self.has_ended():
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.wait()


class Nursery:
    """Where processes come from."""

    def __init__(self) -> None:
        self._lock = Lock()
        # What is killed leaves no coverage behind, and would only be slower.
        env = {name: os.environ[name] for name in os.environ if "COVERAGE" not in name}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.failing.nursery"],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it, and all that has come from it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(WAIT_MAX_S)

    def start(self, output: Path, *arguments: str, **settings: str) -> Child:
        output.touch()
        folder = output.with_name("data")
        env = environment(folder, settings)
        order = {"arguments": arguments, "env": env, "output": str(output)}
        return Child(self, self._ask(order), output)

    def reap(self, pid: int) -> int:
        return self._ask({"reap": pid})

    def _ask(self, order: Order) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


# The one who carries them out.


def main() -> None:
    for part in PARTS:
        import_module(part)
    living: set[int] = set()
    for line in sys.stdin:
        order: Order = json.loads(line)
        told = _reaped(order["reap"], living) if "reap" in order else _born(order, living)
        sys.stdout.write(f"{told}\n")
        sys.stdout.flush()
    for pid in living:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _reaped(pid: int, living: set[int]) -> int:
    _, status = os.waitpid(pid, 0)
    living.discard(pid)
    return os.waitstatus_to_exitcode(status)


def _born(order: Order, living: set[int]) -> int:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _live(order, theirs)
    os.close(theirs)
    # Told only once it leads a group of its own, by which it can be ended.
    os.read(ours, 1)
    os.close(ours)
    living.add(pid)
    return pid


def _live(order: Order, born: int) -> None:
    """Be a process as if started anew, and never return."""
    code = 1
    try:
        os.setsid()
        os.close(born)
        _change_places(order["output"], order["env"])
        code = _run(order["arguments"])
    except Exception:  # noqa: BLE001 nobody else would tell of it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _change_places(output: str, env: Mapping[str, str]) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(env)
    failpoints._wanted = env.get(failpoints.VARIABLE, "")


def _run(arguments: list[str]) -> int:
    try:
        if arguments[0] == APPEND:
            asyncio.run(append(Path(arguments[1]), int(arguments[2])))
        else:
            sys.argv = ["automatos", *arguments]
            __main__.main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def while_alive(condition: Callable[[], object], child: Child, what: str) -> None:
    """Wait for a condition, as long as a process lives."""
    deadline = monotonic() + WAIT_MAX_S
    while not condition():
        assert not child.has_ended(0.02), f"it has ended before {what}: {child.output}"
        assert monotonic() < deadline, f"in vain: {what}: {child.output}"


if __name__ == "__main__":
    main()
