"""`automatos keys`."""

from typing import Annotated

import typer

from commands.identity import KEY_NAME_MAX
from infra.cli.shared import out, refuse, user_name, with_writing
from infra.composition import Writing

app = typer.Typer(help="API keys of the local workspace.", no_args_is_help=True)


@app.callback()
def keys() -> None:
    """API keys of the local workspace."""


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "made on the command line",
    holder: Annotated[str, typer.Option(help="Whom it is for; stored sealed.")] = "",
) -> None:
    """Make an API key and print it, and nothing else. It is not shown again."""
    if not 1 <= len(name) <= KEY_NAME_MAX:
        raise refuse(f"A key's name has 1 to {KEY_NAME_MAX} characters.")

    async def make(writing: Writing) -> str:
        workspace_id = await writing.local_workspace()
        return await writing.create_key(workspace_id, name, holder or user_name())

    out.print(with_writing(make), markup=False)
