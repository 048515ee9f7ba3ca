"""One server per folder: an advisory lock that dies with its holder."""

import fcntl
import os
from pathlib import Path
from typing import IO

from infra.failpoints import failpoint


class FolderIsInUse(Exception):
    """Another process serves the folder."""


class FolderLock:
    """Hold it as long as the process is the only one that does something in the folder.

    Args:
        purpose: What only one may do: a `server` is also the folder's only worker.
    """

    def __init__(self, folder: Path, purpose: str = "server") -> None:
        """Take the lock.

        Raises:
            FolderIsInUse: Another process holds it; the message names it.
        """
        failpoint("lock.before_folder")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        failpoint("lock.before_file")
        self._file: IO[str] = (folder / f"{purpose}.lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise FolderIsInUse(
                f"Another automatos {purpose} (process {holder}) is using {folder}. "
                "Stop it first, or choose another folder with DATA_DIR."
            ) from None
        failpoint("lock.taken")
        self._file.truncate(0)
        failpoint("lock.emptied")
        self._file.write(str(os.getpid()))
        self._file.flush()
        failpoint("lock.written")

    def release(self) -> None:
        self._file.close()
