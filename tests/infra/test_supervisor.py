"""Workers are kept going; those that cannot start, or will not stop, are not waited for."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from infra.supervisor import EARLY_DEATHS_MAX, EXIT_AT_ONCE, EXIT_FAILED
from tests.e2e.installation import ROOT, WAIT_MAX_S, until

SUPERVISED = """
import os, sys, signal, time
from infra import supervisor
from infra.supervisor import Supervisor
supervisor.RESTART_S = 0.1
{settings}
def note(text):
    # In one piece, and on a line of its own whatever others write.
    os.write(1, f"\\n{{text}}\\n".encode())
def stubborn(told):
    note(f"worker {{os.getpid()}}")
    while True:
        time.sleep(60)
def obedient(told):
    note(f"worker {{os.getpid()}}")
    os.read(told, 1)
    note("stopped")
    return 0
def failing(told):
    note("worker fails")
    return 3
def raising(told):
    note("worker fails")
    raise ValueError("by itself")
sys.exit(Supervisor(2, {work}, stopping=lambda: note("stopping")).run())
"""


class Supervised:
    """A supervisor in a process of its own."""

    def __init__(self, folder: Path, work: str, settings: str = "") -> None:
        self._output = folder / "output"
        code = SUPERVISED.format(work=work, settings=settings)
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
            )

    def said(self, start: str) -> list[str]:
        return [line for line in self._output.read_text().splitlines() if line.startswith(start)]

    def workers(self, count: int) -> list[int]:
        """Wait until so many have started, and tell their process ids."""
        until(lambda: len(self.said("worker ")) >= count, f"{count} workers have started")
        return [int(line.split()[1]) for line in self.said("worker ")]

    def ended(self) -> int:
        return self.process.wait(WAIT_MAX_S)

    def clean_up(self) -> None:
        """End what a failed test has left; the workers follow."""
        self.process.kill()
        self.process.wait(WAIT_MAX_S)
        for line in self.said("worker "):
            if (pid := line.split()[1]).isdigit() and runs(int(pid)):
                os.kill(int(pid), signal.SIGKILL)
        sys.stdout.write(self._output.read_text())


Start: TypeAlias = Callable[..., Supervised]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Supervised] = []

    def begin(work: str, settings: str = "") -> Supervised:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Supervised(folder, work, settings))
        return started[-1]

    yield begin
    for supervised in started:
        supervised.clean_up()


def runs(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("work", ["failing", "raising"])
def test_workers_that_end_as_soon_as_they_start_end_it_all(start: Start, work: str) -> None:
    supervised = start(work)
    assert supervised.ended() == EXIT_FAILED
    assert EARLY_DEATHS_MAX <= len(supervised.said("worker fails")) <= EARLY_DEATHS_MAX + 2


def test_workers_that_end_later_are_replaced_for_ever(start: Start) -> None:
    supervised = start("obedient", "supervisor.SETTLED_S = 0.0")
    for count in range(2, 2 + EARLY_DEATHS_MAX * 2):
        os.kill(supervised.workers(count)[-1], signal.SIGKILL)
    last = supervised.workers(2 + EARLY_DEATHS_MAX * 2)[-1]
    supervised.process.terminate()
    assert supervised.ended() == 0
    assert not runs(last)
    assert supervised.said("stopping") == ["stopping"]
    assert supervised.said("stopped") == ["stopped"] * 2


def test_workers_that_do_not_stop_are_killed_in_the_end(start: Start) -> None:
    supervised = start("stubborn", "supervisor.STOP_MAX_S = 0.3")
    workers = supervised.workers(2)
    supervised.process.terminate()
    assert supervised.ended() == EXIT_FAILED
    assert not any(map(runs, workers))


def test_told_again_to_stop_it_kills_its_workers_at_once(start: Start) -> None:
    supervised = start("stubborn")
    workers = supervised.workers(2)
    supervised.process.terminate()
    until(lambda: supervised.said("stopping"), "it is stopping")
    supervised.process.terminate()
    assert supervised.process.wait(10) == EXIT_AT_ONCE
    assert not any(map(runs, workers))
