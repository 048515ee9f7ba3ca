"""`automatos rebuild`."""

from typing import Annotated

import msgspec
import typer
from sqlalchemy import Engine

from infra.cli.shared import out, progress, refuse, settings, with_writing
from infra.composition import PROJECTORS, Writing
from infra.lock import FolderLock
from infra.read_store import digest, open_engine
from infra.read_store import rebuild as rebuild_model
from projections.projector import Projector, checkpoint

ALL = "all"


def rebuild(
    name: Annotated[str, typer.Argument(help="A read model's name, or `all`.")],
) -> None:
    """Make a read model anew from the log, beside the live one, and swap it in."""
    chosen = [p for p in PROJECTORS if name in (p.name, ALL)]
    if not chosen:
        known = ", ".join(p.name for p in PROJECTORS)
        raise refuse(f"There is no read model called {name!r}: {known}, or {ALL}.")
    lock = FolderLock(settings().data_dir, "rebuild")
    try:
        for projector in chosen:
            _rebuild(projector)
    finally:
        lock.release()


class _Rows(msgspec.Struct, frozen=True):
    """What a read model holds, and which events made it."""

    position: int
    sha256: str


def _rows(engine: Engine, projector: Projector) -> _Rows:
    with engine.begin() as connection:
        return _Rows(checkpoint(connection, projector.name), digest(connection, projector))


def _rebuild(projector: Projector) -> None:
    async def work(writing: Writing) -> tuple[_Rows, _Rows]:
        engine = open_engine(writing.settings.data_dir / "read_models.db")
        before = _rows(engine, projector)
        with progress() as bar:
            task = bar.add_task(f"rebuilding {projector.name}", total=None)
            await rebuild_model(
                writing.store,
                engine,
                projector,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
        after = _rows(engine, projector)
        engine.dispose()
        return before, after

    before, after = with_writing(work)
    verdict = _compared(before, after)
    out.print(f"{projector.name}: rebuilt up to position {after.position}, {verdict}", markup=False)
    out.print(f"  sha256 {after.sha256}", markup=False)


def _compared(before: _Rows, after: _Rows) -> str:
    """Rows can only be compared where the same events made them."""
    if before.position != after.position:
        return f"from position {before.position} before"
    return "the same rows as before" if before == after else "NOT the rows it had before"
