"""A PostgreSQL server that copies another one, and takes its place when that one is lost."""

import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import psycopg

from tests.servers.postgres import NEWEST, PREPARE_MAX_S, as_user, binaries_of, program
from tests.servers.server import Server, free_port, until

NAME = "standby"
PROMOTE_MAX_S = 60


def standby(*, source: str, major: int = NEWEST, owners: Sequence[int] = ()) -> Server:
    """Make a standby of the server at a URL."""
    port, binaries = free_port(), binaries_of(major)
    copy = partial(_copy, binaries, source)
    settings = {"wal_retrieve_retry_interval": "100ms"}
    ready = "database system is ready to accept read-only connections"
    return Server(
        program(binaries, port, prepare=copy, ready=ready, settings=settings), port, owners=owners
    )


def _copy(binaries: Path, source: str, folder: Path) -> None:
    data, named = folder / "data", f"{source}?application_name={NAME}"
    done = subprocess.run(
        [binaries / "pg_basebackup", "-d", named, "-D", data, "-R", "-c", "fast", "--no-sync"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PREPARE_MAX_S,
        check=False,
        **as_user(),
    )
    if done.returncode != 0:
        raise OSError(f"pg_basebackup failed:\n{done.stdout}{done.stderr}")


def wait_for_standby(primary: Server, *, wait: bool) -> None:
    """Have commits of the primary wait for its standby, or not; once that has caught up."""
    _configure(primary, f"synchronous_standby_names = '{NAME if wait else ''}'")
    state = "sync" if wait else "async"
    until(
        lambda: _asked(primary, "SELECT sync_state FROM pg_stat_replication") == [(state,)],
        lambda: f"the standby has not become {state}:\n{primary.log[-2_000:]}",
    )


def promote(standby: Server) -> None:
    """Make a standby the primary, which waits for no other one."""
    assert _asked(standby, f"SELECT pg_promote(true, {PROMOTE_MAX_S})") == [(True,)]
    _configure(standby, "synchronous_standby_names = ''")


def _configure(server: Server, setting: str) -> None:
    _asked(server, f"ALTER SYSTEM SET {setting}")
    _asked(server, "SELECT pg_reload_conf()")


def _asked(server: Server, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(server.url, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []
