"""`automatos rebuild`."""

from typing import Annotated

import typer

from infra.cli.shared import out, progress, refuse, with_writing
from infra.composition import PROJECTORS, Writing
from infra.read_store import digest, open_engine
from infra.read_store import rebuild as rebuild_model
from projections.projector import Projector

ALL = "all"


def rebuild(
    name: Annotated[str, typer.Argument(help="A read model's name, or `all`.")],
) -> None:
    """Make a read model anew from the log, beside the live one, and swap it in."""
    chosen = [p for p in PROJECTORS if name in (p.name, ALL)]
    if not chosen:
        known = ", ".join(p.name for p in PROJECTORS)
        raise refuse(f"There is no read model called {name!r}: {known}, or {ALL}.")
    for projector in chosen:
        _rebuild(projector)


def _rebuild(projector: Projector) -> None:
    async def work(writing: Writing) -> tuple[int, str, str]:
        engine = open_engine(writing.settings.data_dir / "read_models.db")
        with engine.begin() as connection:
            before = digest(connection, projector)
        with progress() as bar:
            task = bar.add_task(f"rebuilding {projector.name}", total=None)
            position = await rebuild_model(
                writing.store,
                engine,
                projector,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
        with engine.begin() as connection:
            after = digest(connection, projector)
        engine.dispose()
        return position, before, after

    position, before, after = with_writing(work)
    same = "the same rows as before" if before == after else "not the rows it had before"
    out.print(f"{projector.name}: rebuilt up to position {position}, {same}", markup=False)
    out.print(f"  sha256 {after}", markup=False)
