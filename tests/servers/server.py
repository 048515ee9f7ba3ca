"""What all real servers of the tests have in common: a port, a folder, a life to end at will."""

import fcntl
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Self

from tests.servers import supervise

LOCAL = "127.0.0.1"
START_MAX_S = 120.0
STOP_MAX_S = 60.0
POLL_S = 0.02
LOG_TAIL = 4000

PORTS = range(20_000, 32_000)
"""Below those that Linux gives to clients, so that none of them takes a killed server's."""

RESERVED = Path(tempfile.gettempdir()) / "automatos-ports"
"""A file for each port, locked by the process whose servers use it."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """What differs from server to server.

    Attributes:
        prepare: Makes the data that the first start needs.
        ready: What it writes to its log when it answers.
        version: Finds its version in its log.
        stopping: The signal that stops it in order.
        ending: The signal that stops it at once, when its data are of no more use.
        user: Whom it runs as, if not as us.
    """

    name: str
    prepare: Callable[[Path], None]
    command: Callable[[Path], Sequence[str]]
    ready: str
    version: str
    url: str
    stopping: signal.Signals = signal.SIGTERM
    ending: signal.Signals = signal.SIGKILL
    user: int | None = None


def until(
    condition: Callable[[], bool], failure: Callable[[], str], *, timeout_s: float = START_MAX_S
) -> None:
    deadline = monotonic() + timeout_s
    while not condition():
        if monotonic() > deadline:
            raise TimeoutError(failure())
        sleep(POLL_S)


def free_port() -> int:
    """Pick a port; not with `random`, which Hypothesis seeds alike in every process.

    It stays this process's until that ends: a server that is killed and started again must not
    find that another test's has taken its place.
    """
    for _ in PORTS:
        port = PORTS[secrets.randbelow(len(PORTS))]
        if _reserve(port) and _is_free(port):
            return port
    raise OSError("no port is free")


def _reserve(port: int) -> bool:
    RESERVED.mkdir(mode=0o777, exist_ok=True)
    held = os.open(RESERVED / str(port), os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return False
    # Kept open, and with it the lock, for as long as the process lives.
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((LOCAL, port))
        except OSError:
            return False
    return True


class Server:
    """One server on one port with one folder, through as many starts and deaths as a test likes.

    Attributes:
        owners: The processes of which the server outlives none.
        started_s: What the last start took.
    """

    def __init__(self, program: Program, port: int, *, owners: Sequence[int] = ()) -> None:
        self.port = port
        self.owners = owners or (os.getpid(),)
        self.folder = Path(tempfile.mkdtemp(prefix=f"automatos-{program.name}-", dir="/tmp"))
        self.pid = 0
        self.started_s = 0.0
        self._program = program
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._logged = 0
        self._prepared = False

    @property
    def url(self) -> str:
        return self._program.url

    @property
    def bootstrap(self) -> str:
        return f"{LOCAL}:{self.port}"

    @property
    def version(self) -> str:
        found = re.search(self._program.version, self.log)
        return f"{self._program.name} {found[1] if found else 'of no known version'}"

    @property
    def log(self) -> str:
        file = self.folder / "log"
        return file.read_text("utf-8", errors="replace") if file.exists() else ""

    def start(self) -> Self:
        """Start, and wait until it answers."""
        assert self._supervisor is None, f"{self._program.name} runs already"
        begun = monotonic()
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        self.started_s = monotonic() - begun
        return self

    def stop(self) -> None:
        """Stop in order, as an operator would."""
        self._end(self._program.stopping)

    def kill(self) -> None:
        """Kill all of its processes at once."""
        if self._runs():
            supervise.kill_all(self.pid)
        self._reap()

    def pause(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        assert self._runs()
        supervise.signal_all(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._runs()
        supervise.signal_all(self.pid, signal.SIGCONT)

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def close(self) -> None:
        """Stop the quick way, and remove the data."""
        self._end(self._program.ending)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self if self._supervisor is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self._prepare()
        self._logged = len(self.log)
        self._supervisor = self._supervised()
        until(self._answers, lambda: f"{self._program.name} gave no answer:\n{self._tail()}")

    def _prepare(self) -> None:
        if not self._prepared:
            if self._program.user is not None:
                os.chown(self.folder, self._program.user, -1)
            self.folder.chmod(0o755)
            self._program.prepare(self.folder)
            self._prepared = True

    def _supervised(self) -> "subprocess.Popen[bytes]":
        """Start the server below a process that ends it when the owner is gone."""
        owners = ",".join(map(str, self.owners))
        user = "" if self._program.user is None else str(self._program.user)
        ending = str(int(self._program.ending))
        command = self._program.command(self.folder)
        with (self.folder / "log").open("ab") as log:
            supervisor = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", supervise.__file__),
                    *(owners, user, ending, str(self.folder), *command),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        assert supervisor.stdout is not None
        with supervisor.stdout as told:
            self.pid = int(told.readline() or 0)
        return supervisor

    def _answers(self) -> bool:
        if not self._runs():
            raise OSError(f"{self._program.name} ended at once:\n{self._tail()}")
        return self._program.ready in self.log[self._logged :]

    def _tail(self) -> str:
        return self.log[-LOG_TAIL:]

    def _end(self, number: signal.Signals) -> None:
        if self._runs():
            self.resume()
            os.kill(self.pid, number)
        self._reap()

    def _runs(self) -> bool:
        return self.pid > 0 and self._supervisor is not None and self._supervisor.poll() is None

    def _reap(self) -> None:
        if self._supervisor is not None:
            self._supervisor.wait(STOP_MAX_S)
        self._supervisor = None
        self.pid = 0
