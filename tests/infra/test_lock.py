"""Only one process at a time does what only one may do in a folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.lock import FolderIsInUse, FolderLock

HOLDER = """\
import sys
from pathlib import Path
from infra.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_in_use_is_refused_with_the_name_of_its_holder(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    with pytest.raises(FolderIsInUse, match=rf"\(process {os.getpid()}\) is using {tmp_path}"):
        FolderLock(tmp_path)
    held.release()


def test_a_released_folder_can_be_taken_again(tmp_path: Path) -> None:
    FolderLock(tmp_path).release()
    FolderLock(tmp_path).release()


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    FolderLock(tmp_path / "new" / "folder").release()
    assert (tmp_path / "new" / "folder").is_dir()


def test_different_purposes_do_not_exclude_each_other(tmp_path: Path) -> None:
    serving = FolderLock(tmp_path)
    FolderLock(tmp_path, "rebuild").release()
    serving.release()


def test_a_lock_dies_with_its_holder_however_that_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(FolderIsInUse, match=f"process {holder.pid}"):
            FolderLock(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    FolderLock(tmp_path).release()
