"""`automatos agents`."""

from pathlib import Path
from typing import Annotated

import typer

from infra.agent_import import Imported, import_agents
from infra.claude_format import NotAPlugin
from infra.cli.shared import notes, out, progress, refuse, with_writing
from infra.writing import Writing

app = typer.Typer(help="Agents of the local workspace.", no_args_is_help=True)


@app.callback()
def agents() -> None:
    """Agents of the local workspace."""


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A marketplace, a plugin, a folder or an .md file.")],
) -> None:
    """Import agents in the Claude format. A second import changes nothing."""

    async def work(writing: Writing) -> Imported:
        workspace_id = await writing.local_workspace()
        with progress() as bar:
            task = bar.add_task("importing agents", total=None)
            return await import_agents(
                writing,
                workspace_id,
                path,
                lambda done, total: bar.update(task, completed=done, total=total),
            )

    try:
        imported = with_writing(work)
    except NotAPlugin as error:
        raise refuse(str(error)) from error
    report(imported)
    if imported.refused:
        raise typer.Exit(1)


def report(imported: Imported) -> None:
    """Tell what became of every file."""
    counts = ", ".join(f"{count} {what}" for what, count in sorted(imported.counts.items()))
    out.print(f"{imported.files} agent files: {counts or 'none imported'}", markup=False)
    if imported.refused:
        out.print(f"{len(imported.refused)} refused:")
    for refused in imported.refused:
        notes.print(f"  {refused.path}: {refused.reason}", markup=False)
