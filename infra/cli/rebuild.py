"""`automatos rebuild`."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, TypeAlias

import msgspec
import typer
from sqlalchemy import Engine

from infra.cli.projector import partition
from infra.cli.shared import out, progress, refuse, settings, with_writing
from infra.composition import PROJECTORS
from infra.event_store.store import EventStore
from infra.lock import FolderLock
from infra.parking import leave_out_again, parked
from infra.read_store import digest, open_engine
from infra.read_store import rebuild as rebuild_model
from infra.settings import Settings
from infra.writing import Writing
from projections.projector import Projector, checkpoint

ALL = "all"

Tell: TypeAlias = Callable[[int, int], None]
Beside: TypeAlias = Callable[[EventStore, Tell], Awaitable[None]]
"""Rebuilds one read model from a store, and tells how far it is."""


def rebuild(
    name: Annotated[str, typer.Argument(help="A read model's name, or `all`.")],
) -> None:
    """Make a read model anew from the log, beside the live one, and swap it in."""
    chosen = [p for p in PROJECTORS if name in (p.name, ALL)]
    if not chosen:
        known = ", ".join(p.name for p in PROJECTORS)
        raise refuse(f"There is no read model called {name!r}: {known}, or {ALL}.")
    chosen_settings = settings()
    work = _in_database if chosen_settings.database_url else _in_folder
    work(chosen_settings, chosen)


def _in_folder(found: Settings, chosen: Sequence[Projector]) -> None:
    lock = FolderLock(found.data_dir, "rebuild")
    engine = open_engine(found.data_dir / "read_models.db")
    try:
        for projector in chosen:
            _rebuild(engine, projector, 1, partial(_beside_file, engine, projector))
    finally:
        engine.dispose()
        lock.release()


def _in_database(found: Settings, chosen: Sequence[Projector]) -> None:
    # Imported here: the embedded profile does without the drivers.
    from infra.postgres.rebuilding import (  # noqa: PLC0415
        RebuildIsUnderWay,
        open_owner_engine,
        rebuild_in_database,
    )

    engine, partitions = open_owner_engine(found.database_url), found.kafka_partitions

    async def beside(projector: Projector, store: EventStore, tell: Tell) -> None:
        await rebuild_in_database(store, found.database_url, projector, partitions, tell)

    try:
        for projector in chosen:
            _rebuild(engine, projector, partitions, partial(beside, projector))
    except RebuildIsUnderWay as error:
        raise refuse(str(error)) from error
    finally:
        engine.dispose()


async def _beside_file(engine: Engine, projector: Projector, store: EventStore, tell: Tell) -> None:
    await rebuild_model(store, engine, projector, tell)


class _Rows(msgspec.Struct, frozen=True):
    """What a read model holds, and which events made it."""

    position: int
    sha256: str


def _rows(engine: Engine, projector: Projector, partitions: int) -> _Rows:
    with engine.begin() as connection:
        position = max(checkpoint(connection, projector.name, n) for n in range(partitions))
        return _Rows(position, digest(connection, projector))


def _rebuild(engine: Engine, projector: Projector, partitions: int, beside: Beside) -> None:
    async def work(writing: Writing) -> tuple[_Rows, _Rows]:
        before = _rows(engine, projector, partitions)
        with progress() as bar:
            task = bar.add_task(f"rebuilding {projector.name}", total=None)
            await beside(
                writing.store,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
        of = partial(partition, writing.settings)
        await leave_out_again(writing.store.log, engine, projector, of)
        return before, _rows(engine, projector, partitions)

    before, after = with_writing(work)
    verdict = _compared(before, after)
    out.print(f"{projector.name}: rebuilt up to position {after.position}, {verdict}", markup=False)
    out.print(f"  sha256 {after.sha256}", markup=False)
    skipped = sum(each.projector == projector.name for each in parked(engine))
    if skipped:
        out.print(f"  parked workspaces: {skipped}; see `automatos projector parked`", markup=False)


def _compared(before: _Rows, after: _Rows) -> str:
    """Rows can only be compared where the same events made them."""
    if before.position != after.position:
        return f"from position {before.position} before"
    return "the same rows as before" if before == after else "NOT the rows it had before"
