"""One server per folder: an advisory lock that dies with its holder."""

import fcntl
import os
from pathlib import Path
from typing import IO


class FolderIsInUse(Exception):
    """Another process serves the folder."""


class FolderLock:
    """Hold it as long as the process is the folder's only server and worker."""

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            FolderIsInUse: Another process holds it; the message names it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = (folder / "server.lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise FolderIsInUse(
                f"Another automatos server (process {holder}) is using {folder}. "
                "Stop it first, or choose another folder with DATA_DIR."
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        self._file.close()
