"""The commands, and what each is for."""

import typer

from infra.cli import agents, api, demo, doctor, events, keys, production, projector, rebuild
from infra.cli.shared import refuse, settings

app = typer.Typer(
    name="automatos",
    help="Automatos: an event-sourced backend for AI agents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(agents.app, name="agents")
app.add_typer(events.app, name="events")
app.add_typer(keys.app, name="keys")
app.add_typer(projector.app, name="projector")
app.command("api")(api.api)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("rebuild")(rebuild.rebuild)
app.command("migrate")(production.migrate)
app.command("relay")(production.relay)
app.command("worker")(production.worker)
app.command("health")(production.health)


@app.command()
def serve() -> None:
    """Serve everything in one process, on one folder (PORT, DATA_DIR)."""
    # Imported here: the other commands start faster without the web server.
    from infra.server import CannotListen, serve  # noqa: PLC0415

    try:
        code = serve(settings())
    except CannotListen as error:
        raise refuse(str(error)) from error
    raise typer.Exit(code)
