"""`automatos projector`: the process, and what it has parked."""

from collections.abc import Sequence
from typing import Annotated

import typer
from sqlalchemy import Engine

from commands.audit import AuditCommands
from domain.errors import Invalid
from domain.events import WorkspaceId
from infra.cli.shared import out, refuse, settings, user_name, with_writing
from infra.composition import PROJECTORS
from infra.failpoints import failpoint
from infra.parking import Parked, Place, bring_back, parked
from infra.read_store import open_engine
from infra.settings import Settings
from infra.writing import Writing
from projections.projector import Projector

EXIT_STILL_PARKED = 1

app = typer.Typer(help="Project events into read models.", invoke_without_command=True)

ProjectorName = Annotated[str, typer.Argument(metavar="PROJECTOR", help="A read model's name.")]
Workspace = Annotated[str, typer.Argument(metavar="WORKSPACE", help="A workspace's id.")]


@app.callback()
def run(
    context: typer.Context,
    only: Annotated[list[str] | None, typer.Option(help="Project these alone.")] = None,
) -> None:
    """Project events into read models until SIGTERM (DATABASE_URL, KAFKA_BOOTSTRAP_SERVERS)."""
    if context.invoked_subcommand is None:
        found = settings()
        if not found.database_url:
            raise refuse("DATABASE_URL is needed; without it `automatos serve` projects by itself.")
        raise typer.Exit(projector(found, only or []))


def projector(found: Settings, names: Sequence[str]) -> int:
    """Project until SIGTERM; give the exit code.

    Args:
        names: Of projectors; all of them if there are none.
    """
    from infra.projector_process import serve  # noqa: PLC0415

    return serve(found, [_projector(name) for name in names] or PROJECTORS)


@app.command("parked")
def list_parked() -> None:
    """List the workspaces that projectors skip, and why."""

    async def work(writing: Writing) -> list[Parked]:
        engine = _engine(writing.settings)
        try:
            return parked(engine)
        finally:
            engine.dispose()

    found = with_writing(work)
    for each in found:
        out.print(_line(each), markup=False)
    if not found:
        out.print("nothing is parked")


@app.command()
def retry(name: ProjectorName, workspace: Workspace) -> None:
    """Project what a parked workspace has missed; then it goes on as before."""
    _end(name, workspace, None)


@app.command()
def skip(
    name: ProjectorName,
    workspace: Workspace,
    reason: Annotated[str, typer.Option(help="Why; it is recorded in the workspace.")],
) -> None:
    """Do the same without the event at which the workspace is parked."""
    _end(name, workspace, reason)


def _end(name: str, workspace: str, reason: str | None) -> None:
    chosen = _projector(name)

    async def work(writing: Writing) -> Parked | None:
        engine = _engine(writing.settings)
        try:
            place = Place(chosen, WorkspaceId(workspace), partition(writing.settings, workspace))
            return await _brought_back(writing, engine, place, reason)
        finally:
            engine.dispose()

    try:
        again = with_writing(work)
    except Invalid as error:
        raise refuse(str(error)) from error
    if again is not None:
        out.print(f"parked again: {_line(again)}", markup=False)
        raise typer.Exit(EXIT_STILL_PARKED)
    out.print(f"{name}: {workspace} goes on", markup=False)


async def _brought_back(
    writing: Writing, engine: Engine, place: Place, reason: str | None
) -> Parked | None:
    name, workspace_id = place.projector.name, place.workspace_id
    found = next((p for p in parked(engine) if p[:2] == (name, workspace_id)), None)
    if found is None:
        raise refuse(f"{name} has not parked the workspace {workspace_id!r}.")
    commands = AuditCommands(writing.transactions)
    issued = writing.issued(workspace_id, f"cli:{user_name()}")
    if reason is None:
        await commands.retry_slice(name, found.position, issued)
    else:
        await commands.skip_event(name, found.position, reason, issued)
    failpoint("unpark.audited")
    skipped = None if reason is None else found.position
    return await bring_back(writing.store.log, engine, place, skipped=skipped)


def _projector(name: str) -> Projector:
    for each in PROJECTORS:
        if each.name == name:
            return each
    known = ", ".join(p.name for p in PROJECTORS)
    raise refuse(f"There is no read model called {name!r}: {known}.")


def _engine(chosen: Settings) -> Engine:
    if not chosen.database_url:
        return open_engine(chosen.data_dir / "read_models.db")
    # Imported here: the embedded profile does without the drivers.
    from infra.postgres import reads  # noqa: PLC0415

    return reads.open_engine(chosen.database_url, pool_size=2)


def partition(chosen: Settings, workspace: str) -> int:
    """Tell in which partition a workspace is."""
    if not chosen.database_url:
        return 0
    from infra.kafka.records import partition_of  # noqa: PLC0415

    return partition_of(workspace, chosen.kafka_partitions)


def _line(each: Parked) -> str:
    waits = f"  (tries left: {each.tries_left})" if each.tries_left else ""
    return (
        f"{each.projector}  {each.workspace_id}  position {each.position}  {each.stream_id}"
        f"  {each.occurred_at:%Y-%m-%d %H:%M:%S}  {each.error}{waits}"
    )
