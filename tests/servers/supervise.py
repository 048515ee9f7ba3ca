"""Run a server while its owners live: `supervise.py OWNERS USER SIGNAL FOLDER COMMAND…`.

Owners are process ids, with commas; the user is a number or empty. When an
owner is gone, be it by SIGKILL, the server is sent the signal, then killed with
all of its processes, and the folder is removed. The first line of output is the
server's process id.
Uses the standard library alone: it runs without site-packages, so that it
starts fast and no coverage is taken of it.
"""

import ctypes
import os
import select
import shutil
import signal
import sys
from pathlib import Path
from time import monotonic, sleep

STOP_S = 3.0
POLL_S = 0.02
PR_SET_PDEATHSIG = 1

LIBC = ctypes.CDLL(None)


def processes(pid: int) -> list[int]:
    """Give a process and all below it: PostgreSQL's lead process groups of their own."""
    found = [pid]
    for parent in found:
        try:
            tasks = list(Path(f"/proc/{parent}/task").iterdir())
            found += [int(child) for task in tasks for child in _children(task)]
        except FileNotFoundError:
            continue
    return found


def _children(task: Path) -> list[str]:
    return (task / "children").read_text().split()


def signal_all(pid: int, number: int) -> None:
    for process in processes(pid):
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue


def kill_all(pid: int) -> None:
    """Kill a server at one moment: stopped first, so that none of it sees another die."""
    signal_all(pid, signal.SIGSTOP)
    signal_all(pid, signal.SIGKILL)


def _die_with_the_supervisor() -> None:
    """Ask for it after the user has changed: a change of user makes Linux forget it."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _spawn(command: list[str], user: str) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            _become(user)
            _die_with_the_supervisor()
            if os.getppid() == parent:
                os.dup2(2, 1)
                os.execvp(command[0], command)
        finally:
            os._exit(1)
    return pid


def _become(user: str) -> None:
    if user:
        os.setgroups([])
        os.setgid(int(user))
        os.setuid(int(user))


def _ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def _stop(pid: int, number: int) -> None:
    signal_all(pid, signal.SIGCONT)
    os.kill(pid, number)
    deadline = monotonic() + STOP_S
    while not _ended(pid):
        if monotonic() > deadline:
            kill_all(pid)
            os.waitpid(pid, 0)
            return
        sleep(POLL_S)


def main() -> int:
    owners, user, number, folder, *command = sys.argv[1:]
    try:
        owned_by = [os.pidfd_open(int(owner)) for owner in owners.split(",")]
    except ProcessLookupError:
        shutil.rmtree(folder, ignore_errors=True)
        return 1
    pid = _spawn(command, user)
    server = os.pidfd_open(pid)
    os.write(1, b"%d\n" % pid)
    os.close(1)
    gone, _, _ = select.select([*owned_by, server], [], [])
    if server in gone:
        os.waitpid(pid, 0)
    else:
        _stop(pid, int(number))
    if gone != [server]:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
