"""Disks that fill up and are made free again, under a server that goes on.

Where a file system may be mounted it is a real one. Everywhere else SQLite's
own limit of pages refuses in the same way: `python -m tests.e2e.full_disk
serve` is `automatos serve` whose databases grow no more from SIGUSR1 to SIGUSR2.
"""

import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from tests.e2e.installation import Server, until

DISK_BYTES = 24 * 1024 * 1024
CHUNK = bytes(64 * 1024)
PAGES_MAX = 2**30


class Disk(Protocol):
    folder: Path
    module: str

    def fill(self, server: Server) -> None: ...
    def free(self, server: Server) -> None: ...


class SmallDisk:
    """A file system of its own in memory."""

    module = "infra"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, server: Server) -> None:
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(CHUNK)

    def free(self, server: Server) -> None:
        self._ballast.unlink()


class FewPages:
    """Databases that may not grow."""

    module = "tests.e2e.full_disk"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, server: Server) -> None:
        server.process.send_signal(signal.SIGUSR1)
        until(lambda: "full: True" in server.output, "the databases grow no more")

    def free(self, server: Server) -> None:
        server.process.send_signal(signal.SIGUSR2)
        until(lambda: "full: False" in server.output, "the databases may grow")


def can_mount() -> bool:
    """A container's root may not; a private namespace leaves nothing behind."""
    if os.geteuid() != 0:
        return False
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _mount(*arguments: str) -> int:
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", *arguments]
    return subprocess.run(command, capture_output=True, check=False).returncode


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    folder.mkdir()
    assert _mount(str(folder)) == 0
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class _Limited:
    """Every connection of this process."""

    def __init__(self) -> None:
        self._connect: Callable[..., sqlite3.Connection] = sqlite3.connect
        self._connections: list[sqlite3.Connection] = []
        self._full = False

    def connect(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = self._connect(*arguments, **options)
        self._connections.append(connection)
        self._limit(connection)
        return connection

    def _limit(self, connection: sqlite3.Connection) -> None:
        # A limit below the file's size is that size.
        with suppress(sqlite3.ProgrammingError):
            connection.execute(f"PRAGMA max_page_count = {1 if self._full else PAGES_MAX}")

    def set(self, *, full: bool) -> None:
        self._full = full
        for connection in self._connections:
            self._limit(connection)
        os.write(1, f"full: {full}\n".encode())


def main() -> None:
    import sqlite3.dbapi2

    limited = _Limited()
    sqlite3.connect = sqlite3.dbapi2.connect = limited.connect  # type: ignore[assignment]
    signal.signal(signal.SIGUSR1, lambda *_: limited.set(full=True))
    signal.signal(signal.SIGUSR2, lambda *_: limited.set(full=False))
    from infra.__main__ import main

    main()


if __name__ == "__main__":
    main()
