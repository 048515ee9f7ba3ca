"""`automatos keys`."""

from datetime import timedelta
from typing import Annotated

import typer

from commands.identity import KEY_LASTS, KEY_LASTS_MAX, KEY_NAME_MAX
from domain.errors import NotFound
from domain.events import WorkspaceId
from domain.identity import KeyId
from infra.cli.shared import out, refuse, user_name, with_writing
from infra.writing import Writing

app = typer.Typer(help="API keys of the local workspace.", no_args_is_help=True)

HOW_LONG = "How long it lasts; else 90 days with PostgreSQL, and for ever without."
OF_THE_PLATFORM = "Of the platform workspace, whose keys operate the installation."


@app.callback()
def keys() -> None:
    """API keys of the local workspace."""


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "made on the command line",
    holder: Annotated[str, typer.Option(help="Whom it is for; stored sealed.")] = "",
    days: Annotated[int | None, typer.Option(min=1, max=KEY_LASTS_MAX.days, help=HOW_LONG)] = None,
    *,
    platform: Annotated[bool, typer.Option("--platform", help=OF_THE_PLATFORM)] = False,
) -> None:
    """Make an API key and print it, and nothing else. It is not shown again."""
    if not 1 <= len(name) <= KEY_NAME_MAX:
        raise refuse(f"A key's name has 1 to {KEY_NAME_MAX} characters.")

    async def make(writing: Writing) -> str:
        workspace_id = await _workspace(writing, platform=platform)
        lasts = timedelta(days=days) if days else None
        if lasts is None and writing.settings.database_url:
            lasts = KEY_LASTS
        return await writing.create_key(workspace_id, name, holder or user_name(), lasts=lasts)

    out.print(with_writing(make), markup=False)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The ten characters after `atk_live_`.")],
    *,
    platform: Annotated[bool, typer.Option("--platform", help=OF_THE_PLATFORM)] = False,
) -> None:
    """Make a key open nothing any more; running servers follow within seconds."""

    async def work(writing: Writing) -> None:
        workspace_id = await _workspace(writing, platform=platform)
        issued = writing.issued(workspace_id, "cli:keys")
        await writing.identity.revoke_key(KeyId(key_id), issued)

    try:
        with_writing(work)
    except NotFound as error:
        raise refuse(f"{error}: {key_id}") from error
    out.print(f"API key {key_id} is revoked", markup=False)


async def _workspace(writing: Writing, *, platform: bool) -> WorkspaceId:
    return await (writing.platform_workspace() if platform else writing.local_workspace())
