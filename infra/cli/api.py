"""`automatos api`."""

from typing import Annotated

import typer

from infra.cli.shared import out, refuse, settings

WORKERS_MAX = 64


def api(
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=WORKERS_MAX, help="Processes on the one port, if not WORKERS."),
    ] = None,
) -> None:
    """Serve the API on PostgreSQL (DATABASE_URL, REDIS_URL, PORT)."""
    # Imported here: the other commands start faster without the web server.
    from infra.api import serve_api  # noqa: PLC0415
    from infra.postgres.migrations import SchemaIsNewer, SchemaIsOld  # noqa: PLC0415
    from infra.server import CannotListen  # noqa: PLC0415

    found = settings()
    if not found.database_url:
        raise refuse("DATABASE_URL is needed; `automatos serve` needs no database.")
    try:
        code = serve_api(
            found, workers or found.workers, lambda line: out.print(line, markup=False)
        )
    except (CannotListen, SchemaIsNewer, SchemaIsOld) as error:
        raise refuse(str(error)) from error
    raise typer.Exit(code)
