"""The commands of the production profile: each a process of its own, on PostgreSQL."""

import asyncio
from typing import Annotated

import typer

from infra.cli.shared import out, refuse, settings
from infra.settings import Settings

# Every process is imported when it is started: none needs what the others are made of.


def production() -> Settings:
    """Read the settings of an installation on PostgreSQL."""
    found = settings()
    if not found.database_url:
        raise refuse("Set DATABASE_URL: this process is part of an installation on PostgreSQL.")
    return found


def on_kafka() -> Settings:
    found = production()
    if not found.kafka_bootstrap_servers:
        raise refuse("Set KAFKA_BOOTSTRAP_SERVERS: the relay copies the log there.")
    return found


def migrate() -> None:
    """Bring the database up to date; safe to run twice, and by several at once."""
    from infra.postgres.migrations import SchemaIsNewer, migrate  # noqa: PLC0415

    try:
        version = migrate(production().database_url, tell=out.print)
    except SchemaIsNewer as error:
        raise refuse(str(error)) from error
    out.print(f"The schema is at version {version}.")


def relay() -> None:
    """Copy the log to Kafka."""
    from infra.cli.relay import relay  # noqa: PLC0415

    raise typer.Exit(relay(on_kafka()))


def worker() -> None:
    """Keep runs going, beside any number of other workers."""
    from infra.worker import serve  # noqa: PLC0415

    raise typer.Exit(asyncio.run(serve(production())))


def health(
    process: Annotated[str, typer.Argument(help="`relay`, `projector` or `worker`.")],
) -> None:
    """Tell by the exit code whether this host's process of a kind is alive."""
    from infra.cli.relay import healthy  # noqa: PLC0415

    raise typer.Exit(healthy(production(), process))
