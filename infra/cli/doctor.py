"""`automatos doctor`: what is set, and whether it works."""

import os
import platform
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import DatabaseError

from domain.effective import Told, told
from domain.events import WorkspaceId
from domain.settings import WorkspaceSettings
from infra.cli.shared import out, refuse, settings, with_writing
from infra.composition import PROJECTORS
from infra.failpoints import failpoint
from infra.installed import installed
from infra.lock import FolderIsInUse, FolderLock
from infra.read_store import open_engine, positions
from infra.settings import LOCAL_KEY_NAMES, PREFIX, UNPREFIXED, Settings
from infra.writing import Writing


class Damaged(Exception):
    """SQLite does not find a file whole."""


class Check(NamedTuple):
    name: str
    passed: bool
    detail: str


def doctor(
    workspace: Annotated[
        str, typer.Option(help="Its system settings count, too; without it nobody's do.")
    ] = "",
) -> None:
    """Show the effective settings, secrets masked, and check the installation."""
    found = settings()
    known = _told(found, WorkspaceId(workspace))
    out.print(_table(found))
    out.print(_chosen(known))
    checks = [_attempt(name, check, found) for name, check in _CHECKS.items()]
    for check in checks:
        mark = "ok  " if check.passed else "FAIL"
        out.print(f"{mark}  {check.name}: {check.detail}", markup=False)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


def _table(found: Settings) -> Table:
    table = Table("setting", "value", "from")
    for name, value in found.shown().items():
        table.add_row(name, value, _source(name))
    return table


def _source(name: str) -> str:
    upper = name.upper()
    if name == "api_key" and os.environ.get(LOCAL_KEY_NAMES[0]):
        return LOCAL_KEY_NAMES[0]
    if PREFIX + upper in os.environ:
        return PREFIX + upper
    return upper if upper in UNPREFIXED and os.environ.get(upper) else "default"


def _told(found: Settings, workspace_id: WorkspaceId) -> list[Told]:
    if not workspace_id:
        return told(WorkspaceSettings(), installed(found))
    if not found.database_url and not (found.data_dir / "events.db").exists():
        raise refuse("There is no workspace yet.")

    async def work(writing: Writing) -> list[Told] | None:
        head = await writing.store.workspace_head(workspace_id)
        return await writing.system_settings.told(workspace_id) if head else None

    known = with_writing(work)
    if known is None:
        raise refuse(f"There is no workspace {workspace_id}.")
    return known


def _chosen(known: list[Told]) -> Table:
    table = Table("system setting", "value", "from")
    for each in known:
        table.add_row(each.name, Text(each.effective or ""), each.source)
    return table


def _attempt(name: str, check: Callable[[Settings], str], found: Settings) -> Check:
    try:
        return Check(name, passed=True, detail=check(found))
    except (OSError, sqlite3.Error, DatabaseError, Damaged) as error:
        return Check(name, passed=False, detail=str(getattr(error, "orig", error)))


def _versions(_: Settings) -> str:
    return f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"


def _folder(found: Settings) -> str:
    failpoint("doctor.before_folder")
    found.data_dir.mkdir(parents=True, exist_ok=True)
    probe = found.data_dir / ".doctor"
    failpoint("doctor.before_probe")
    probe.write_text("writable")
    failpoint("doctor.before_unlink")
    probe.unlink()
    return f"{found.data_dir.resolve()} is writable"


def _server(found: Settings) -> str:
    try:
        FolderLock(found.data_dir).release()
    except FolderIsInUse:
        return "a server is using the folder"
    return "no server is using the folder"


def _log(found: Settings) -> str:
    path = found.data_dir / "events.db"
    if not path.exists():
        return "no events yet"
    with _intact(path) as database:
        (count,) = database.execute("SELECT count(*) FROM stored_events").fetchone()
    return f"{count} events, file intact"


def _keys(found: Settings) -> str:
    path = found.data_dir / "keys.db"
    if not path.exists():
        if (found.data_dir / "events.db").exists():
            raise Damaged("keys.db is missing: what its keys sealed cannot be read")
        return "none yet"
    with _intact(path) as database:
        (count,) = database.execute("SELECT count(*) FROM keys").fetchone()
    return f"{count} keys, file intact"


def _intact(path: Path) -> closing[sqlite3.Connection]:
    """Open a file that SQLite finds whole.

    Raises:
        Damaged: It is not.
    """
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        database.close()
        raise Damaged(f"the file is damaged: {verdict}")
    return closing(database)


def _read_models(found: Settings) -> str:
    path = found.data_dir / "read_models.db"
    if not path.exists():
        return "none yet"
    with _intact(path):
        pass
    with _intact(found.data_dir / "events.db") as database:
        head = database.execute("SELECT max(position) FROM stored_events").fetchone()[0] or 0
    engine = open_engine(path)
    behind = {name: head - at for name, at in positions(engine, PROJECTORS).items() if at < head}
    engine.dispose()
    return ", ".join(_lags(behind)) or "all up to date"


def _lags(behind: dict[str, int]) -> Iterator[str]:
    for name, count in behind.items():
        yield f"{name} is {count} events behind"


_CHECKS: dict[str, Callable[[Settings], str]] = {
    "versions": _versions,
    "folder": _folder,
    "server": _server,
    "log": _log,
    "keys": _keys,
    "read models": _read_models,
}
